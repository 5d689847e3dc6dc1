"""The list of all sweeps below a folder, kept between requests: a sweep is read again only when its files change.

A thread of its own reads the disk. A request waits for it briefly and then shows what is known.
"""

from __future__ import annotations

import fnmatch
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.analysis.requested import requested
from orchestrator.analysis.results.scores import VisageIntervals
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.report.narrative import are_held_back
from orchestrator.report.page.content import tiles
from orchestrator.report.scores import counted_points
from orchestrator.report.viewer.open_studies import OpenStudies
from orchestrator.store.part_index import Signature, signatures
from orchestrator.store.parts import TaskKey, TaskParts
from orchestrator.store.status import Status, examine
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.store.working_copy import LEASES
from orchestrator.utils.console import duration
from orchestrator.utils.errors import UserError

RUNNING_EVERY = 1.0
"""Minimum seconds between two readings of a sweep with a lease. Whether its driver lives depends on the time too."""

PATIENCE = 0.2
"""Seconds for which a request waits for a new reading of the disk before it shows what is known."""


@dataclass(frozen=True)
class Listing:
    """The list at one moment.

    Attributes:
        rows: A row for each sweep that has been read, the most recently used first: its place, its progress and, if it
            has been reduced, its headline numbers.
        total: Number of sweeps. None if they have not been counted yet.
    """

    rows: list[dict[str, Any]]
    total: int | None


@dataclass(frozen=True)
class _Snapshot:
    """The state of a study on which all its sweeps depend, read once for all of them.

    Attributes:
        events: The signatures of the study's event logs, by name.
        version: The version of its parts.
        stored: The part that counts for each stored task.
    """

    events: Mapping[str, Signature]
    version: int
    stored: TaskParts

    @classmethod
    def of(cls, study: Study) -> _Snapshot:
        return cls(signatures(study.root / "events"), *study.generations.snapshot())


@dataclass
class _Entry:
    """A sweep's row, and what it was made from.

    Attributes:
        files: The signatures of the sweep's files and of the event logs of its runs.
        version: The version of the study's parts.
        has_lease: Whether a driver has left a lease.
        keys: The sweep's tasks.
        done: How many of them were stored.
        read_at: When the row was made, in seconds of the monotonic clock.
        row: The row.
    """

    files: tuple[object, ...]
    version: int
    has_lease: bool
    keys: tuple[TaskKey, ...]
    done: int
    read_at: float
    row: dict[str, Any]


class SweepList:
    """The list of the sweeps of studies. Safe to use from any thread."""

    def __init__(self, studies: OpenStudies) -> None:
        self._studies = studies
        self._entries: dict[Path, _Entry] = {}
        self._order: list[Path] | None = None
        self._changed = threading.Condition()  # guards what follows
        self._is_reading = False
        self._requested_at = 0.0  # when the latest request came, in seconds of the monotonic clock
        self._read_at = 0.0  # when the last reading that has ended began
        self._error: Exception | None = None  # of that reading

    def listing(self, patience: float | None = PATIENCE) -> Listing:
        """Return the list, read from the disk after this call came; or what is known if that takes longer.

        Of the callers that wait, all share one reading, which began after they came.

        Args:
            patience: Maximum number of seconds to wait. None: as long as it takes.
        """
        with self._changed:
            came = self._requested_at = time.monotonic()
            if not self._is_reading:
                self._is_reading = True
                threading.Thread(target=self._read_while_requested, name="sweep list", daemon=True).start()
            self._changed.wait_for(lambda: self._read_at >= came, patience)
            if self._error is not None:
                raise self._error
            entries = [self._entries.get(path) for path in self._order or ()]
            rows = [entry.row for entry in entries if entry is not None]
            return Listing(rows, None if self._order is None else len(self._order))

    def _read_while_requested(self) -> None:
        """Read the disk until a reading has begun after the latest request."""
        while True:
            with self._changed:
                if self._read_at >= self._requested_at:
                    self._is_reading = False
                    return
                began = time.monotonic()
            error = None
            try:
                self._read()
            except Exception as caught:  # those who wait raise it
                error = caught
            with self._changed:
                self._read_at, self._error = began, error
                self._changed.notify_all()

    def _read(self) -> None:
        """Read what has changed. Entries are shown as soon as they have been read."""
        folders = [folder for folder, _ in self._studies.sweeps()]
        self._order = [folder.path for folder in folders]
        snapshots: dict[Path, _Snapshot] = {}
        for folder in folders:
            snapshot = snapshots.get(folder.study.root)
            if snapshot is None:
                snapshot = snapshots[folder.study.root] = _Snapshot.of(folder.study)
            self._entries[folder.path] = self._entry(folder, snapshot)
        for path in self._entries.keys() - self._order:
            del self._entries[path]

    def _entry(self, folder: SweepFolder, snapshot: _Snapshot) -> _Entry:
        """Return the entry of a sweep: the known one, unless a file that it was made from has changed."""
        path = str(folder.path)
        files = signatures(path, (".json", ".parquet"))
        runs = sorted(signatures(f"{path}/runs", (".json",)).items())
        events = (snapshot.events.get(f"{run}l") for run, _ in runs)  # a run's log is .jsonl
        seen = (*sorted(files.items()), *runs, *events)
        has_lease = bool(fnmatch.filter(files, LEASES))
        known, now = self._entries.get(folder.path), time.monotonic()
        if known is not None and has_lease and known.has_lease and now - known.read_at < RUNNING_EVERY:
            return known
        if known is not None and not has_lease and known.files == seen:
            if known.version == snapshot.version:
                return known
            if sum(key in snapshot.stored for key in known.keys) == known.done:
                known.version = snapshot.version
                return known
        keys, status = read_status(folder, snapshot.stored)
        is_reduced = {"landscape.parquet", "summary.json"} <= files.keys()
        headline = _headline(folder, status["state"] == "running") if is_reduced else {}
        row = {
            "study": folder.study.root.name,
            "sweep": folder.path.name,
            "model": folder.study.info.model,
            "used": files["sweep.json"][1] / 1e9 if "sweep.json" in files else 0.0,
            **status,
            **headline,
        }
        return _Entry(seen, snapshot.version, has_lease, keys, status["done"], now, row)


def read_status(
    folder: SweepFolder, stored_tasks: TaskParts | None = None
) -> tuple[tuple[TaskKey, ...], dict[str, Any]]:
    """Return a sweep's tasks and its progress; `progress` is the progress as text.

    `why` explains why the sweep cannot be read, and is empty if it can.

    Args:
        folder: The sweep's folder.
        stored_tasks: The stored tasks of its study, if they are known.
    """
    try:
        stored = StoredSweep.open(folder, stored_tasks)
        status = examine(stored, requested(stored).tasks)
    except UserError as error:
        unreadable = {"state": "unreadable", "died": False, "why": str(error), "done": 0, "tasks": 0, "failed": 0}
        return (), unreadable | {"eta_seconds": None, "progress": f"unreadable · {error}"}
    fields = ("state", "died", "done", "tasks", "failed", "eta_seconds", "points_per_second")
    shared = folder.study.task_keys  # of a task that is stored, the key object that its part has
    keys = tuple(shared.get(task.key) or task.key for task in stored.sweep.tasks())
    values = {key: getattr(status, key) for key in fields}
    return keys, {"why": "", **values, "progress": _progress(status)}


def _progress(status: Status) -> str:
    """Return the progress of a sweep as text."""
    parts = ["died" if status.died else status.state, f"{status.done:,} of {status.tasks:,} tasks"]
    if status.open_goals:
        parts.append(f"{', '.join(status.open_goals)} not met yet")
    if status.failed:
        parts.append(f"{status.failed:,} failed")
    if status.eta_seconds and status.state == "running":
        parts.append(f"{duration(status.eta_seconds)} left")
    if status.died:
        parts.append("its driver was killed; the same command continues it")
    return " · ".join(parts)


def _headline(folder: SweepFolder, is_running: bool) -> dict[str, Any]:
    """Return a sweep's headline numbers; empty if its summary cannot be read, or is of an earlier version.

    Both intervals are over new directions and probes, as the page says above them.
    """
    try:
        with folder.explained():
            summary = SweepSummary.from_json(folder.read_summary())
        score, margin, origin, radius, _ = tiles(summary, is_running)
        details = {
            "interval": _over_both(summary.visage.over),
            "counted": "" if summary.visage.paper is None else counted_points(summary.visage) or "",
            "margin_interval": _over_both(None if summary.margin is None else summary.margin.over),
        }
        return {
            "origin": origin["value"],
            "origin_unit": origin["unit"],
            "visage": score["value"],
            "margin": margin["value"],
            "radius": radius["value"],
            "about": summary.primary.to_json(),
            **(dict.fromkeys(details, "") if are_held_back(summary) else details),
        }
    except (UserError, KeyError):
        return {}


def _over_both(over: VisageIntervals | None) -> str:
    """Return the interval over new directions and probes, such as `12.0 to 28.0`; empty if it is unknown."""
    known = None if over is None else over.both
    return "" if known is None or known.low is None else f"{known.low:.1f} to {known.high:.1f}"
