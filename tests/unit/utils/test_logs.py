"""Log messages of the command line: unformatted, on the stderr that is current when they are logged."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from orchestrator.utils import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in logs.ROOTS]
    before = [(list(logger.handlers), logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)


def test_messages_are_written_once_and_unformatted_to_the_current_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    logs.configure()
    logs.configure()
    now = io.StringIO()
    monkeypatch.setattr(sys, "stderr", now)
    logging.getLogger("orchestrator.models.resolve").info("fetching the %s", "weights")
    logging.getLogger("workers.actor").debug("not shown")
    assert now.getvalue() == "fetching the weights\n"


def test_a_level_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    logs.configure(logging.WARNING)
    now = io.StringIO()
    monkeypatch.setattr(sys, "stderr", now)
    logging.getLogger("orchestrator").info("quiet")
    logging.getLogger("orchestrator").warning("loud")
    assert now.getvalue() == "loud\n"
