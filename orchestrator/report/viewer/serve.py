"""`view`: a local web page over all studies. Only looks: nothing is written to any study.

Room (live.py): what is known of each sweep now --app.py--> pages and JSON --view.js, report/page.js--> the browser
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestrator.utils.errors import UserError, did_you_mean

HOST, PORT = "127.0.0.1", 8642
TOKEN = "LANDSCAPE_TOKEN"  # an environment variable: a command line is seen by everyone on the machine
_OPTIONS = ("view.host", "view.port", "view.names", "report.reveal")


@dataclass(frozen=True)
class Asked:
    """Where to listen and what to show. `port`: None takes PORT, or any that is free; `names`: further names by which
    browsers may call this machine."""

    host: str = HOST
    port: int | None = None
    names: tuple[str, ...] = ()
    reveal: bool = False

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def asked(overrides: Sequence[str]) -> tuple[Asked, tuple[str, ...]]:
    """What a command line asks of the viewer, and the overrides that are none of its. Raises UserError."""
    found: dict[str, str] = {}
    rest = []
    for override in overrides:
        name, _, value = override.partition("=")
        name = name.lstrip("+")
        if name.startswith("view.") and name not in _OPTIONS:
            raise UserError(name, value, f"there is no such option{did_you_mean(name, _OPTIONS)}")
        if name in _OPTIONS:
            found[name] = value
        else:
            rest.append(override)
    port = found.get("view.port")
    if port is not None and not (port.isdecimal() and int(port) < 1 << 16):
        raise UserError("view.port", port, "is a number from 0 (any free port) to 65535")
    reveal = found.get("report.reveal", "false").lower()
    if reveal not in ("true", "false"):
        raise UserError("report.reveal", reveal, "is true or false")
    names = tuple(name for name in found.get("view.names", "").strip("[]").split(",") if name)
    number = None if port is None else int(port)
    return Asked(found.get("view.host", HOST), number, names, reveal == "true"), tuple(rest)


def serve(root: Path, wanted: Asked, told: Callable[[str], object]) -> None:
    """Serve the studies below `root` until interrupted. `told` hears the address. Raises UserError where that port is
    taken, or the address is none of this machine's."""
    import uvicorn

    from orchestrator.report.viewer.app import make
    from orchestrator.report.viewer.live import Room

    token = None if wanted.is_loopback else os.environ.get(TOKEN) or secrets.token_urlsafe(24)
    with _listen(wanted) as listener, tempfile.TemporaryDirectory(prefix="landscape-") as scratch:
        port = listener.getsockname()[1]
        host = socket.gethostname() if wanted.host in ("0.0.0.0", "::", "") else wanted.host
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        told(f"{address}?token={token}" if token else address)
        app = make(Room(root, Path(scratch), wanted.reveal), names(wanted), token)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        uvicorn.Server(config).run(sockets=[listener])


def names(wanted: Asked) -> set[str]:
    """The names by which a browser may call: any other in its Host header is somebody's who had his own name point
    here (DNS rebinding)."""
    found = {"localhost", "127.0.0.1", "::1", wanted.host, *wanted.names}
    if not wanted.is_loopback:
        found |= {socket.gethostname()}
        found |= {each.address.partition("%")[0] for cards in psutil.net_if_addrs().values() for each in cards}
    return {name.lower() for name in found if name} | {f"[{name.lower()}]" for name in found if ":" in name}


def _listen(wanted: Asked) -> socket.socket:
    family = socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
    ports = (PORT, 0) if wanted.port is None else (wanted.port,)
    for port in ports:
        try:
            return socket.create_server((wanted.host, port), family=family)
        except OSError as error:
            if port == ports[-1]:
                where = f"{wanted.host}:{port}"
                raise UserError("view.port", where, f"cannot listen there ({error.strerror}): name another") from error
    raise AssertionError("a port or an error")
