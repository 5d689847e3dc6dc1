"""moto's imitation of S3 on loopback, and a proxy that can be closed, as an outage of a store."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

from tests.object_stores.ceph import Store

PATIENCE = 60.0
"""Seconds that the server may take until it serves."""


@contextlib.contextmanager
def moto_server() -> Iterator[Store]:
    """Run moto's server while the context lasts; yield the store. It keeps objects in memory and checks no keys."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    store = Store(f"http://127.0.0.1:{port}", "key", "secret")
    try:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{store.endpoint}/moto-api/", timeout=10).close()
                break
            time.sleep(0.1)
        yield store
    finally:
        process.kill()
        process.wait()


class Proxy:
    """Passes connections on to a store, until it is closed; it can be opened again under the same address."""

    def __init__(self, store: Store) -> None:
        host, _, port = store.endpoint.rpartition("//")[2].partition(":")
        self._target = (host, int(port))
        self._port = _free_port()
        self._listener: socket.socket | None = None
        self._connections: list[socket.socket] = []
        self.store = Store(f"http://127.0.0.1:{self._port}", store.key, store.secret)

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Refuse new connections and break those that are open."""
        assert self._listener is not None
        for connection in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._connections.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
                self._connections += [client, server]
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=_forward, args=(source, target), daemon=True).start()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
