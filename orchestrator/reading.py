"""How far a pass over files of weights is, for people: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from rich.console import Console
from rich.progress import Progress

from orchestrator.wording import duration

PLAIN_EVERY = 10.0  # seconds between two plain lines


@contextlib.contextmanager
def reading(stream: TextIO, what: str) -> Iterator[Callable[[float], None]]:
    """Shows `reading WHAT` and the time left to whoever looks at `stream`. Yields what hears the share done; where it
    hears nothing, since all was remembered, nothing is shown."""
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
