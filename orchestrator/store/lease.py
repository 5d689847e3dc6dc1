"""A lease on a sweep or on a part of it: it shows a second driver which driver is at work, where, and since when.

Correctness never depends on it.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from orchestrator.store.files import DamagedFileError, json_bytes, publish_json, read_json
from orchestrator.store.records import MAX_TIME
from orchestrator.store.working_copy import LEASES, LeaseChain, working_copy
from orchestrator.sweep.tasks import parse_part
from orchestrator.utils.errors import UserError
from orchestrator.utils.parsing import FormatError
from orchestrator.utils.records import check_fields

logger = logging.getLogger(__name__)

HEARTBEAT = 5.0  # seconds between renewals
LEASE_TYPES: dict[str, type] = {
    **dict.fromkeys(("name", "part", "user", "host"), str),
    **dict.fromkeys(("born", "since", "beat"), float),
    "pid": int,
    "ticks": int,
}
REQUIRED = ("name", "user", "host", "pid", "since", "beat")
RELEASED = b""  # content of the object that releases a lease in a bucket
STALE = 60.0  # seconds since the last renewal from which on the holder counts as dead
WATCHED = 2.5  # heartbeats for which a lease that looks stale is watched before it is taken over


class Lease:
    """Context manager: the right of one driver to work on a sweep. A heartbeat renews it; leaving releases it.

    A dead holder never blocks: its process is gone from this host, or its heartbeat has stopped. If the last heartbeat
    looks old or in the future, the holder's clock or this one may be wrong, so entering waits for WATCHED heartbeats
    whether another one follows. If two drivers enter at the same moment, the one whose name stays in the file
    continues. Entering raises UserError while another driver holds the lease.

    In a bucket, the lease is a LeaseChain, which only one driver can hold: one that finds its lease taken at a renewal
    stops as after Ctrl-C.
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
        copy = working_copy(out)
        self._chain = None if copy is None else LeaseChain(copy, path)
        self._is_lost = False
        self._is_in_main_thread = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Lease:
        self._raise_if_held(self._holder() or self._beating())
        if not self._renew():
            self._raise_if_held(self._holder())
            remedy = "another driver has begun with it at the same moment: follow it with `status`"
            raise UserError("sweep", self._path.parent.name, remedy)
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
        if self._chain is not None:
            with contextlib.suppress(UserError):
                if not self._is_lost:
                    self._chain.append(RELEASED)
            return
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
        self._look()
        others = (held for held in holders(self._path.parent, self._path) if held.get("name") != self._name)
        return next((held for held in others if not _are_disjoint(self._part, held.get("part"))), None)

    def _beating(self) -> dict[str, Any] | None:
        """Return the lease of another driver whose heartbeat looks stale but goes on; None if there is none."""
        first = {held["name"]: held["beat"] for held in self._overlapping()}
        until = time.monotonic() + WATCHED * HEARTBEAT
        while first and time.monotonic() < until:
            time.sleep(HEARTBEAT / 10)
            now = {held["name"]: held for held in self._overlapping()}
            for name in first.keys() & now.keys():
                if now[name]["beat"] != first[name]:
                    return now[name]
            first = {name: beat for name, beat in first.items() if name in now}
        return None

    def _overlapping(self) -> list[dict[str, Any]]:
        """Return the leases of other drivers on an overlapping part, stale or not, unless their process has ended."""
        self._look()
        leases = map(_read, sorted({*self._path.parent.glob(LEASES), self._path}))
        others = (held for held in leases if held is not None and held["name"] != self._name and not _has_ended(held))
        return [held for held in others if not _are_disjoint(self._part, held.get("part"))]

    def _look(self) -> None:
        """Bring the leases of a sweep in a bucket to its state."""
        if self._chain is not None:
            self._chain.look()

    def _renew(self) -> bool:
        """Write the time of this heartbeat. Return False if another driver has got the lease in a bucket."""
        document = {
            "name": self._name,
            "part": self._part,
            "user": _user(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "born": _process_start_time(os.getpid()),
            "ticks": _start_ticks(os.getpid()),
            "since": self._since,
            "beat": time.time(),
        }
        if self._chain is not None:
            return self._chain.append(json_bytes(document))
        publish_json(self._out, self._path, document)
        return True

    def _renew_until_released(self) -> None:
        while not self._released.wait(HEARTBEAT):
            with contextlib.suppress(UserError):  # the sweep itself reports a full disk
                if self._chain is not None:
                    if not self._renew():
                        self._lose()
                        return
                elif self._holder() is None:  # otherwise this driver was paused and another one has taken the lease
                    self._renew()

    def _lose(self) -> None:
        """Stop this driver as Ctrl-C does: another one took it for dead and has taken the lease."""
        self._is_lost = True
        logger.warning("Another driver has taken over this sweep: nothing more is started, and what is stored stays.")
        if self._is_in_main_thread:  # otherwise the signal would end what the main thread is doing
            os.kill(os.getpid(), signal.SIGINT)


def release(out: Path, path: Path) -> None:
    """Release a lease that this process holds, without its Lease object, because its main thread no longer answers."""
    copy = working_copy(out)
    if copy is None:
        path.unlink(missing_ok=True)
        return
    chain = LeaseChain(copy, path)
    with contextlib.suppress(UserError):
        chain.look()
        chain.append(RELEASED)


def holders(folder: Path, *also: Path) -> list[dict[str, Any]]:
    """Return the drivers at work on a sweep: one, or one for each of several parts.

    Args:
        folder: The sweep's folder.
        also: Leases that are read even if a stale listing does not show them.
    """
    paths = sorted({*folder.glob(LEASES), *also})
    return [held for held in map(holder, paths) if held is not None]


def _are_disjoint(one: str | None, other: str | None) -> bool:
    """Return whether two drivers work on different tasks: on different parts of the same number of parts."""
    return one is not None and other is not None and one != other and one.split("/")[1] == other.split("/")[1]


def holder(path: Path) -> dict[str, Any] | None:
    """Return the driver that holds a lease. None if there is no file, or its driver has ended or its heartbeat has."""
    held = _read(path)
    if held is None or abs(time.time() - held["beat"]) > STALE or _has_ended(held):
        return None
    return held


def _read(path: Path) -> dict[str, Any] | None:
    """Return the content of a lease. None if there is no file, or it cannot be read."""
    try:
        held = read_json(path)
        check_fields(held, LEASE_TYPES)
        if any(held[key] is None for key in REQUIRED) or held["since"] > MAX_TIME:
            return None
        parse_part(held.get("part"))
        return held
    except (DamagedFileError, UserError, KeyError, FormatError):
        return None


def _has_ended(held: Mapping[str, Any]) -> bool:
    """Return whether the holder of a lease was a process of this host that has ended."""
    if held["host"] != socket.gethostname():
        return False
    if held.get("ticks") is not None and sys.platform == "linux":
        return _start_ticks(held["pid"]) != held["ticks"]
    return _process_start_time(held["pid"]) != held["born"]


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


def _start_ticks(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since this machine was. None if there is no such process.

    Unlike the start time, it stays the same if the clock is set. Only on Linux.
    """
    with contextlib.suppress(OSError, ValueError, IndexError, OverflowError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(stat.rpartition(")")[2].split()[19])  # field 22, and the name in field 2 may contain spaces
    return None
