"""Event logs: one driver run's attempts, failures and restarts, as JSON lines."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from orchestrator.utils.json_lines import read_lines
from orchestrator.utils.private import open_to_append
from orchestrator.utils.redaction import redact

EVENT_TYPES = {"at": float, "event": str}
"""The fields of every event, of which `at` is a time in seconds. Lines without them are not events."""

AFTER_FIELD = "after"
"""The field that holds the seconds since the log was opened. Unlike differences of `at`, they stay right if the clock
is set meanwhile. Logs of earlier versions lack it."""

ERROR_FIELD, ERRORS_FIELD = "why", "story"
"""The fields that hold an error message and a list of error messages."""


class EventLog:
    """The events of one driver run: one JSON object per line, appended as they happen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._hosts = {socket.gethostname()}
        self._opened = time.monotonic()

    def write(self, event: str, **fields: Any) -> None:
        """Append one event. Errors of the disk are ignored: a full disk must not stop a sweep because of its log.

        Error messages are stored without folders and names of hosts, see `redact`.

        Args:
            event: The name of the event.
            **fields: Its fields.
        """
        if "host" in fields:
            self._hosts.add(fields["host"])
        if ERROR_FIELD in fields:
            fields[ERROR_FIELD] = redact(fields[ERROR_FIELD], self._hosts)
        if ERRORS_FIELD in fields:
            fields[ERRORS_FIELD] = [redact(message, self._hosts) for message in fields[ERRORS_FIELD]]
        times = {"at": time.time(), AFTER_FIELD: round(time.monotonic() - self._opened, 6)}
        line = json.dumps({**times, "event": event, **fields}, ensure_ascii=False) + "\n"
        with contextlib.suppress(OSError):
            if self._file is None:  # it stays open: there are two events per visit
                self._file = open_to_append(self.path)
            self._file.write(line.encode())

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield every readable event. Lines that a crash cut short are skipped."""
        with contextlib.suppress(FileNotFoundError):
            yield from (event for event in read_lines(self.path, EVENT_TYPES) if EVENT_TYPES.keys() <= event.keys())


def read_all_events(study_root: Path) -> Iterator[dict[str, Any]]:
    """Yield every readable event of every run of a study, run by run."""
    for path in sorted((study_root / "events").glob("*.jsonl")):
        yield from EventLog(path).read()
