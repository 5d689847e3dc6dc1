"""A lease on a sweep or on a part of it: it shows a second driver which driver is at work, where, and since when.

Correctness never depends on it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from orchestrator.store.files import DamagedFileError, publish_json, read_json
from orchestrator.store.records import MAX_TIME
from orchestrator.sweep.tasks import parse_part
from orchestrator.utils.errors import UserError
from orchestrator.utils.parsing import FormatError
from orchestrator.utils.records import check_fields

HEARTBEAT = 5.0  # seconds between renewals
LEASE_TYPES: dict[str, type] = {
    **dict.fromkeys(("name", "part", "user", "host"), str),
    **dict.fromkeys(("born", "since", "beat"), float),
    "pid": int,
}
REQUIRED = ("name", "user", "host", "pid", "since", "beat")
STALE = 60.0  # seconds since the last renewal from which on the holder counts as dead


class Lease:
    """Context manager: the right of one driver to work on a sweep. A heartbeat renews it; leaving releases it.

    A dead holder never blocks: its process is gone from this host, or its heartbeat has stopped. If two drivers enter
    at the same moment, the one whose name stays in the file continues. Entering raises UserError while another driver
    holds the lease.
    """

    def __init__(self, out: Path, path: Path, part: str | None = None) -> None:
        """Prepare a lease; it is taken on entering.

        Args:
            out: The root of studies.
            path: The lease's file.
            part: `i/n` if the lease is on that share of the sweep. Other parts of the same n, each with its own file,
                may be held at the same time, but not the whole sweep. None: the whole sweep.
        """
        self._out, self._path, self._part = out, path, part
        self._released = threading.Event()
        self._since = time.time()
        self._name = uuid.uuid4().hex
        self._thread = threading.Thread(target=self._renew_until_released, daemon=True)

    def __enter__(self) -> Lease:
        self._raise_if_held(self._holder())
        self._renew()
        try:
            self._raise_if_held(self._holder())
        except UserError:
            self._delete_own_file()
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._thread.join()
        self._delete_own_file()

    def _delete_own_file(self) -> None:
        with contextlib.suppress(OSError, UserError, DamagedFileError):
            if read_json(self._path).get("name") == self._name:
                self._path.unlink()

    def _raise_if_held(self, holder: dict[str, Any] | None) -> None:
        if holder is None:
            return
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
        scope = f"its part {holder['part']}" if holder.get("part") else "it"
        raise UserError(
            "sweep",
            self._path.parent.name,
            f"a driver is at work on {scope}: process {holder['pid']} ({holder['user']}) on {holder['host']} since "
            f"{since}; wait for it, follow it with `status`, or stop it",
        )

    def _holder(self) -> dict[str, Any] | None:
        """Return the lease of another driver on the sweep or on an overlapping part; None if there is none."""
        others = (held for held in holders(self._path.parent, self._path) if held.get("name") != self._name)
        return next((held for held in others if not _are_disjoint(self._part, held.get("part"))), None)

    def _renew(self) -> None:
        publish_json(
            self._out,
            self._path,
            {
                "name": self._name,
                "part": self._part,
                "user": _user(),
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "born": _process_start_time(os.getpid()),
                "since": self._since,
                "beat": time.time(),
            },
        )

    def _renew_until_released(self) -> None:
        while not self._released.wait(HEARTBEAT):
            with contextlib.suppress(UserError):  # the sweep itself reports a full disk
                if self._holder() is None:  # otherwise this driver was paused and another one has taken the lease
                    self._renew()


def holders(folder: Path, *also: Path) -> list[dict[str, Any]]:
    """Return the drivers at work on a sweep: one, or one for each of several parts.

    Args:
        folder: The sweep's folder.
        also: Leases that are read even if a stale listing does not show them.
    """
    paths = sorted({*folder.glob("lease*.json"), *also})
    return [held for held in map(holder, paths) if held is not None]


def _are_disjoint(one: str | None, other: str | None) -> bool:
    """Return whether two drivers work on different tasks: on different parts of the same number of parts."""
    return one is not None and other is not None and one != other and one.split("/")[1] == other.split("/")[1]


def holder(path: Path) -> dict[str, Any] | None:
    """Return the driver that holds a lease. None if there is no file, or its driver is dead."""
    try:
        held = read_json(path)
        check_fields(held, LEASE_TYPES)
        if any(held[key] is None for key in REQUIRED) or held["since"] > MAX_TIME:
            return None
        if abs(time.time() - held["beat"]) > STALE:
            return None
        if held["host"] == socket.gethostname() and _process_start_time(held["pid"]) != held["born"]:
            return None
        parse_part(held.get("part"))
        return held
    except (DamagedFileError, UserError, KeyError, FormatError):
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a user may have no name
        return str(os.getuid())


def _process_start_time(pid: int) -> float | None:
    """Return the start time of a process of this host, to distinguish it from a later one with the same id."""
    try:
        return float(psutil.Process(pid).create_time())
    except (psutil.Error, ValueError, OverflowError):  # the latter two for a number that no process can have
        return None
