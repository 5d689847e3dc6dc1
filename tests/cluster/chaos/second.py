"""A second driver, started on the sweep that another driver is at work on."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

REFUSAL = "a driver is at work on it"
USER_ERROR = 2


class SecondDriver:
    """A driver that must be refused with one sentence, without disturbing the first.

    Attributes:
        process: Its process.
    """

    def __init__(self, process: subprocess.Popen[bytes], first: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._first, self._log = process, first, log

    def verdict(self) -> str | None:
        """Return what is wrong, an empty string if it was refused as it should be, None if that cannot be judged.

        It cannot be judged if the first driver ended meanwhile. Call this after the process has ended.
        """
        if self._first.poll() is not None:
            return None
        text = self._log.read_text(encoding="utf-8", errors="replace")
        said = [line for line in text.splitlines() if line.startswith("error: ")]
        if self.process.returncode == USER_ERROR and len(said) == 1 and REFUSAL in said[0] and "Traceback" not in text:
            return ""
        return f"a second driver ended with {self.process.returncode}: {text.strip()[-300:]}"


def held_by(lease: Path, pid: int) -> bool:
    """Return whether a process has written the lease in a file."""
    try:
        return bool(json.loads(lease.read_text(encoding="utf-8"))["pid"] == pid)
    except (OSError, ValueError, KeyError):
        return False
