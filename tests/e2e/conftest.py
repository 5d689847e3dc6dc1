"""Helpers that run the command line as users do, in a separate process, and read what it stores."""

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

from tests.e2e import preloaded


@dataclasses.dataclass(frozen=True)
class CommandResult:
    """Exit code, stdout and stderr of one command line."""

    code: int
    out: str
    err: str


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator", *arguments]


def call(*arguments: str, timeout: float = 600, env: dict[str, str] | None = None) -> CommandResult:
    """Run one command line and wait until it ends. If `env` is given, it runs in a fresh interpreter."""
    if env is None:
        completed = preloaded.server().run(list(arguments), Path.cwd(), dict(os.environ), timeout)
    else:
        completed = subprocess.run(
            command(*arguments), capture_output=True, text=True, timeout=timeout, env=os.environ | env, check=False
        )
    return CommandResult(completed.returncode, completed.stdout, completed.stderr)


def assert_refused(result: CommandResult, *parts: str) -> None:
    """Assert that a command reported a user error: exit code 2, no traceback, one error line with these parts."""
    assert result.code == 2, result
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in result.err, result.err
    for part in parts:
        assert part in lines[0], (part, lines[0])


class Driver:
    """A running command line that tests kill or interrupt."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def kill(self) -> None:
        """Send SIGKILL to the driver only; the processes that it started have to notice by themselves."""
        self.process.kill()
        self.process.communicate()

    def interrupt(self) -> CommandResult:
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=120)
        return CommandResult(self.process.returncode, out, err)

    def wait(self, timeout: float = 600) -> CommandResult:
        out, err = self.process.communicate(timeout=timeout)
        return CommandResult(self.process.returncode, out, err)


@pytest.fixture
def start() -> Iterator[Callable[..., Driver]]:
    """Return a function start(*arguments) -> Driver; drivers that still run after the test are killed."""
    drivers: list[Driver] = []

    def begin(*arguments: str) -> Driver:
        drivers.append(Driver(*arguments))
        return drivers[-1]

    yield begin
    for driver in drivers:
        if driver.process.poll() is None:
            driver.kill()


def parts(out: Path) -> list[Path]:
    """Return the stored parts of the one study below `out`."""
    return sorted(out.glob("*/generations/*.parquet"))


def wait_for(condition: Callable[[], Any], timeout: float = 540) -> Any:
    """Call `condition` until its value is true, and return the value; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"the condition was not met within {timeout} s")


def responses(out: Path) -> dict[tuple[str, str, str], tuple[str, str, int]]:
    """Map (point, prompt set, prompt) to (response, finish reason, tokens) for all stored rows.

    Fails if a row is stored twice with different values.
    """
    stored: dict[tuple[str, str, str], tuple[str, str, int]] = {}
    for path in parts(out):
        for row in pq.read_table(path).to_pylist():
            key = (row["point_id"], row["prompt_set_id"], row["prompt_id"])
            value = (row["response"], row["finish_reason"], row["n_tokens"])
            assert stored.setdefault(key, value) == value, f"{key} is stored twice, differently"
    return stored


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
