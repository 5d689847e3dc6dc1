"""An OpenAI-compatible endpoint on loopback, whose answers and failures a test chooses."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Reply = tuple[int, Any]
"""Status, and the answer's text (200), error message (other statuses) or raw body (bytes)."""


@dataclass
class EndpointStub:
    """The behavior of the endpoint and the requests that it has received.

    Attributes:
        reply: Returns the reply to a request (its JSON object).
        key: The key that it accepts. None: any.
        requests: The requests that it answered or refused.
        keys: The keys of these requests.
        headers: Headers of every reply with an error.
    """

    reply: Callable[[dict[str, Any]], Reply]
    key: str | None = None
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def judged(self) -> list[dict[str, Any]]:
        """The requests without the one that checks the endpoint."""
        return [request for request in self.requests if request["messages"][-1]["content"] != "Say yes."]


def completion(text: str, prompt_tokens: int = 10, completion_tokens: int = 2) -> dict[str, Any]:
    """Return a chat completion as endpoints send it."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "stub-1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


@contextmanager
def serving(stub: EndpointStub) -> Iterator[EndpointStub]:
    """Serve on a free port of loopback."""
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            key = self.headers["Authorization"].removeprefix("Bearer ")
            with lock:
                stub.requests.append(body)
                stub.keys.append(key)
                status, answer = stub.reply(body)
            if stub.key not in (None, key):
                status, answer = 401, f"Incorrect API key provided: {key}"
            if status == 200 and isinstance(answer, str):
                sent = json.dumps(completion(answer)).encode()
            elif isinstance(answer, bytes):
                sent = answer
            else:
                sent = json.dumps({"error": {"message": answer, "code": None}}).encode()
            self.send_response(status)
            for name, value in (stub.headers if status != 200 else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: Any) -> None:
            """Write nothing to the terminal."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
