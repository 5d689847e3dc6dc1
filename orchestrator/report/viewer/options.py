"""The viewer's options."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from orchestrator.config.schema import ViewConfig
from orchestrator.utils.errors import UserError

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8642


@dataclass(frozen=True)
class ViewerOptions:
    """Options of the viewer: its address and what it shows.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 uses any free one. None uses DEFAULT_PORT, or any free one if it is taken.
        names: Further host names under which browsers may call this machine.
        reveal: Whether responses are shown in full.
        token: Whether callers need the token in the printed address.
    """

    host: str = DEFAULT_HOST
    port: int | None = None
    names: tuple[str, ...] = ()
    reveal: bool = False
    token: bool = True

    @classmethod
    def from_config(cls, config: ViewConfig, reveal: bool) -> ViewerOptions:
        """Return the options of a configuration. Raises UserError if other machines could read without a token."""
        options = cls(config.host, config.port, tuple(config.names), reveal, config.token)
        if not (options.token or options.is_loopback):
            raise UserError(
                "view.token", "false", f"would open the studies to every machine that reaches {config.host}"
            )
        return options

    @property
    def is_private(self) -> bool:
        """True if only users of this machine who have the token can call the viewer, and by none but its own names."""
        return self.token and self.is_loopback and not self.names

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach the viewer."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
