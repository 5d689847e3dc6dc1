"""Limits of subprocesses hold in the process itself: killing its parent ends it, and so do its time and its memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.utils import subprocesses
from orchestrator.utils.subprocesses import MemoryLimitError, run_module

SERVE = "import os, sys, time\nfrom orchestrator.utils.subprocesses import serve_module\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which subprocesses import modules."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[3]}")
    return tmp_path


def wait_for(path: Path) -> int:
    """Return the number in a file once it is there."""
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(path.read_text())


def waits_for_end(pid: int) -> bool:
    """Return whether a process ends within a minute."""
    try:
        psutil.Process(pid).wait(60)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        os.kill(pid, signal.SIGKILL)
        return False
    return True


def test_a_process_ends_with_its_parent(folder: Path) -> None:
    mark = folder / "pid"
    body = f"def respond(request):\n    open({str(mark)!r}, 'w').write(str(os.getpid()))\n    time.sleep(600)\n"
    (folder / "sleeps.py").write_text(f"{SERVE}{body}serve_module(respond)\n")
    code = "from orchestrator.utils.subprocesses import run_module; run_module('sleeps', {}, {}, 600)"
    parent = subprocess.Popen([sys.executable, "-c", code])
    child = wait_for(mark)
    parent.kill()
    parent.wait()
    assert waits_for_end(child)


def test_a_process_ends_in_time_although_its_parent_does_not_look(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the parent were stopped: only the limit in the process remains."""
    (folder / "loops.py").write_text(f"{SERVE}def respond(request):\n    sum(range(10**15))\n\nserve_module(respond)\n")
    original = subprocesses.run_python

    def without_timeout(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
        return original(*arguments, **{**options, "timeout": None})  # type: ignore[arg-type]

    monkeypatch.setattr(subprocesses, "run_python", without_timeout)
    monkeypatch.setattr(subprocesses, "GRACE", 0.0)
    with pytest.raises(MemoryLimitError, match="or was killed"):
        run_module("loops", {}, {}, 1)


@pytest.mark.parametrize("code", ["bytearray(4 << 30)", "'ab' * (2 << 30)", "[bytes(1 << 20) for _ in range(4096)]"])
def test_a_process_gets_no_memory_beyond_its_limit(code: str, folder: Path) -> None:
    (folder / "grows.py").write_text(f"{SERVE}def respond(request):\n    return len({code})\n\nserve_module(respond)\n")
    with pytest.raises(MemoryLimitError, match="limit of 1 GiB"):
        run_module("grows", {}, {}, 60, memory=1 << 30)
    (folder / "small.py").write_text(f"{SERVE}serve_module(lambda request: len(bytes(1 << 28)))\n")
    assert run_module("small", {}, {}, 60, memory=1 << 30) == 1 << 28
