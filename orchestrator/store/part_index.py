"""The parts of a folder, kept by a process that reads it again and again: each file is read once until it changes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from orchestrator.store.parts import Part, TaskKey

TICK = 2.0
"""Seconds that are longer than the resolution of times on any file system."""

Signature = tuple[int, int, int]
"""Size, time of the last change in nanoseconds, and inode of a file or folder.

The time alone does not show a second change within the resolution of the file system's clock. Whatever this program
writes is a new file, renamed into place, so that at least the inode differs from that of the file it replaces.
"""


def signature(path: Path | os.DirEntry[str]) -> Signature | None:
    """Return the signature of a file or folder; None if there is none or it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def signatures(folder: Path, suffixes: tuple[str, ...] = ("",)) -> dict[str, Signature]:
    """Return the signatures of the entries of a folder whose names end so, by name; empty if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            listed = {entry.name: signature(entry) for entry in entries if entry.name.endswith(suffixes)}
    except OSError:
        return {}
    return {name: known for name, known in listed.items() if known is not None}


def add_winners(winners: dict[TaskKey, Part], parts: Iterable[Part]) -> None:
    """Add parts to a mapping from each stored task to the part that counts: that of its rows with the smallest hash."""
    for part in parts:
        for key, observed in part.tasks.items():
            other = winners.get(key)
            if other is None or (observed, part.content) < (other.tasks[key], other.content):
                winners[key] = part


class PartIndex:
    """The parts of one folder, as its last scan found them. Safe to use from any thread.

    Attributes:
        version: Changes whenever the parts do.
    """

    def __init__(self, folder: Path) -> None:
        self.version = 0
        self._folder = folder
        self._lock = threading.Lock()
        self._seen: Signature | None = None  # of the folder
        self._seen_since = 0.0
        self._is_settled = False
        self._files: dict[str, Signature] = {}
        self._parts: dict[str, Part] = {}
        self._sorted: list[Part] = []
        self._winners: dict[TaskKey, Part] | None = {}

    def parts(self, scan: Callable[[Sequence[str]], Iterable[Part]]) -> list[Part]:
        """Return every part, ordered by name.

        Args:
            scan: Reads the files of these names and returns the parts that are whole.
        """
        with self._lock:
            self._update(scan)
            return self._sorted

    def winners(self, scan: Callable[[Sequence[str]], Iterable[Part]]) -> dict[TaskKey, Part]:
        """Return the part that counts for each stored task, see `parts`. Callers must not change it."""
        with self._lock:
            self._update(scan)
            if self._winners is None:
                self._winners = {}
                add_winners(self._winners, self._sorted)
            return self._winners

    def _update(self, scan: Callable[[Sequence[str]], Iterable[Part]]) -> None:
        """Read the files that are new or have changed since the last scan.

        A folder changes when a file is added, replaced or removed. A change within one tick of the last one may leave
        its time as it was, so an unchanged folder is trusted only from the first scan that began a tick after the
        change was seen. Only bytes that change in place, as a damaged disk's may, then go unnoticed here; they do not
        verify when the rows are read.
        """
        seen, now = signature(self._folder), time.monotonic()
        if seen == self._seen and self._is_settled:
            return
        if seen != self._seen:
            self._seen, self._seen_since = seen, now
        self._is_settled = now - self._seen_since >= TICK
        files = signatures(self._folder, (".parquet",))
        if files == self._files:
            return
        changed = sorted(name for name, known in files.items() if self._files.get(name) != known)
        read = {part.name: part for part in scan(changed)}
        stale = {*changed, *(self._files.keys() - files.keys())}
        kept = {name: part for name, part in self._parts.items() if name not in stale} | read
        if self._winners is not None and not stale & self._parts.keys():  # parts were only added
            winners = dict(self._winners)
            add_winners(winners, read.values())
            self._winners = winners
        else:
            self._winners = None
        self._files, self._parts = files, kept
        self._sorted = [kept[name] for name in sorted(kept)]
        self.version += 1
