"""Logging of the command line: messages for the user appear on stderr, without level or logger name."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from orchestrator.utils.addresses import shown
from orchestrator.utils.sanitize import sanitize

ROOTS = ("orchestrator", "workers")
"""The loggers that `configure` sets up: one for each top-level package."""


class _SafeFormatter(logging.Formatter):
    """Formatter of messages in which names cannot control the terminal, and buckets are shown by their addresses."""

    def format(self, record: logging.LogRecord) -> str:
        return sanitize(shown(super().format(record)))


class _CurrentStderr(logging.StreamHandler[TextIO]):
    """Handler that looks up `sys.stderr` at every message, because a live display may have replaced it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(_SafeFormatter("%(message)s"))

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("the stream is always sys.stderr")


def configure(level: int = logging.INFO) -> None:
    """Show messages of this level and above on stderr. A second call only changes the level."""
    for name in ROOTS:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        if not any(isinstance(handler, _CurrentStderr) for handler in logger.handlers):
            logger.addHandler(_CurrentStderr())
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home that it can do without


def is_quiet() -> bool:
    """Return whether messages below the level of warnings are hidden, and progress with them."""
    return not logging.getLogger(ROOTS[0]).isEnabledFor(logging.INFO)
