"""The parts of a folder, kept by a process that reads it again and again: each file is read once until it changes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from orchestrator.store.parts import Part, TaskKey

TICK = 2.0
"""Seconds that are longer than the resolution of times on any file system."""

Signature = tuple[int, int, int]
"""Size, time of the last change in nanoseconds, and inode of a file or folder.

The time alone does not show a second change within the resolution of the file system's clock. Whatever this program
writes is a new file, renamed into place, so that at least the inode differs from that of the file it replaces.
"""


def signature(path: Path | str | os.DirEntry[str]) -> Signature | None:
    """Return the signature of a file or folder; None if there is none or it cannot be looked at."""
    try:
        status = path.stat() if isinstance(path, os.DirEntry) else os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def signatures(
    folder: Path | str, suffixes: tuple[str, ...] = ("",), known: Mapping[str, Signature] | None = None
) -> dict[str, Signature]:
    """Return the signatures of the entries of a folder, by name; empty if it cannot be listed.

    Args:
        folder: The folder.
        suffixes: The endings of the names of the entries to return.
        known: Signatures that are returned for entries whose inodes are still the same. The listing shows the inodes,
            so that these entries need not be looked at one by one.
    """
    listed: dict[str, Signature | None] = {}
    known = known or {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(suffixes):
                    earlier = known.get(entry.name)
                    is_known = earlier is not None and earlier[2] == entry.inode()
                    listed[entry.name] = earlier if is_known else signature(entry)
    except OSError:
        return {}
    return {name: found for name, found in listed.items() if found is not None}


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
        self._has_unread = False  # whether there are files that were not whole
        self._sorted: list[Part] = []
        self._winners: dict[TaskKey, Part] | None = {}

    def forget(self, name: str) -> None:
        """Read the file of this name again at the next scan: it turned out not to hold what the index says."""
        with self._lock:
            self._files.pop(name, None)
            self._is_settled = False

    def parts(self, scan: Callable[[Sequence[str]], Iterable[Part]]) -> list[Part]:
        """Return every part, ordered by name.

        Args:
            scan: Reads the files of these names and returns the parts that are whole.
        """
        with self._lock:
            self._update(scan)
            return self._sorted

    def winners(self, scan: Callable[[Sequence[str]], Iterable[Part]]) -> tuple[int, dict[TaskKey, Part]]:
        """Return `version` and the part that counts for each stored task, see `parts`. Callers must not change it."""
        with self._lock:
            self._update(scan)
            if self._winners is None:
                self._winners = {}
                add_winners(self._winners, self._sorted)
            return self.version, self._winners

    def _update(self, scan: Callable[[Sequence[str]], Iterable[Part]]) -> None:
        """Read the files that are new or have changed since the last scan.

        A folder changes when a file is added, replaced or removed. A change within one tick of the last one may leave
        its time as it was, so an unchanged folder is trusted only from the first scan that began a tick after the
        change was seen. That scan looks at every file; those before it look only at files whose inodes are new, because
        whoever replaces a file by renaming gives it a new one. Files that were not whole may be being copied, and are
        looked at each time. Only bytes that change in place then go unnoticed here, as a damaged disk's may; they do
        not verify when the rows are read.
        """
        seen, now = signature(self._folder), time.monotonic()
        unread = [name for name in self._files if name not in self._parts] if self._has_unread else []
        is_unread_changed = any(signature(self._folder / name) != self._files[name] for name in unread)
        if seen == self._seen and self._is_settled and not is_unread_changed:
            return
        if seen != self._seen:
            self._seen, self._seen_since = seen, now
        self._is_settled = now - self._seen_since >= TICK
        looks_at_all = self._is_settled or is_unread_changed
        files = signatures(self._folder, (".parquet",), None if looks_at_all else self._files)
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
        self._has_unread = len(kept) < len(files)
        self._sorted = [kept[name] for name in sorted(kept)]
        self.version += 1
