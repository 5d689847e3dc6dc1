"""The option that makes fuzzing longer."""

from __future__ import annotations

import os

import pytest

from tests.fuzz.fuzzing import FACTOR_VARIABLE


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-factor", type=int, default=None, help="multiply the number of inputs, and draw new ones")


def pytest_configure(config: pytest.Config) -> None:
    factor = config.getoption("--fuzz-factor", None)
    if factor is not None:
        os.environ[FACTOR_VARIABLE] = str(factor)
