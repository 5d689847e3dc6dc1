"""Hardware of this machine: CPU cores and memory. The module imports no heavy library."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

NOT_ON_LINUX = (
    "vLLM runs on Linux: here engine=transformers runs small models slowly, and plan, status, report, view, compare "
    "and gate work as on Linux"
)
"""The remedy on another operating system."""


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Return the bytes of memory that processes can still allocate, within the limit of the control group if any."""
    free = psutil.virtual_memory().available
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        cache = next(
            int(line.split()[1])
            for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
        free = min(free, limit - used + cache)
    except (OSError, ValueError, StopIteration):
        pass
    return max(0, free)
