"""The clock of a host's Python processes, which can be set while they run."""

from __future__ import annotations

import os
import struct
from pathlib import Path

STEPPED = Path(__file__).parent / "stepped"


class Clock:
    """A clock that is a number of seconds ahead of this machine's.

    Attributes:
        path: The file with that number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(struct.pack("d", 0.0))

    def set(self, seconds: float) -> None:
        """Set the clock to be `seconds` ahead. Processes see it at their next look at the time."""
        with open(self.path, "r+b") as file:  # they have mapped this file, so it must not be replaced
            file.write(struct.pack("d", seconds))

    def env(self, env: dict[str, str]) -> dict[str, str]:
        """Return the environment of processes that have this clock."""
        paths = [str(STEPPED), *filter(None, [env.get("PYTHONPATH")])]
        return {**env, "CHAOS_CLOCK": str(self.path), "PYTHONPATH": os.pathsep.join(paths)}
