"""Processes of a local Ray session: notice their ends, and leave none behind.

If the driver is killed, Ray's agents would keep trying to reach the dead session for a minute.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterable, Iterator

import psutil

_REAPER = """
import os, signal, sys
processes = [line.split() for line in sys.stdin]  # to its end, which comes when the driver closes the pipe or dies
for pid, born in processes:
    try:
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[19] == born:
                os.kill(int(pid), signal.SIGKILL)
    except OSError:
        pass
"""
"""Program of a process that outlives the driver by a moment. It kills the processes that were named to it."""


@contextlib.contextmanager
def agents_end_with_driver() -> Iterator[None]:
    """Kill the agents of the local Ray session when the context is left, or when this process dies inside it."""
    if sys.platform != "linux":
        yield
        return
    command = [sys.executable, "-I", "-S", "-c", _REAPER]
    reaper = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
    assert reaper.stdin is not None
    try:
        with contextlib.suppress(OSError):
            reaper.stdin.writelines(f"{agent.pid} {_start_ticks(agent.pid)}\n" for agent in _agents())
            reaper.stdin.flush()
        yield
    finally:
        with contextlib.suppress(OSError):
            reaper.stdin.close()
        reaper.wait()


def _agents() -> list[psutil.Process]:
    """Return the children of the session's raylet that are not workers."""
    agents = []
    for raylet in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            agents += [child for child in raylet.children() if "agent" in " ".join(child.cmdline()).lower()]
    return agents


def _start_ticks(pid: int) -> str:
    """Return the start time of a process in clock ticks, to distinguish it from a later one with the same id."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[19]
    return "?"


def child_processes() -> set[psutil.Process]:
    """Return the processes that this process has started."""
    return set(psutil.Process().children())


def kill_ray_processes(processes: Iterable[psutil.Process]) -> None:
    """Kill those of these processes that belong to Ray, and wait until they have ended."""
    of_ray = [each for each in processes if _is_of_ray(each)]
    for process in of_ray:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(of_ray, timeout=10)


def _is_of_ray(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return any(name in command for name in ("gcs_server", "raylet", "/ray/"))


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a child process has ended or is ending.

    A killed process cannot be waited for before its last thread has ended, which takes seconds on a busy machine. Its
    first thread, whose end its children see, is a zombie before that.
    """
    if process.poll() is not None:
        return True
    try:
        return psutil.Process(process.pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return True
