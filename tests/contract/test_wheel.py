"""Test that the wheel works outside the repository and contains presets, data, licenses and type markers."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.contract.rules import ROOT

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the wheel that `pip wheel` builds from pyproject.toml."""
    build = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir"]
    folder = tmp_path_factory.mktemp("wheel")
    completed = subprocess.run([sys.executable, *build, folder, ROOT], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_presets_and_data_are_included(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder, inside in (("conf", "orchestrator/conf"), ("orchestrator/data", "orchestrator/data")):
        expected = {
            f"{inside}/{p.relative_to(ROOT / folder).as_posix()}" for p in (ROOT / folder).rglob("*") if p.is_file()
        }
        assert expected
        assert expected - names == set()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"orchestrator", "workers"}


def test_licenses_and_type_markers_are_included(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for name in ("LICENSE", "NOTICE"):
            (inside,) = [n for n in names if n.endswith(f".dist-info/licenses/{name}")]
            assert archive.read(inside) == (ROOT / name).read_bytes()
    assert {"orchestrator/py.typed", "workers/py.typed"} <= set(names)


def test_the_wheel_works_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": "1"}

    def call(*arguments: str) -> str:
        completed = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert completed.returncode == 0, completed.stderr
        return completed.stdout

    location = call("-c", "import orchestrator, workers; print(orchestrator.__file__)").strip()
    assert Path(location).is_relative_to(tmp_path), "the repository's own package was imported"
    assert "run" in call("-m", "orchestrator", "--help")
    plan = call("-m", "orchestrator", "plan", "+model=mistral7b", "--json")  # reads a preset from conf/
    assert "mistral" in plan.lower()
