"""Progress of the finetuning process on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from orchestrator.utils.sanitize import sanitize

LINE_INTERVAL = 15.0  # seconds between two lines if stderr is not a terminal


class Advance(Protocol):
    """Type of the function that a training loop calls as `advance(done, note)` to report its progress."""

    def __call__(self, done: int, note: str = "") -> None:
        """Report that `done` units of the total are done, with an optional note to show."""


@contextmanager
def show_progress(title: str, total: int) -> Iterator[Advance]:
    """Yield a function that reports progress.

    It shows a live bar on a terminal; elsewhere it prints a line at most every LINE_INTERVAL seconds.

    Args:
        title: Text at the start of the bar or line.
        total: Number of units to do.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from orchestrator.utils.safe_console import SafeConsole

    console = SafeConsole(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total)
            yield lambda done, note="": bar.update(task, completed=done, description=f"{title} {note}".rstrip())
    else:
        yield _Lines(title, total)


class _Lines:
    """Print a line at most every LINE_INTERVAL seconds, and one at the end."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total = title, total
        self._started, self._printed_at = time.monotonic(), 0.0

    def __call__(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self._printed_at >= LINE_INTERVAL or done == self._total:
            self._printed_at = now
            left = (now - self._started) / max(done, 1) * (self._total - done)
            line = sanitize(f"{self._title} {done}/{self._total} {note} {left:.0f} s left")
            print(line, file=sys.stderr, flush=True)
