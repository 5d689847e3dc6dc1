"""A model hub on loopback. A subclass in a test file decides the responses; all requests are counted."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit


class LoopbackHub:
    """An HTTP server at `endpoint`, in its own thread. `requests` counts "METHOD path" without the query string."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_POST(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.requests[f"{self.command} {path}"] += 1
                hub.answer(self, path, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: http.server.BaseHTTPRequestHandler, path: str, body: bytes) -> None:
        """Answer a request by `send`."""
        raise NotImplementedError

    def send(
        self,
        request: http.server.BaseHTTPRequestHandler,
        status: int,
        headers: Mapping[str, str] | None = None,
        content: Any = b"",
    ) -> None:
        """Send a response with bytes, or a JSON value, as its content."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        request.send_response(status)
        sizes = {"Content-Length": str(len(data)), "Accept-Ranges": "bytes"}
        for name, value in {**(headers or {}), **sizes}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            with contextlib.suppress(OSError):
                request.wfile.write(data)

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()
