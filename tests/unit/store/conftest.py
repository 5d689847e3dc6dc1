"""A new study for each test of the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.store.study import Study
from tests.unit.store.studies import INFO


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create(tmp_path / "studies", INFO)
