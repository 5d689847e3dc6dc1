"""Record the runs of a sweep at their start and end. If a driver died, complete its record from its events.

Each run has a file of its own, so that the drivers of several parts do not overwrite each other's records.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.store.events import AFTER_FIELD, EventLog
from orchestrator.store.parts import TaskKey, TaskParts
from orchestrator.store.records import DAMAGED, RUNNING, FailedVisit, RunRecord, RunTotals
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.until import UntilOutcome
from orchestrator.utils.hashing import content_id
from orchestrator.utils.redaction import redact


def new_run_name() -> str:
    """Return a name for a run that begins now. Names sort by time, and no two runs have the same."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"


class RunRecorder:
    """Writes the record of one run: at its start and end, at each actor with a new engine or host, and as it grows."""

    def __init__(
        self, folder: SweepFolder, tasks: int, part: str | None = None, until: UntilOutcome | None = None
    ) -> None:
        self._folder = folder
        self._started = time.monotonic()  # the clock of the machine may be set while the run goes on
        self._record = RunRecord(
            run=new_run_name(),
            part=part,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=time.time(),
            outcome=RUNNING,
            tasks=tasks,
            until=until,
        )
        self._write()

    @property
    def run(self) -> str:
        """The run's name."""
        return self._record.run

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return round(time.monotonic() - self._started, 1)

    def record_actor(self, description: Mapping[str, Any]) -> None:
        """Record an actor. `description`: its engine, versions and machine, as the actor reports them."""
        engine_id, host = description["engine_id"], description["host"]
        known = engine_id in self._record.engines and host in self._record.machines
        self._record = dataclasses.replace(
            self._record,
            engines={**self._record.engines, engine_id: description["engine"]},
            machines={**self._record.machines, host: description["machine"]},
            versions=description["versions"],
        )
        if not known:
            self._write()

    def record_goals(self, until: UntilOutcome | None) -> None:
        """Record how far the sweep's goals are met, so that a run that is killed leaves them on record."""
        self._record = dataclasses.replace(self._record, until=until)
        self._write()

    def note(self, text: str) -> None:
        """Add a note to the record, once."""
        if text not in self._record.notes:
            self._record = dataclasses.replace(self._record, notes=(*self._record.notes, text))
            self._write()

    def end(
        self,
        outcome: str,
        totals: RunTotals | None = None,
        failures: Sequence[FailedVisit] = (),
        until: UntilOutcome | None = None,
    ) -> None:
        """Record the end of the run.

        Args:
            outcome: See `RunRecord`.
            totals: The run's totals. None if nothing was dispatched.
            failures: Visits that were given up. Their errors are redacted (see `redact`).
            until: The goals and budgets, and how far the sweep is. None leaves what is on record.
        """
        hosts = {self._record.host, *self._record.machines}
        self._record = dataclasses.replace(
            self._record,
            outcome=outcome,
            seconds=self.seconds,
            totals=totals or RunTotals(),
            until=self._record.until if until is None else until,
            failures=tuple(
                dataclasses.replace(failure, errors=tuple(redact(error, hosts) for error in failure.errors))
                for failure in failures
            ),
        )
        self._write()

    def _write(self) -> None:
        self._folder.write_run(self._record)


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run according to its events.

    Attributes:
        totals: The run's totals so far.
        in_progress: Number of visits that actors are working on.
        seconds: Time from the first event to the last.
        busy_seconds: Time from the first ready actor (from the first event if there is none) to the last event.
    """

    totals: RunTotals
    in_progress: int
    seconds: float
    busy_seconds: float

    @property
    def rate(self) -> float:
        """Completed visits per second of `busy_seconds`. 0 if that is 0."""
        return self.totals.visits / self.busy_seconds if self.busy_seconds > 0 else 0.0

    @classmethod
    def from_events(cls, events: EventLog) -> RunProgress:
        """Return the progress according to the events that a run has written so far."""
        counter = EventCounter()
        for event in events.read():
            with contextlib.suppress(KeyError, TypeError, ValueError):  # not written by this program
                counter.add(event)
        return counter.progress()


class EventCounter:
    """Counts the events of a run, as its log holds them."""

    def __init__(self) -> None:
        self._totals = RunTotals()
        self._begun: float | None = None
        self._first_ready: float | None = None
        self._last: float | None = None
        self._in_progress: set[str] = set()
        self._held: dict[int, tuple[float, float]] = {}  # slot -> (since when its actor holds GPUs, how many)

    def add(self, event: Mapping[str, Any]) -> None:
        """Count an event. Raises KeyError, TypeError or ValueError if it lacks a field."""
        at = float(event.get(AFTER_FIELD, event["at"]))
        if self._begun is None:
            self._begun = at
        self._last = at
        match event["event"]:
            case "actor_ready":
                if self._first_ready is None:
                    self._first_ready = at
                self._totals.actors += 1
                self._held[event["slot"]] = at - event["load_seconds"], event["gpus"]
                self._totals.actors_at_once = max(self._totals.actors_at_once, len(self._held))
            case "visit_given":
                self._in_progress.add(event["visit"])
            case "visit_done":
                self._in_progress.discard(event["visit"])
                self._add_visit(event)
            case "visit_failed" | "visit_quarantined":
                self._in_progress.discard(event["visit"])
            case "actor_died":
                self._totals.restarts += 1
                since, gpus = self._held.pop(event["slot"], (at, 0.0))
                self._totals.gpu_seconds += gpus * (at - since)

    def _add_visit(self, event: Mapping[str, Any]) -> None:
        totals = self._totals
        totals.visits += 1
        totals.responses += event["responses"]
        totals.tokens += event["tokens"]
        totals.visit_seconds += event["seconds"]
        totals.write_seconds += event.get("write_seconds", 0.0)
        totals.peak_memory_bytes = max(totals.peak_memory_bytes, event.get("peak_memory_bytes", 0))

    def gpu_seconds(self, at: float) -> float:
        """Return the time for which GPUs were held until `at`, times the GPUs of an actor."""
        return self._totals.gpu_seconds + sum(gpus * (at - since) for since, gpus in self._held.values())

    def progress(self) -> RunProgress:
        """Return the progress at the last event."""
        totals = dataclasses.replace(self._totals)
        if self._begun is None or self._last is None:
            return RunProgress(totals, len(self._in_progress), 0.0, 0.0)
        totals.gpu_seconds = self.gpu_seconds(self._last)
        began_work = self._begun if self._first_ready is None else self._first_ready
        return RunProgress(totals, len(self._in_progress), self._last - self._begun, self._last - began_work)


def with_totals(study: Study, runs: Iterable[RunRecord]) -> list[RunRecord]:
    """Return the runs, with totals from their events for those in progress, died or damaged."""
    complete = []
    for run in runs:
        if run.outcome not in (RUNNING, DAMAGED):
            complete.append(run)
            continue
        progress = RunProgress.from_events(study.events(run.run))
        complete.append(dataclasses.replace(run, totals=progress.totals, seconds=progress.seconds))
    return complete


def given_up(runs: Iterable[RunRecord]) -> set[TaskKey]:
    """Return the tasks that runs of a sweep gave up, including tasks that a later run completed."""
    failures = (failure for run in runs for failure in run.failures)
    return {(failure.point_id, set_id) for failure in failures for set_id in failure.prompt_set_ids}


def engines_of(generations: TaskParts) -> list[dict[str, Any]]:
    """Return the identities of the engines that made these parts, each once."""
    engines = {content_id(part.meta["engine"]): part.meta["engine"] for part in generations.values()}
    return [engines[key] for key in sorted(engines)]
