"""Format durations, and show progress: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from orchestrator.utils.logs import is_quiet

PLAIN_EVERY = 10.0
"""Minimum seconds between two progress lines if there is no terminal."""

Progress = Callable[[float], None]
"""A callback that takes the fraction of the work that is done, 0 to 1."""


def ignore_progress(fraction: float) -> None:
    """Ignore the fraction. This is the `Progress` callback for work whose progress is not shown."""


@contextlib.contextmanager
def file_progress(label: str) -> Iterator[Progress]:
    """Show `reading LABEL` and the time left on the current `sys.stderr`.

    Yields:
        The callback that takes the fraction read so far. As long as it is not called, nothing is shown (for example if
        the result is in a cache).
    """
    from rich.progress import Progress as ProgressBar

    from orchestrator.utils.safe_console import SafeConsole

    stream = sys.stderr
    quiet = is_quiet()
    console = SafeConsole(file=stream, quiet=quiet)
    bar = ProgressBar(console=console, transient=True)
    task = bar.add_task(f"reading {label}", total=1.0)
    started = last_line = time.monotonic()

    def update(fraction: float) -> None:
        nonlocal last_line
        bar.update(task, completed=fraction)
        now = time.monotonic()
        if console.is_terminal:
            bar.start()
        elif fraction > 0 and not quiet and now - last_line >= PLAIN_EVERY:
            last_line = now
            left = duration((now - started) * (1 - fraction) / fraction)
            print(f"reading {label}: {fraction:.0%}, {left} left", file=stream, flush=True)

    try:
        yield update
    finally:
        if console.is_terminal:  # else it would print an empty line
            bar.stop()


def duration(seconds: float) -> str:
    """Format a duration: `0.4 s`, `12 s`, `3 min 20 s`, `5 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
