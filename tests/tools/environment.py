"""Environments of outside tools, which are never installed into .venv: made by uv and kept in the user's cache."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
from pathlib import Path
from typing import Literal

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.contract.rules import ROOT

LOCKED = re.compile(r"^([\w.-]+==[\w.!-]+)", re.MULTILINE)
"""A library and its version in a lock."""

WEEK = 7 * 24 * 3600.0
"""Seconds after which an environment of the newest versions is removed."""


def tool_python(*packages: str, with_project: bool = True) -> Path:
    """Return the Python of an environment with these packages, which is made on the first call.

    Args:
        packages: Requirements with exact versions.
        with_project: Whether the project and its libraries can be imported too. The tool's own requirements are then
            installed beside the versions that are locked.

    Raises:
        subprocess.CalledProcessError: They cannot be installed.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["transformers"]]
    names = {canonicalize_name(Requirement(text).name) for text in texts}
    lock = (ROOT / "scripts" / "locks" / "cpu.txt").read_text(encoding="utf-8")
    locked = [pin for pin in LOCKED.findall(lock) if canonicalize_name(pin.partition("==")[0]) in names]
    pins = sorted(set(locked))
    libraries = sysconfig.get_paths()["purelib"] if with_project else ""
    key = hashlib.sha256("\n".join([*packages, *pins, libraries, sys.version]).encode()).hexdigest()[:16]
    folder = cache_folder() / f"{packages[0].partition('=')[0]}-{key}"
    python, stamp = folder / "bin" / "python", folder / "complete"
    if stamp.is_file():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    uv = find_uv()
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    command = [uv, "pip", "install", "--quiet", "--python", str(python), *packages]
    if with_project:
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join(pins), encoding="utf-8")
        command += ["--constraint", str(constraints)]
    subprocess.run(command, check=True)
    if with_project:
        (
            folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages" / "_base.pth"
        ).write_text(f"{libraries}\n", encoding="utf-8")
    stamp.touch()
    return python


def range_python(end: Literal["lowest", "newest"], engine: str) -> Path:
    """Return the Python of an environment at one end of the ranges of pyproject.toml, made by scripts/setup.sh.

    The newest versions are looked up once a day. The project is imported from this checkout if it is in PYTHONPATH.

    Args:
        end: Whether each requirement that pyproject.toml names has the lowest or the newest version that it allows.
        engine: The extra that set-up installs beside `finetune`, `dev` and `trackers`: `cpu` or `transformers`.
    """
    inputs = [ROOT / "pyproject.toml", *sorted((ROOT / "scripts").glob("*.sh")), ROOT / "scripts" / "cpu-overrides.txt"]
    day = str(datetime.date.today()) if end == "newest" else ""
    parts = [*(path.read_text(encoding="utf-8") for path in inputs), day, sys.version]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    name = f"range-{end}-{engine}"
    folder = cache_folder() / f"{name}-{key}"
    python, stamp = folder / ".venv" / "bin" / "python", folder / ".venv" / ".setup-done"
    if stamp.is_file():
        return python
    for other in cache_folder().glob(f"{name}-*"):
        if other == folder or time.time() - other.stat().st_mtime > WEEK:
            shutil.rmtree(other, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    for path in inputs:
        shutil.copy(path, folder / path.relative_to(ROOT))
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    resolution = {"lowest": "lowest-direct", "newest": "highest"}[end]
    environment |= {"LOCKED": "no", "ENGINE": engine, "UV_RESOLUTION": resolution}
    environment["PATH"] = f"{folder / 'bin'}:{Path(find_uv()).parent}:{environment['PATH']}"
    if engine == "cpu":  # the same build as in .venv: others need CUDA's libraries
        constraints = folder / "constraints.txt"
        constraints.write_text(f"torch=={importlib.metadata.version('torch')}\n", encoding="utf-8")
        environment["UV_CONSTRAINT"] = str(constraints)
    command = ["scripts/setup.sh", "finetune", "dev", "trackers"]
    done = subprocess.run(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if "Failed to fetch" in done.stderr or "dns error" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    return python


def tool_environment(**variables: str) -> dict[str, str]:
    """Return the environment of a process of a tool that imports the project."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


def cache_folder() -> Path:
    """Return the folder of the user's cache that keeps outside tools."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safety-landscape-tools"


def find_uv() -> str:
    """Return uv's path. Skips the test if there is none."""
    places = [ROOT / ".uv" / "bin", Path(sys.prefix).resolve().parent / ".uv" / "bin"]
    uv = shutil.which("uv", path=os.pathsep.join([*map(str, places), os.environ["PATH"]]))
    if uv is None:
        pytest.skip("uv is not installed")
    return uv
