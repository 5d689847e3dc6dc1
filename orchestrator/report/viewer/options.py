"""The viewer's options on the command line."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.utils.errors import UserError, did_you_mean

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8642
_NAMES = ("view.host", "view.port", "view.names", "report.reveal")


@dataclass(frozen=True)
class ViewerOptions:
    """Where to listen and what to show.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 takes any free one. None takes DEFAULT_PORT, or any free one if it is taken.
        names: Further host names under which browsers may call this machine.
        reveal: Whether responses are shown in full.
    """

    host: str = DEFAULT_HOST
    port: int | None = None
    names: tuple[str, ...] = ()
    reveal: bool = False

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the viewer."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_options(overrides: Sequence[str]) -> tuple[ViewerOptions, tuple[str, ...]]:
    """Return the viewer's options among the overrides of a command line, and the other overrides.

    Raises:
        UserError: If an option of the viewer is unknown or has a wrong value.
    """
    given: dict[str, str] = {}
    others = []
    for override in overrides:
        name, _, value = override.partition("=")
        name = name.lstrip("+")
        if name.startswith("view.") and name not in _NAMES:
            raise UserError(name, value, f"there is no such option{did_you_mean(name, _NAMES)}")
        if name in _NAMES:
            given[name] = value
        else:
            others.append(override)
    port = given.get("view.port")
    if port is not None and not (port.isdecimal() and int(port) < 1 << 16):
        raise UserError("view.port", port, "is a number from 0 (any free port) to 65535")
    reveal = given.get("report.reveal", "false").lower()
    if reveal not in ("true", "false"):
        raise UserError("report.reveal", reveal, "is true or false")
    options = ViewerOptions(
        host=given.get("view.host", DEFAULT_HOST),
        port=None if port is None else int(port),
        names=tuple(name for name in given.get("view.names", "").strip("[]").split(",") if name),
        reveal=reveal == "true",
    )
    return options, tuple(others)
