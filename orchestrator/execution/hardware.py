"""What this machine has: cores, memory, GPUs. Looks only; imports nothing heavy."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Gpu:
    """One GPU as its driver names it; memory in bytes."""

    name: str
    memory: int


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs of this machine; none where nvidia-smi is missing or fails."""
    if not shutil.which("nvidia-smi"):
        return ()
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
        pairs = [line.rsplit(",", 1) for line in lines if line.strip()]
        return tuple(Gpu(name.strip(), int(mib) << 20) for name, mib in pairs)
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes of memory that can still be taken, the control group's limit heeded."""
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
