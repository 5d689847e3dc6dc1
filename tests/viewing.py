"""The viewer as a server in a thread of its own, on a port of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from orchestrator.report.viewer import serve as view
from orchestrator.report.viewer.app import make
from orchestrator.report.viewer.live import Room


@contextlib.contextmanager
def viewing(root: Path, scratch: Path, reveal: bool = False, token: str | None = None) -> Iterator[str]:
    """Serve the studies below `root`; gives the address, without a slash at its end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = make(Room(root, scratch, reveal), view.names(view.Asked()), token)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()
