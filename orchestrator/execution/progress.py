"""Progress of a running sweep on stderr: one live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from orchestrator.execution.events import last_line
from orchestrator.execution.placement import describe_wait
from orchestrator.utils.addresses import shown
from orchestrator.utils.console import PLAIN_EVERY, duration
from orchestrator.utils.private import open_to_append
from orchestrator.utils.safe_console import SafeConsole
from orchestrator.utils.sanitize import OptionalStream

REFRESHES = 4  # refreshes of the live display per second
READ_SECONDS = 0.02  # maximum seconds that a refresh spends on reading stored visits for the curve


@contextlib.contextmanager
def redirect_output(console: Console, log: Path) -> Iterator[Console]:
    """Redirect the stdout and stderr of this process and its libraries to a file.

    The terminal then shows the display only. Nothing is redirected if `console` does not write to this process's own
    stderr, as in a test or a notebook.

    Yields:
        The console that still reaches the terminal.
    """
    try:
        is_stderr = console.file.fileno() == 2
    except (OSError, ValueError):
        is_stderr = False
    if not is_stderr:
        yield console
        return
    saved = os.dup(1), os.dup(2)
    terminal = open(os.dup(2), "w", encoding=console.encoding, errors="replace")  # noqa: SIM115 - closing it may fail
    messages = OptionalStream(terminal)
    with open_to_append(log) as file:
        try:
            _flush()
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            with contextlib.redirect_stdout(sys.stderr):  # where a full disk does no harm
                yield SafeConsole(file=cast(TextIO, messages), quiet=console.quiet)
        finally:
            _flush()
            for number, descriptor in zip((1, 2), saved, strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)
            messages.discard_rest()
            terminal.close()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


class Picture(Protocol):
    """A picture of what is measured so far."""

    def add_visit(self, visit: str) -> None:
        """Take note that a visit is stored, by its id."""

    def read(self, seconds: float) -> None:
        """Read what is stored for at most so many seconds."""

    def draw(self, width: int, height: int, unicode: bool) -> Text | None:
        """Return the picture for a terminal of this size, or None if it does not fit."""


class ProgressDisplay:
    """Display of points done, speed, time left, actors, failures and a picture of what is measured so far.

    `observe` takes the dispatcher's events. Lines about single events stay above the live display. Without a terminal
    there is no live display, but a line about the progress at most every PLAIN_EVERY seconds.
    """

    def __init__(self, visits: int, console: Console | None = None, picture: Picture | None = None) -> None:
        self._console = console or SafeConsole(stderr=True)
        self._picture = picture
        self._total = visits
        self._done = self._tokens = self._failed = self._given_up = 0
        self._is_growing = False  # whether verdicts have added visits
        self._loading: set[int] = set()  # slots whose actor is loading
        self._ready: set[int] = set()  # slots whose actor is ready
        self._state = "starting Ray and the engine"
        self._work, self._unit = "measuring", "points"
        self._started = time.monotonic()
        self._first_ready: float | None = None  # when the first actor was ready
        self._last_line = time.monotonic()  # when the last line was printed
        self._unicode = self._console.encoding.lower().startswith("utf")
        self._bar = Progress(
            SpinnerColumn("dots" if self._unicode else "line"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,} of {task.total:,} {task.fields[unit]}"),
            TextColumn("{task.fields[time]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(self._state, total=visits, time="", unit=self._unit)
        self._live = Live(
            get_renderable=self._render, console=self._console, transient=True, refresh_per_second=REFRESHES
        )

    def __enter__(self) -> ProgressDisplay:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        self._print_totals()

    def observe(self, event: str, **fields: Any) -> None:
        """Take one event of the dispatcher (see `events.py`)."""
        slot = fields.get("slot", -1)
        match event:
            case "actor_starting" | "actors_waiting" | "wait_ended" | "actor_ready":
                self._observe_start(event, fields)
            case "visits_added":
                self._add_visits(**fields)
            case "dispatch_finished":
                self._print_use(**fields)
            case "visit_done":
                self._done += 1
                self._tokens += fields["tokens"]
                if self._picture is not None and self._console.is_terminal:
                    self._picture.add_visit(fields["visit"])
                self._print_progress()
            case "continuations_queued":
                self._begin_reading(fields["continuations"])
            case "continuations_done":
                self._done += fields["continuations"]
                self._tokens += fields["tokens"]
                self._print_progress()
            case "continuations_given_up":
                self.print_line(f"given up after {len(fields['story'])} tries: responses to read at the origin")
            case "visit_failed" | "continuations_failed" | "actor_died" | "actor_failed_to_start":
                self._failed += 1
                if event not in ("visit_failed", "continuations_failed"):
                    self._loading.discard(slot)
                    self._ready.discard(slot)
                self.print_line(f"{event.replace('_', ' ')}: {last_line(fields['why'])}")
            case "visit_quarantined":
                self._given_up += 1
                self.print_line(f"given up after {len(fields['story'])} tries: point {fields['point_id']}")
            case "stopping":
                self._state = "stopping"
                self.print_line(f"{fields['signal']}: running visits may finish; a second signal stops at once")

    def _observe_start(self, event: str, fields: Mapping[str, Any]) -> None:
        """Take an event on the way to an actor that is ready."""
        match event:
            case "actor_starting":
                self._loading.add(fields["slot"])
            case "actors_waiting":
                self._state = self._state if fields["placed"] else "waiting for the cluster"
                self.print_line(describe_wait(fields))
            case "wait_ended":
                self.print_line(fields["why"])
            case "actor_ready":
                self._loading.discard(fields["slot"])
                self._ready.add(fields["slot"])
                self._first_ready = self._first_ready or time.monotonic()
                self._state = self._work
                seconds = duration(fields["load_seconds"])
                self.print_line(f"actor {fields['actor']} holds the model (loaded in {seconds})")

    def _begin_reading(self, responses: int) -> None:
        """Show from now on how many responses were read at the origin, instead of points."""
        self._print_totals()
        self._work, self._unit = "reading responses at the origin", "responses"
        if self._ready:
            self._state = self._work
        self._done, self._total, self._tokens, self._picture = 0, responses, 0, None
        self._started = time.monotonic()
        self._first_ready = self._started if self._ready else None

    def _print_totals(self) -> None:
        """Print how much was done and how fast, unless nothing was done."""
        if self._done:
            seconds = time.monotonic() - self._started
            facts = ", ".join(self._facts())
            self.print_line(f"{self._done:,} of {self._total:,} {self._unit} in {duration(seconds)}, {facts}")

    def _add_visits(self, visits: int, **_: Any) -> None:
        """Count visits that verdicts have added."""
        self._total += visits
        self._is_growing = True

    def _print_use(self, ready_seconds: float, idle_seconds: float, speculative: int, unneeded: int, **_: Any) -> None:
        """Print at the end how well the actors were used, if verdicts have added visits, and what speculation cost."""
        if not self._is_growing or not ready_seconds:
            return
        text = f"actors were idle {100 * idle_seconds / ready_seconds:.0f}% of the time"
        if speculative:
            text += f"; {_count(speculative, 'point')} begun on speculation, {unneeded} not needed"
        self.print_line(text)

    def print_line(self, text: str) -> None:
        """Print a line that stays, above the live display."""
        self._last_line = time.monotonic()
        self._console.print(shown(text), highlight=False, markup=False, soft_wrap=True)

    def _print_progress(self) -> None:
        """Print a progress line if there is no terminal and the last line is more than PLAIN_EVERY seconds old."""
        if self._console.is_terminal or time.monotonic() - self._last_line <= PLAIN_EVERY:
            return
        self.print_line(
            ", ".join([f"{self._done:,} of {self._total:,} {self._unit}", *self._facts(), self._time_left()])
        )

    def _facts(self) -> list[str]:
        """Return speed, failures and visits given up, one text each."""
        seconds = time.monotonic() - (self._first_ready or self._started)
        facts = [f"{self._tokens / max(seconds, 1e-9):,.0f} tok/s"]
        if self._failed:
            facts.append(_count(self._failed, "failure"))
        if self._given_up:
            facts.append(f"{self._given_up} given up")
        return facts

    def _time_left(self) -> str:
        """Return the time left at the speed so far; empty before the first visit is done."""
        if not self._done:
            return ""
        seconds = time.monotonic() - (self._first_ready or self._started)
        return f"{duration(seconds / self._done * (self._total - self._done))} left"

    def _render(self) -> RenderableType:
        """Return the live display."""
        elapsed, left = duration(time.monotonic() - self._started), self._time_left()
        times = f"{elapsed}, {left}" if left else elapsed
        self._bar.update(
            self._task,
            completed=self._done,
            total=self._total,
            description=self._state,
            time=times,
            unit=self._unit,
        )
        facts = []
        if self._ready:
            facts.append(_count(len(self._ready), "actor"))
        if self._loading:
            facts.append(f"{len(self._loading)} loading")
        if self._done:
            facts += self._facts()
        separator = " · " if self._unicode else ", "
        lines: list[RenderableType] = [self._bar, Text(f"  {separator.join(facts)}", style="dim")]
        if self._picture is not None:
            self._picture.read(READ_SECONDS)
            drawn = self._picture.draw(self._console.width, self._console.height, self._unicode)
            if drawn is not None:
                lines.append(drawn)
        return Group(*lines)


def _count(number: int, noun: str) -> str:
    """Return `1 actor`, `2 actors`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
