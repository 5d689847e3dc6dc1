"""The project works at both ends of the version ranges in pyproject.toml: the lowest direct versions and the newest.

vLLM is exact, and holds back NumPy, transformers and torch. So the newest end is tested with it and without it.
"""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Literal

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.contract.rules import ROOT
from tests.tools.environment import find_uv, range_python, tool_environment

pytestmark = pytest.mark.tools

End = Literal["lowest", "newest"]
ENDS = pytest.mark.parametrize(
    ("end", "engine"),
    [("lowest", "cpu"), ("newest", "cpu"), pytest.param("newest", "transformers", marks=pytest.mark.slow)],
)
QUICK = "not thorough and not slow and not engine and not gpu"
NOT_HERE = {"cpu": set(), "transformers": {"workers.engines.vllm_worker"}}
"""Modules that an engine's environment cannot import."""

IMPORT_ALL = """
import importlib, pkgutil
for package in ("orchestrator", "workers"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if not module.name.endswith(".__main__"):
            try:
                importlib.import_module(module.name)
            except Exception as error:
                print("failed:", module.name, ascii(error))
"""
VERSIONS = "import importlib.metadata as m; [print(d.name, d.version) for d in m.distributions()]"


def call(python: Path, *arguments: str | Path, cwd: Path = ROOT) -> str:
    """Return what a command of the environment prints."""
    environment = {key: value for key, value in tool_environment().items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [str(python), "-P", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, (done.stdout + done.stderr)[-30_000:])
    return done.stdout


def installed(python: Path) -> dict[str, Version]:
    pairs = (line.split() for line in call(python, "-c", VERSIONS).splitlines())
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def lower_bounds(*extras: str) -> dict[str, Version]:
    """Return the lower bound of each range, by canonical name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    return {
        canonicalize_name(requirement.name): Version(specifier.version)
        for requirement in map(Requirement, texts)
        for specifier in requirement.specifier
        if specifier.operator == ">="
    }


@ENDS
def test_a_sweep_is_measured_and_read(end: End, engine: str, tmp_path: Path) -> None:
    python = range_python(end, engine)
    options = ("grid.steps=4", "grid.directions=1", "probes.limit=4", "out=studies")
    call(python, "-m", "orchestrator", "run", "engine=dummy", *options, cwd=tmp_path)
    call(python, "-m", "orchestrator", "verify", "studies", cwd=tmp_path)
    read = "from orchestrator import load_study; print(len(load_study('studies').landscape))"
    assert call(python, "-c", read, cwd=tmp_path).strip() == "5"


@pytest.mark.slow
@ENDS
def test_every_module_is_imported(end: End, engine: str) -> None:
    printed = call(range_python(end, engine), "-c", IMPORT_ALL).splitlines()
    failed = {line.split()[1] for line in printed if line.startswith("failed:")}
    assert failed == NOT_HERE[engine], printed


@pytest.mark.slow
def test_the_lowest_environment_has_every_lower_bound() -> None:
    """A bound that nothing can be installed beside would be untrue."""
    versions, bounds = installed(range_python("lowest", "cpu")), lower_bounds("transformers")
    assert bounds and {name: Version(versions[name].public) for name in bounds} == bounds


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "trackio", "tensorboard"])
def test_the_lower_bound_of_a_tracker_can_be_installed(tracker: str, tmp_path: Path) -> None:
    """Nothing is installed. All four at once exclude each other's oldest releases, so each is tried alone."""
    (name,) = set(lower_bounds(tracker)) - set(lower_bounds())
    (tmp_path / "tracker.txt").write_text(f"{name}=={lower_bounds(tracker)[name]}")
    command = [find_uv(), "pip", "compile", "--quiet", "--python-version", "3.12", "--extra", "transformers"]
    command += ["pyproject.toml", str(tmp_path / "tracker.txt")]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "Failed to fetch" in found.stderr or "dns error" in found.stderr:
        pytest.skip("no package index can be reached")
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
@ENDS
def test_the_fast_tests_pass(end: End, engine: str) -> None:
    """Without vLLM, those whose names or files have `vllm` in them are left out."""
    options = ("-q", "-n", "2", "--dist", "loadfile", "-m", QUICK, *(("-k", "not vllm") if engine != "cpu" else ()))
    call(range_python(end, engine), "-m", "pytest", *options, "tests/contract/test_imports.py", "tests/unit")


@pytest.mark.slow
@ENDS
def test_the_main_job_is_measured_with_the_real_engine(end: End, engine: str, tmp_path: Path) -> None:
    """The embedded model at its origin and at both ends of one direction, by vLLM if the environment has it."""
    name = {"cpu": "vllm", "transformers": "transformers"}[engine]
    options = (f"engine={name}", "grid.steps=2", "grid.directions=1", "probes.limit=8", f"out={tmp_path}")
    python = range_python(end, engine)
    call(python, "-m", "orchestrator", "run", *options)
    read = "from orchestrator import load_study; print(*load_study('.').landscape.sort_values('alpha').asr)"
    low, origin, high = map(float, call(python, "-c", read, cwd=tmp_path).split())
    assert origin <= 25 and low >= 75 and high >= 75
