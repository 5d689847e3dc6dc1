"""Upload the files that a run appends to: its events and logs, and the files of trackers.

All other files are uploaded once, when they are written (`publish` in `orchestrator/store/files.py`).
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from orchestrator.store.errors import StorageError
from orchestrator.store.files import DamagedFileError, read_json
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.tracking_log import TRACKING
from orchestrator.store.working_copy import Signature, file_signature, working_copy

logger = logging.getLogger(__name__)

INTERVAL = 5.0
"""Seconds between two looks at the files."""

SPEED = 1e6
"""Maximum rate in bytes per second at which a growing file is uploaded: one of 100 MB every 100 seconds."""


class LogUploads:
    """Context manager that uploads the appended files of a sweep in a bucket while a driver works, and at the end.

    What a killed driver wrote after the last upload is uploaded by the next run of the sweep on the same machine. If
    the bucket cannot be used, this is logged and not raised: the sweep itself fails then. Does nothing for studies on a
    file system.

    Args:
        folder: The sweep's folder.
        run: A run that has no record in the folder, such as that of a model judge: only its files are uploaded. None:
            those of all runs of the sweep on this host, and those of trackers.
        study: The study with the events of `run`. None: the sweep's.
    """

    def __init__(self, folder: SweepFolder, run: str | None = None, study: Study | None = None) -> None:
        self._folder, self._run = folder, run
        self._study = study or folder.study
        self._copy = working_copy(folder.study.out)
        self._ended = threading.Event()
        self._uploaded: dict[Path, tuple[Signature, float]] = {}  # the state that was uploaded, and when
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> LogUploads:
        if self._copy is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._copy is None:
            return
        self._ended.set()
        self._thread.join()
        try:
            self._upload(at_once=True)
        except StorageError as problem:
            logger.warning("the last lines of the logs are on this machine only: %s", problem)

    def _repeat(self) -> None:
        while not self._ended.wait(INTERVAL):
            try:
                self._upload()
            except StorageError as error:  # the sweep itself reports a bucket that cannot be used
                logger.debug("logs: %s", error)

    def _upload(self, at_once: bool = False) -> None:
        """Upload the files that have changed. With `at_once`, do so regardless of SPEED. Raises StorageError."""
        assert self._copy is not None
        for path in self._files():
            seen, (before, when) = file_signature(path), self._uploaded.get(path, (None, 0.0))
            if seen is None or seen == before or self._copy.is_recorded(path, seen):
                continue
            if at_once or before is None or time.monotonic() - when >= seen[0] / SPEED:
                self._copy.upload(path, path)
                self._uploaded[path] = seen, time.monotonic()

    def _files(self) -> Iterator[Path]:
        """Yield the files to upload, some of which may not exist yet."""
        if self._run is not None:
            yield from self._files_of(self._run)
            return
        yield from _files_in(self._folder.path / TRACKING)
        for record in self._folder.path.glob("runs/*.json"):
            if self._is_from_here(record):
                yield from self._files_of(record.stem)

    def _files_of(self, run: str) -> Iterator[Path]:
        """Yield the events and logs of a run."""
        yield self._study.events(run).path
        yield self._folder.log_path(run)
        yield from _files_in(self._folder.ray_logs_path(run))

    def _is_from_here(self, record: Path) -> bool:
        try:
            return read_json(record).get("host") == socket.gethostname()
        except DamagedFileError:
            return False


def _files_in(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
