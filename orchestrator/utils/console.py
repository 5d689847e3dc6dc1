"""Durations and progress as people read them: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TextIO

PLAIN_EVERY = 10.0  # seconds between two plain lines


@contextlib.contextmanager
def reading(stream: TextIO, what: str) -> Iterator[Callable[[float], None]]:
    """Shows `reading WHAT` and the time left to whoever looks at `stream`. Yields what hears the share done; where it
    hears nothing, since all was remembered, nothing is shown."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=stream)
    bar = Progress(console=console, transient=True)
    task = bar.add_task(f"reading {what}", total=1.0)
    began = said = time.monotonic()

    def hear(share: float) -> None:
        nonlocal said
        bar.update(task, completed=share)
        now = time.monotonic()
        if console.is_terminal:
            bar.start()
        elif share > 0 and now - said >= PLAIN_EVERY:
            said = now
            left = duration((now - began) * (1 - share) / share)
            print(f"reading {what}: {share:.0%}, {left} left", file=stream, flush=True)

    try:
        yield hear
    finally:
        if console.is_terminal:  # else it would print an empty line
            bar.stop()


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `5 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
