"""Limits of a process that live in the process itself, so that they hold when its parent is gone."""

from __future__ import annotations

import ctypes
import os
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
