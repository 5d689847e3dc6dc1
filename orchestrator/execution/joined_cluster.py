"""Notice that a cluster does not answer, or no longer, before Ray waits or ends the driver without a word.

Its processes belong to others, so only their sockets can be observed.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

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
    """Return whether the head at `HOST:PORT` stops refusing connections within HEAD_PATIENCE seconds.

    True also for an address that no connection can check, such as `auto`.
    """
    end = time.monotonic() + HEAD_PATIENCE
    while _refuses(address):
        if time.monotonic() >= end:
            return False
        time.sleep(1.0)
    return True


def _refuses(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError):
        return False
    return False
