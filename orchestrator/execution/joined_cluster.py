"""Notice that a cluster cannot be joined or no longer answers, before Ray waits or ends the driver without a word.

Its processes belong to others, so only their sockets and command lines can be observed.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import psutil

HEAD_INTERVAL = 5.0
"""Seconds between two connections to the head."""

HEAD_PATIENCE = 40.0
"""Seconds for which the head may refuse connections: it may be restarted. Ray's own limit is 60."""


def is_listening(path: str) -> bool:
    """Return whether a process listens on a Unix socket. True if that is unknown, as on other systems than Linux."""
    if sys.platform != "linux":
        return True
    try:
        listed = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return any(line.endswith(f" {path}") for line in listed.splitlines())


class HeadProbe:
    """Connects to the head of a cluster now and then, and remembers since when it has refused."""

    def __init__(self) -> None:
        self._address = ""
        self._refused_since: float | None = None
        self._next = 0.0

    def has_ended(self, address: str) -> bool:
        """Return whether the head at `HOST:PORT` has refused connections for HEAD_PATIENCE seconds.

        A head that cannot be reached at all, as when a cable is cut, does not count: Ray decides when to give it up.
        """
        now = time.monotonic()
        if address != self._address:
            self._address, self._refused_since, self._next = address, None, 0.0
        if now >= self._next:
            self._next = now + HEAD_INTERVAL
            if not _refuses(address):
                self._refused_since = None
            elif self._refused_since is None:
                self._refused_since = now
        return self._refused_since is not None and now - self._refused_since >= HEAD_PATIENCE


def answers(address: str) -> bool:
    """Return whether the head at `HOST:PORT` accepts a connection within HEAD_PATIENCE seconds.

    True also for an address without a port, which no connection can check.
    """
    end = time.monotonic() + HEAD_PATIENCE
    while _failure(address) is not None:
        if time.monotonic() >= end:
            return False
        time.sleep(1.0)
    return True


def closed_path(address: str) -> Path | None:
    """Return the log folder or socket of this machine's node of a cluster if this user cannot write there.

    Ray aborts a process that cannot open its log or connect to its node. None if both are open, if another node of the
    cluster on this machine has open ones, or if they are unknown because no node's process can be seen.
    """
    closed = []
    for process in psutil.process_iter(["cmdline"]):
        options = dict(word.split("=", 1) for word in process.info["cmdline"] or [] if "=" in word)
        if options.get("--gcs-address") == address and {"--session_dir", "--raylet_socket_name"} <= options.keys():
            paths = (Path(options["--session_dir"], "logs"), Path(options["--raylet_socket_name"]))
            closed.append(next(filter(_is_closed, paths), None))
    return next(iter(closed), None) if None not in closed else None


def _is_closed(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:  # of a node in a container
        return False
    except PermissionError:
        return True
    return not os.access(path, os.W_OK)


def _refuses(address: str) -> bool:
    return isinstance(_failure(address), ConnectionRefusedError)


def _failure(address: str) -> OSError | None:
    """Return why a connection fails. None if it does not, or if the address has no port."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
    except OSError as error:
        return error
    except ValueError:
        return None
    return None
