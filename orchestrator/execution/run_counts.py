"""Count what a run has done so far from the dispatcher's events, for callers of the Python API and for gauges."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Progress:
    """Progress of one run.

    Attributes:
        points_done: Number of points that this run has measured.
        points_total: Number of points that this run has to measure: those that were not stored when it began.
        tokens: Number of tokens generated.
        tokens_per_second: Tokens divided by the time since the first actor was ready. 0 before.
        seconds: Time since the run began.
        seconds_left: Time until all points are done at the speed so far. None before the first point.
        actors: Number of actors that are ready.
        failures: Number of failed visits, failed starts and dead actors.
        restarts: Number of actors that were replaced.
        given_up: Number of points that were given up after several failures.
    """

    points_done: int = 0
    points_total: int = 0
    tokens: int = 0
    tokens_per_second: float = 0.0
    seconds: float = 0.0
    seconds_left: float | None = None
    actors: int = 0
    failures: int = 0
    restarts: int = 0
    given_up: int = 0


@dataclass
class ActorCounts:
    """Totals of one actor slot.

    Attributes:
        points: Number of points measured.
        tokens: Number of tokens generated.
        seconds: Time of its visits.
        failures: Number of failed visits, failed starts and deaths.
        restarts: Number of times that its actor was replaced.
    """

    points: int = 0
    tokens: int = 0
    seconds: float = 0.0
    failures: int = 0
    restarts: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of its visits. 0 before the first."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass
class RunCounts:
    """Counts the events of a run; `observe` takes them.

    Attributes:
        slots: Totals of each actor slot, by its number.
        clock: Returns the time in seconds.
    """

    clock: Callable[[], float] = time.monotonic
    slots: dict[int, ActorCounts] = field(default_factory=dict)
    _totals: Progress = Progress()
    _ready: set[int] = field(default_factory=set)
    _started: float | None = None
    _first_ready: float | None = None

    def observe(self, event: str, **fields: Any) -> bool:
        """Count one event (see `events.py`). Return whether a number changed that `progress` reports."""
        now = self.clock()
        self._started = now if self._started is None else self._started
        slot = self.slots.setdefault(fields["slot"], ActorCounts()) if "slot" in fields else ActorCounts()
        match event:
            case "run_started":
                # another Ray session continues the run: its visits are those that are left
                self._totals = dataclasses.replace(
                    self._totals, points_total=self._totals.points_done + fields["visits"]
                )
                self._ready.clear()
            case "actor_ready":
                self._ready.add(fields["slot"])
                self._first_ready = now if self._first_ready is None else self._first_ready
            case "visit_done":
                self._count_visit(slot, fields)
            case "visit_failed":
                self._count_failure(slot)
            case "actor_died" | "actor_failed_to_start":
                self._ready.discard(fields["slot"])
                self._count_failure(slot)
                if event == "actor_died":
                    slot.restarts += 1
                    self._totals = dataclasses.replace(self._totals, restarts=self._totals.restarts + 1)
            case "visit_quarantined":
                self._totals = dataclasses.replace(self._totals, given_up=self._totals.given_up + 1)
            case _:
                return False
        return True

    def _count_visit(self, slot: ActorCounts, fields: Mapping[str, Any]) -> None:
        slot.points += 1
        slot.tokens += fields["tokens"]
        slot.seconds += fields["seconds"]
        self._totals = dataclasses.replace(
            self._totals,
            points_done=self._totals.points_done + 1,
            tokens=self._totals.tokens + fields["tokens"],
        )

    def _count_failure(self, slot: ActorCounts) -> None:
        slot.failures += 1
        self._totals = dataclasses.replace(self._totals, failures=self._totals.failures + 1)

    @property
    def progress(self) -> Progress:
        """The progress now."""
        now, totals = self.clock(), self._totals
        seconds = 0.0 if self._started is None else now - self._started
        busy = 0.0 if self._first_ready is None else now - self._first_ready
        left = None
        if totals.points_done:
            left = (busy or seconds) / totals.points_done * max(0, totals.points_total - totals.points_done)
        return dataclasses.replace(
            totals,
            actors=len(self._ready),
            seconds=seconds,
            seconds_left=left,
            tokens_per_second=totals.tokens / busy if busy > 0 else 0.0,
        )
