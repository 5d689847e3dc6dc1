"""The command line as users call it: a process of its own, its exit code, its output, and what it leaves on disk."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest


@dataclasses.dataclass(frozen=True)
class Said:
    """What one call ended with."""

    code: int
    out: str
    err: str


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator", *arguments]


def call(*arguments: str, timeout: float = 600, env: dict[str, str] | None = None) -> Said:
    """Run one command line to its end."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=timeout, env=os.environ | (env or {}), check=False
    )
    return Said(done.returncode, done.stdout, done.stderr)


def refused(said: Said, *parts: str) -> None:
    """The user's mistake: exit code 2, one sentence with these parts on stderr, no traceback, nothing on stdout."""
    assert said.code == 2, said
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in said.err, said.err
    for part in parts:
        assert part in lines[0], (part, lines[0])


class Driver:
    """A command line that runs, to be killed with all it started."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def kill(self) -> None:
        """SIGKILL to the driver alone: what it started has to notice by itself."""
        self.process.kill()
        self.process.communicate()

    def interrupt(self) -> Said:
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=120)
        return Said(self.process.returncode, out, err)

    def wait(self, timeout: float = 600) -> Said:
        out, err = self.process.communicate(timeout=timeout)
        return Said(self.process.returncode, out, err)


@pytest.fixture
def start() -> Iterator[Callable[..., Driver]]:
    """start(*arguments) -> Driver; whatever still runs at the end is killed."""
    drivers: list[Driver] = []

    def begin(*arguments: str) -> Driver:
        drivers.append(Driver(*arguments))
        return drivers[-1]

    yield begin
    for driver in drivers:
        if driver.process.poll() is None:
            driver.kill()


def parts(out: Path) -> list[Path]:
    """The stored parts of the one study below `out`."""
    return sorted(out.glob("*/generations/*.parquet"))


def wait_for(condition: Callable[[], Any], timeout: float = 180) -> Any:
    """What `condition` returns once it is true."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def responses(out: Path) -> dict[tuple[str, str, str], tuple[str, str, int]]:
    """(point, prompt set, prompt) -> (response, finish reason, tokens) of all that is stored; no row twice."""
    found: dict[tuple[str, str, str], tuple[str, str, int]] = {}
    for path in parts(out):
        for row in pq.read_table(path).to_pylist():
            key = (row["point_id"], row["prompt_set_id"], row["prompt_id"])
            value = (row["response"], row["finish_reason"], row["n_tokens"])
            assert found.setdefault(key, value) == value, f"{key} is stored twice, differently"
    return found


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
