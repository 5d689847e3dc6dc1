"""A lease on a sweep or a part of it: tells a second driver who is at work, where, since when. Correctness never needs
it."""

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

from orchestrator.store.files import DamagedFile, publish_json, read_json
from orchestrator.utils.errors import UserError

HEARTBEAT = 5.0
STALE = 60.0


class Lease:
    """Held while a driver works on a sweep; renewed by a heartbeat, given up at the end.

    A holder that is dead (its process is gone from this host, or its heartbeat has stopped) never blocks. A file of its
    own on entering: where two drivers enter in the same instant, the one whose name stays in it goes on.
    `part`: i/n, where only that share of the sweep is meant; then other parts of the same n may be held beside it, each
    in a file of its own, and the whole may not.
    Raises UserError on entering while another driver holds it.
    """

    def __init__(self, out: Path, path: Path, part: str | None = None) -> None:
        self._out, self._path, self._part = out, path, part
        self._over = threading.Event()
        self._since = time.time()
        self._name = uuid.uuid4().hex
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Lease:
        self._refuse(self._holder())
        self._beat()
        try:
            self._refuse(self._holder())
        except UserError:
            self._leave()
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._leave()

    def _leave(self) -> None:
        with contextlib.suppress(OSError, UserError, DamagedFile):
            if read_json(self._path).get("name") == self._name:
                self._path.unlink()

    def _refuse(self, holder: dict[str, Any] | None) -> None:
        if holder is None:
            return
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
        what = f"its part {holder['part']}" if holder.get("part") else "it"
        raise UserError(
            "sweep",
            self._path.parent.name,
            f"a driver is at work on {what}: process {holder['pid']} ({holder['user']}) on {holder['host']} since "
            f"{since}; wait for it, follow it with `status`, or stop it",
        )

    def _holder(self) -> dict[str, Any] | None:
        """Who else holds it now, or some of it, or None."""
        others = (held for held in holders(self._path.parent, self._path) if held.get("name") != self._name)
        return next((held for held in others if not _apart(self._part, held.get("part"))), None)

    def _beat(self) -> None:
        publish_json(
            self._out,
            self._path,
            {
                "name": self._name,
                "part": self._part,
                "user": _user(),
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "born": _born(os.getpid()),
                "since": self._since,
                "beat": time.time(),
            },
        )

    def _keep(self) -> None:
        while not self._over.wait(HEARTBEAT):
            with contextlib.suppress(UserError):  # a full disk is the sweep's trouble, not the lease's
                if self._holder() is None:  # else it was thought dead, stopped for long: it is not its own any more
                    self._beat()


def holders(folder: Path, *also: Path) -> list[dict[str, Any]]:
    """Who works on the sweep in that folder now: one driver, or one for each of several parts. `also`: leases that are
    looked at even where a stale listing does not show them."""
    found = map(holder, sorted({*folder.glob("lease*.json"), *also}))
    return [held for held in found if held is not None]


def _apart(one: str | None, other: str | None) -> bool:
    """Whether two drivers do not get in each other's way: different parts of the same number."""
    return one is not None and other is not None and one != other and one.split("/")[1] == other.split("/")[1]


def holder(path: Path) -> dict[str, Any] | None:
    """Who holds the lease in that file, or None: no file, or its driver is dead."""
    try:
        held = read_json(path)
        if abs(time.time() - held["beat"]) > STALE:
            return None
        if held["host"] == socket.gethostname() and _born(held["pid"]) != held["born"]:
            return None
        return held
    except (DamagedFile, UserError, KeyError):
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _born(pid: int) -> float | None:
    """When a process of this host was started; tells it from a later one of the same number."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
