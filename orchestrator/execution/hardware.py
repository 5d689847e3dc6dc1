"""Hardware of this machine: CPU cores, memory and GPUs. The module imports no heavy library."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class InstalledGpu:
    """A GPU of this machine: its name according to the driver, and its memory in bytes.

    The memory of a GPU that shares the machine's memory (for which the driver says [N/A]) is all memory of the machine.
    """

    name: str
    memory: int


@functools.cache
def gpus() -> tuple[InstalledGpu, ...]:
    """Return the NVIDIA GPUs of this machine; none if nvidia-smi is missing or fails."""
    if not shutil.which("nvidia-smi"):
        return ()
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()
    pairs = [line.rpartition(",") for line in lines if line.strip()]
    return tuple(
        InstalledGpu(name.strip(), int(mib) << 20 if mib.strip().isdecimal() else psutil.virtual_memory().total)
        for name, _, mib in pairs
        if name
    )


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
