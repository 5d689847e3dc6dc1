"""The list of all sweeps below a folder, kept between requests: a sweep is read again only when its files change."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.analysis.reducer import read_results
from orchestrator.report.page.content import tiles
from orchestrator.report.scores import counted_points, widest_interval
from orchestrator.store.discovery import find_study_roots
from orchestrator.store.part_index import Signature, signature, signatures
from orchestrator.store.parts import TaskKey
from orchestrator.store.status import examine
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.utils.errors import UserError

RUNNING_EVERY = 1.0
"""Minimum seconds between two readings of a sweep with a lease. Whether its driver lives depends on the time too."""


@dataclass
class _Study:
    """A study that can be opened.

    Attributes:
        document: The signature of its study.json.
        study: The study, which keeps an index of its parts.
    """

    document: Signature | None
    study: Study


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
    """The sweeps below a folder. Safe to use from any thread: one reads the disk, the others wait for its result."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._studies: dict[Path, _Study] = {}
        self._entries: dict[Path, _Entry] = {}
        self._lock = threading.Lock()
        self._begun = 0.0  # when the rows were begun, in seconds of the monotonic clock
        self._rows: list[dict[str, Any]] = []

    def folders(self) -> list[SweepFolder]:
        """Return every sweep, the most recently used first; empty if there is no study yet."""
        with self._lock:
            return [folder for folder, _ in self._find()]

    def find(self, study: str, sweep: str) -> SweepFolder | None:
        """Return the sweep with these folder names, or None. Names are compared and never used as paths."""
        for folder in self.folders():
            if (folder.study.root.name, folder.path.name) == (study, sweep):
                return folder
        return None

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each sweep: its place, its progress and, if it has been reduced, its headline numbers.

        Of the callers that wait, the first one reads the disk, and the others get what it has read, because its reading
        began after they came.
        """
        came = time.monotonic()
        with self._lock:
            if self._begun <= came:
                self._begun = time.monotonic()
                self._rows = self._read()
            return self._rows

    def _find(self) -> list[tuple[SweepFolder, Signature]]:
        """Return every sweep with the signature of its sweep.json, the most recently used first."""
        found = []
        for study in self._open_studies():
            sweeps, root = study.root / "sweeps", self._root.absolute()
            is_one_sweep = root.parent == sweeps.absolute()
            for name in signatures(sweeps):
                path = sweeps / name
                document = signature(path / "sweep.json")
                if document is not None and (not is_one_sweep or path.absolute() == root):
                    found.append((SweepFolder(study, path), document))
        return sorted(found, key=lambda entry: (-entry[1][1], entry[0].path.name))

    def _open_studies(self) -> list[Study]:
        roots: list[Path] = []
        with contextlib.suppress(UserError):
            roots = find_study_roots(self._root)
        self._studies = {root: known for root, known in self._studies.items() if root in roots}
        for root in roots:
            document = signature(root / "study.json")
            known = self._studies.get(root)
            if known is None or known.document != document:
                self._studies.pop(root, None)
                with contextlib.suppress(UserError):
                    study = Study.open(root)
                    study.indexes = {}
                    self._studies[root] = _Study(document, study)
        return [self._studies[root].study for root in roots if root in self._studies]

    def _read(self) -> list[dict[str, Any]]:
        found = self._find()
        studies = [known.study for known in self._studies.values()]
        events = {study.root: signatures(study.root / "events") for study in studies}
        versions = {study.root: study.generations.version() for study in studies}
        entries: dict[Path, _Entry] = {}
        for folder, _ in found:
            root = folder.study.root
            entries[folder.path] = self._entry(folder, events[root], versions[root])
        self._entries = entries
        return [entry.row for entry in entries.values()]

    def _entry(self, folder: SweepFolder, events: dict[str, Signature], version: int) -> _Entry:
        """Return the entry of a sweep: the known one, unless a file that it was made from has changed.

        Args:
            folder: The sweep.
            events: The signatures of the event logs of its study.
            version: The version of the parts of its study.
        """
        files = signatures(folder.path, (".json", ".parquet"))
        runs = sorted(signatures(folder.path / "runs", (".json",)).items())
        seen = (*sorted(files.items()), *runs, *(events.get(f"{run}l") for run, _ in runs))  # a run's log is .jsonl
        has_lease = any(name.startswith("lease") for name in files)
        known, now = self._entries.get(folder.path), time.monotonic()
        if known is not None and has_lease and known.has_lease and now - known.read_at < RUNNING_EVERY:
            return known
        if known is not None and not has_lease and known.files == seen:
            if known.version == version:
                return known
            counting = folder.study.generations.counting()
            if sum(key in counting for key in known.keys) == known.done:
                known.version = version
                return known
        keys, status = read_status(folder)
        row = {
            "study": folder.study.root.name,
            "sweep": folder.path.name,
            "model": folder.study.info.model,
            "used": files["sweep.json"][1] / 1e9 if "sweep.json" in files else 0.0,
            **status,
            **_headline(folder),
        }
        return _Entry(seen, version, has_lease, keys, status["done"], now, row)


def read_status(folder: SweepFolder) -> tuple[tuple[TaskKey, ...], dict[str, Any]]:
    """Return a sweep's tasks and its progress; `why` explains why it cannot be read, and is empty if it can."""
    try:
        stored = StoredSweep.open(folder)
        status = examine(stored)
    except UserError as error:
        unreadable = {"state": "unreadable", "why": str(error), "done": 0, "tasks": 0, "failed": 0, "eta_seconds": None}
        return (), unreadable
    fields = ("state", "done", "tasks", "failed", "eta_seconds", "points_per_second")
    shared = folder.study.task_keys  # of a task that is stored, the key object that its part has
    keys = tuple(shared.get(task.key) or task.key for task in stored.sweep.tasks())
    return keys, {"why": "", **{key: getattr(status, key) for key in fields}}


def _headline(folder: SweepFolder) -> dict[str, Any]:
    """Return a sweep's headline numbers; empty if none are stored yet, or by an earlier version."""
    try:
        _, summary = read_results(folder)
        score, margin, origin, radius, _ = tiles(summary)
        low, high = summary.visage.low, summary.visage.high
        widest = None if summary.margin is None else widest_interval(summary.margin.over)
        return {
            "origin": origin["value"],
            "visage": score["value"],
            "interval": "" if low is None else f"{low:.1f} to {high:.1f}",
            "counted": counted_points(summary.visage) or "",
            "margin": margin["value"],
            "margin_interval": "" if widest is None else f"{widest[0]:.1f} to {widest[1]:.1f}",
            "radius": radius["value"],
            "about": summary.primary.to_json(),
        }
    except (UserError, KeyError):
        return {}
