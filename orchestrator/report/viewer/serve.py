"""Serve the viewer on a port of this machine until it is interrupted."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import psutil

from orchestrator.report.viewer.options import DEFAULT_PORT, ViewerOptions
from orchestrator.utils.errors import UserError

TOKEN_VARIABLE = "LANDSCAPE_TOKEN"  # not an option: every user of a machine can see command lines
MAX_CONNECTIONS = 200  # maximum number of open connections; further callers get the status 503
TOKEN_LENGTH = 16  # minimum number of characters of a token; half as many must be different


def serve(root: Path, options: ViewerOptions, announce: Callable[[str], object]) -> None:
    """Serve the studies below `root` until interrupted.

    Args:
        root: The root of studies, a study or a sweep.
        options: Where to listen and what to show.
        announce: Called with the address once the port is open.

    Raises:
        UserError: If the port is taken, the address is not one of this machine, or LANDSCAPE_TOKEN is too weak.
    """
    import uvicorn

    from orchestrator.report.viewer.app import make_app
    from orchestrator.report.viewer.catalog import StudyCatalog

    token = _token() if options.token else None
    with _listen(options) as listener, tempfile.TemporaryDirectory(prefix="landscape-") as scratch:
        address = _address(options.host, listener.getsockname()[1])
        announce(f"{address}?token={quote(token, safe='')}" if token else address)
        app = make_app(
            StudyCatalog(root, Path(scratch), options.reveal), allowed_hosts(options), token, options.is_private
        )
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
            limit_concurrency=MAX_CONNECTIONS,
        )
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        uvicorn.Server(config).run(sockets=[listener])


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a message of the server is more than that it ends and cuts a slow request off."""
    return not str(record.msg).startswith("Cancel %s running task(s)")


def _token() -> str:
    """Return the token of LANDSCAPE_TOKEN, or a random one. Raises UserError if the former could be guessed."""
    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        return secrets.token_urlsafe(24)
    printable = token.isascii() and token.isprintable() and " " not in token
    if not printable or len(token) < TOKEN_LENGTH or len(set(token)) < TOKEN_LENGTH // 2:
        remedy = (
            f"must have at least {TOKEN_LENGTH} letters, digits or signs of ASCII, at least {TOKEN_LENGTH // 2} of "
        )
        remedy += "them different, and no spaces: leave it out, and a random one is made"
        raise UserError(TOKEN_VARIABLE, f"of length {len(token)}", remedy)  # the value itself is a secret
    return token


def allowed_hosts(options: ViewerOptions) -> set[str]:
    """Return the host names under which browsers may call the viewer.

    A request with any other name in its Host header comes from a foreign domain that resolves to this machine (DNS
    rebinding).
    """
    hosts = {"localhost", "127.0.0.1", "::1", options.host, *options.names}
    if not options.is_loopback:
        hosts.add(socket.gethostname())
        hosts |= {entry.address.partition("%")[0] for card in psutil.net_if_addrs().values() for entry in card}
    return {name.lower() for name in hosts if name} | {f"[{name.lower()}]" for name in hosts if ":" in name}


def _address(host: str, port: int) -> str:
    """Return the address to open in a browser."""
    if host in ("0.0.0.0", "::", ""):
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _listen(options: ViewerOptions) -> socket.socket:
    """Open the port. Raises UserError if that is not possible."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    ports = (DEFAULT_PORT, 0) if options.port is None else (options.port,)
    for port in ports:
        try:
            return socket.create_server((options.host, port), family=family)
        except OSError as error:
            if port == ports[-1]:
                address = f"{options.host}:{port}"
                reason = f"cannot listen there ({error.strerror}): name another"
                raise UserError("view.port", address, reason) from error
    raise AssertionError("unreachable: the last port returns or raises")
