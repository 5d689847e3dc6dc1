"""Run the viewer as a server in its own thread, on a free port."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from orchestrator.report.viewer.app import make_app
from orchestrator.report.viewer.catalog import StudyCatalog
from orchestrator.report.viewer.options import ViewerOptions
from orchestrator.report.viewer.serve import allowed_hosts


@contextlib.contextmanager
def viewing(root: Path, scratch: Path, reveal: bool = False, token: str | None = None) -> Iterator[str]:
    """Serve the studies below `root`; yield the address without a trailing slash."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = make_app(StudyCatalog(root, scratch, reveal), allowed_hosts(ViewerOptions()), token, token is not None)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()
