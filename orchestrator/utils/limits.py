"""Limits of a process that live in the process itself, so that they hold when its parent is gone."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def end_with_parent() -> None:
    """Let the operating system kill this process when its parent dies. On systems other than Linux this does nothing.

    The signal also comes when only the thread of the parent that started this process ends. A parent that dies during
    this call ends the process at once.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def limit_process(seconds: float, memory: int | None = None) -> None:
    """Limit this process: the operating system kills it after some time, and it gets no memory beyond a limit.

    Args:
        seconds: Time from now on after which it is killed.
        memory: Bytes of address space that it may take in addition to what it has. Beyond them an allocation fails.
            None: any.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # without a handler, so that native code is ended too
    signal.alarm(math.ceil(seconds))
    if memory is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = _address_space() + memory
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _address_space() -> int:
    """Return the bytes of address space that this process has now; 0 if that is unknown."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0
