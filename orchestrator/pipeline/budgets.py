"""Time budgets of a sweep (`until.minutes`, `until.gpu_hours`): what earlier runs used of them, and this run so far."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.config.schema import UntilConfig
from orchestrator.store.files import DamagedFileError
from orchestrator.store.records import RunRecord
from orchestrator.store.runs import EventCounter, with_totals
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.until import UntilOutcome
from orchestrator.utils.console import duration
from orchestrator.utils.errors import UserError

MINUTES, GPU_HOURS = "until.minutes", "until.gpu_hours"


def earlier_runs(stored: StoredSweep) -> list[RunRecord]:
    """Return the runs of a sweep so far with their totals. Empty before the first one."""
    try:
        return with_totals(stored.study, stored.folder.read_record().runs)
    except DamagedFileError:  # no record yet
        return []


class Budgets:
    """The budgets of a sweep during a run. Its method `observe` takes the events of the dispatcher."""

    def __init__(
        self, options: UntilConfig, earlier: Sequence[RunRecord] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin a run.

        Args:
            options: The budgets.
            earlier: The runs of this sweep so far, whose time counts, with their totals.
            clock: Returns the time in seconds.
        """
        self._options, self._clock = options, clock
        self._began = clock()
        self._seconds = sum(run.seconds for run in earlier)
        self._gpu_seconds = sum(run.totals.gpu_seconds for run in earlier)
        self._counter = EventCounter()

    def observe(self, event: str, **fields: Any) -> None:
        """Count the GPUs that actors hold."""
        if event in ("actor_ready", "actor_died"):
            self._counter.add({"event": event, "at": self._clock(), **fields})

    @property
    def minutes_used(self) -> float:
        """Duration of all runs of the sweep so far, in minutes."""
        return (self._seconds + self._clock() - self._began) / 60

    @property
    def gpu_hours_used(self) -> float:
        """GPU-hours of all runs of the sweep so far."""
        return (self._gpu_seconds + self._counter.gpu_seconds(self._clock())) / 3600

    @property
    def spent(self) -> str | None:
        """Name of an option whose budget is spent. None if none is."""
        if self._options.minutes is not None and self.minutes_used >= self._options.minutes:
            return MINUTES
        if self._options.gpu_hours is not None and self.gpu_hours_used >= self._options.gpu_hours:
            return GPU_HOURS
        return None

    def seconds_left(self, gpus: float) -> float | None:
        """Return the seconds until the first budget is spent, at most; None without a budget.

        Args:
            gpus: Number of GPUs that are held.
        """
        left = []
        if self._options.minutes is not None:
            left.append(60 * (self._options.minutes - self.minutes_used))
        if self._options.gpu_hours is not None and gpus > 0:
            left.append(3600 * (self._options.gpu_hours - self.gpu_hours_used) / gpus)
        return max(min(left), 0.0) if left else None

    def check_unspent(self) -> None:
        """Raise UserError if earlier runs have spent a budget."""
        if self.spent == MINUTES:
            used = f"runs of this sweep took {duration(60 * self.minutes_used)} already"
            raise UserError(MINUTES, f"{self._options.minutes:g}", f"{used}: raise it, or leave it out, to go on")
        if self.spent == GPU_HOURS:
            used = f"runs of this sweep used {self.gpu_hours_used:.3g} GPU-hours already"
            raise UserError(GPU_HOURS, f"{self._options.gpu_hours:g}", f"{used}: raise it, or leave it out, to go on")

    def check_gpus(self, gpus_per_actor: float) -> None:
        """Raise UserError if a budget of GPU-hours was given and actors have no GPU: it would never be spent."""
        if self._options.gpu_hours is not None and not gpus_per_actor:
            remedy = "this sweep runs without GPUs, so it would never be spent: use until.minutes"
            raise UserError(GPU_HOURS, f"{self._options.gpu_hours:g}", remedy)

    def outcome(self, work_is_left: bool, goals: UntilOutcome | None = None) -> UntilOutcome | None:
        """Return how the run ended. None without budgets and goals.

        Args:
            work_is_left: Whether visits were left out because a budget was spent.
            goals: How far the sweep is. None without goals.
        """
        if self._options.minutes is None and self._options.gpu_hours is None and goals is None:
            return None
        return dataclasses.replace(
            goals or UntilOutcome(),
            minutes=self._options.minutes,
            gpu_hours=self._options.gpu_hours,
            minutes_used=round(self.minutes_used, 2),
            gpu_hours_used=round(self.gpu_hours_used, 4),
            stopped_by=self.spent if work_is_left else None,
        )
