"""Environments of outside tools, which are never installed into .venv: made by uv and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.contract.rules import ROOT

LOCKED = re.compile(r"^([\w.-]+==[\w.!-]+)", re.MULTILINE)
"""A library and its version in a lock."""


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
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safety-landscape-tools"
    folder = cache / f"{packages[0].partition('=')[0]}-{key}"
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


def tool_environment(**variables: str) -> dict[str, str]:
    """Return the environment of a process of a tool that imports the project."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


def find_uv() -> str:
    """Return uv's path. Skips the test if there is none."""
    places = [ROOT / ".uv" / "bin", Path(sys.prefix).resolve().parent / ".uv" / "bin"]
    uv = shutil.which("uv", path=os.pathsep.join([*map(str, places), os.environ["PATH"]]))
    if uv is None:
        pytest.skip("uv is not installed")
    return uv
