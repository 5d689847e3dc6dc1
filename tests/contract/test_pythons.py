"""Set the project up with each Python that is installed here, and run the fast tests there. Each takes minutes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.contract.rules import ROOT

pytestmark = pytest.mark.slow


def interpreter(version: str) -> str | None:
    """Return a Python of a minor version, from the PATH or pyenv. A shim that runs nothing does not count."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *pyenv.glob(f"{version}.*/bin/python{version}")]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    return None


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_fast_tests_pass_with_each_python(version: str, tmp_path: Path) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"Python {version} is not installed")
    checkout, programs = tmp_path / "checkout", tmp_path / "bin"
    subprocess.run(["git", "clone", "--quiet", ROOT, checkout], check=True)
    programs.mkdir()
    (programs / "python3").symlink_to(python)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment["PATH"] = f"{programs}:{ROOT / '.uv' / 'bin'}:{environment['PATH']}"
    subprocess.run(["scripts/setup.sh", "finetune", "dev"], cwd=checkout, env=environment, check=True)
    marks = "not thorough and not slow and not engine and not gpu"
    paths = ["tests/contract/test_imports.py", "tests/contract/test_lock.py", "tests/unit"]
    found = subprocess.run(
        [".venv/bin/python", "-m", "pytest", "-q", "-m", marks, *paths],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    print(found.stdout.splitlines()[-1])
    assert found.returncode == 0, found.stdout[-30_000:]
