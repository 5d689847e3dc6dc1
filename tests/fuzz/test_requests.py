"""Every HTTP request to the viewer gets a response, and none is an internal error."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.report.viewer.app import make_app
from orchestrator.report.viewer.catalog import StudyCatalog
from tests.fuzz.fuzzing import fuzz
from tests.unit.stored import basin, store_sweep

TOKEN = "a-token-of-some-length"
ROUTES = ("", "now", "prompts", "search", "points/x", "..", "%2e%2e", "points/../../..")


def test_requests(tmp_path_factory: pytest.TempPathFactory) -> None:
    root: Path = tmp_path_factory.mktemp("studies")
    folder = store_sweep(root, basin(0.3), directions=1, steps=2, probes=("a", "b"))
    catalog = StudyCatalog(root, tmp_path_factory.mktemp("scratch"))
    app = make_app(catalog, ["localhost"], TOKEN)
    sweep = f"/sweeps/{folder.parents[1].name}/{folder.name}"
    paths = st.sampled_from([f"{sweep}/{route}" for route in ROUTES]) | st.text(max_size=20).map(
        lambda text: f"/{text}"
    )

    @fuzz(60)
    @given(
        st.sampled_from(["GET", "HEAD", "POST", "PUT", "\x00"]),
        paths,
        st.binary(max_size=30) | st.sampled_from([b"text=%ff", b"text=a&group=harmful&outcome=complied", b"token=%00"]),
        st.sampled_from([b"localhost", b"localhost:80", b"evil", b"", b"\xff"]),
        st.sampled_from([TOKEN.encode(), b"", b"\xff"]) | st.binary(max_size=12),
    )
    def attempt(method: str, path: str, query: bytes, host: bytes, token: bytes) -> None:
        headers = [(b"host", host), (b"authorization", b"Bearer " + token)]
        # In a thread of its own, because other tests may leave an event loop in this one.
        with ThreadPoolExecutor(1) as pool:
            status = pool.submit(asyncio.run, _status(app, method, path, query, headers)).result()
        assert status < 500
        if host[:9] == b"localhost" and token != TOKEN.encode():
            assert status in (303, 401)

    attempt()


async def _status(app: Any, method: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    """Call an ASGI application and return the status of its response."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(errors="surrogatepass"),
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    sent = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return int(next(message["status"] for message in sent if message["type"] == "http.response.start"))
