"""Test that the locks pin all that pyproject.toml asks for, with hashes, on each Python and platform."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from orchestrator.cli.main import MEASURING
from tests.contract.rules import ROOT

LOCKS = ROOT / "scripts" / "locks"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
PYTHONS = ("3.11.0", "3.11.14", "3.12.0", "3.13.0")
PLATFORMS = (("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64"), ("darwin", "Darwin", "arm64"))


def read(name: str) -> Iterator[tuple[Requirement, list[str]]]:
    """Yield each requirement of a lock with its hashes, as the file has them."""
    text = (LOCKS / f"{name}.txt").read_text().replace("\\\n", "")
    for line in text.splitlines():
        if not line.startswith("#"):
            requirement, *hashes = re.split(r"\s+(?=--)", line.strip())
            yield Requirement(requirement), hashes


def pinned(name: str, environment: Mapping[str, str]) -> dict[str, Version]:
    """Return the versions that a lock has for an environment. Two versions of one project are an error."""
    versions: dict[str, Version] = {}
    for requirement, _ in read(name):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            project = canonicalize_name(requirement.name)
            assert project not in versions, project
            versions[project] = Version(str(requirement.specifier).removeprefix("=="))
    return versions


def environments() -> Iterator[dict[str, str]]:
    for python in PYTHONS:
        for sys_platform, system, machine in PLATFORMS:
            yield {
                **default_environment(),
                "python_full_version": python,
                "python_version": python.rpartition(".")[0],
                "implementation_version": python,
                "sys_platform": sys_platform,
                "platform_system": system,
                "platform_machine": machine,
                "extra": "",
            }


def test_the_command_line_knows_the_libraries_that_measure() -> None:
    requirements = (Requirement(text) for text in EXTRAS["transformers"])
    assert {requirement.name.replace("-", "_") for requirement in requirements} == MEASURING


@pytest.mark.parametrize("name", ["cpu", "gpu", "torch-cpu", "tools", "uv"])
def test_each_requirement_of_a_lock_has_one_version_and_hashes(name: str) -> None:
    requirements = list(read(name))
    assert requirements
    for requirement, hashes in requirements:
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert requirement.url is None
        assert hashes, f"{requirement} has no hash"
        assert all(HASH.fullmatch(text) for text in hashes), requirement


@pytest.mark.parametrize("engine", ["cpu", "gpu"])
def test_a_lock_holds_what_the_project_requires(engine: str) -> None:
    texts = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["build-system"]["requires"]]
    for extra in ("transformers", engine, "finetune", "notebook", "dev"):
        texts += [text for text in EXTRAS[extra] if text != "safety-landscape[transformers]"]
    for environment in environments():
        versions = pinned(engine, environment)
        for requirement in map(Requirement, texts):
            if requirement.marker is None or requirement.marker.evaluate(environment):
                found = versions.get(canonicalize_name(requirement.name))
                assert found is not None and found in requirement.specifier, f"{requirement}: run `make lock`"


def test_the_hashes_of_the_cpu_build_are_for_the_same_release_of_pytorch() -> None:
    ((requirement, hashes),) = read("torch-cpu")
    build = Version(str(requirement.specifier).removeprefix("=="))
    assert requirement.name == "torch"
    assert build.local == "cpu"
    assert Version(build.public) == pinned("cpu", default_environment())["torch"]
    assert len(hashes) >= 6  # Linux on x86_64 and aarch64, for each of three Pythons


def test_a_lock_holds_what_its_installed_packages_require() -> None:
    """uv read the metadata of any one file of each release; what is installed has those of this machine's file."""
    environment = {**default_environment(), "extra": ""}
    versions = pinned("cpu", environment)
    excluded = {
        canonicalize_name(Requirement(line.split("#")[0]).name)
        for line in (ROOT / "scripts" / "cpu-overrides.txt").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    }
    checked = 0
    for distribution in importlib.metadata.distributions():
        if versions.get(canonicalize_name(distribution.name)) != Version(distribution.version):
            continue  # installed by something else, or without the lock
        checked += 1
        for requirement in map(Requirement, distribution.requires or ()):
            project = canonicalize_name(requirement.name)
            if project in excluded or (requirement.marker and not requirement.marker.evaluate(environment)):
                continue
            assert project in versions, f"{distribution.name} requires {requirement}: add it to {LOCKS}/platforms.in"
            assert requirement.specifier.contains(versions[project], prereleases=True), (distribution.name, requirement)
    assert checked > 50


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize(
    ("engine", "platform"),
    [
        ("cpu", "x86_64-manylinux_2_28"),
        ("cpu", "aarch64-manylinux_2_28"),
        ("gpu", "x86_64-manylinux_2_28"),
        ("", "aarch64-apple-darwin"),
    ],
)
def test_uv_finds_a_locked_file_of_each_package(engine: str, platform: str, python: str, tmp_path: Path) -> None:
    """Nothing is downloaded but metadata. Without an index, the test is skipped."""
    uv = shutil.which("uv", path=f"{ROOT / '.uv' / 'bin'}:{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed")
    command = [uv, "pip", "install", "--dry-run", "--target", tmp_path, "--python-platform", platform]
    command += ["--python-version", python, "--require-hashes", "--requirement", "pyproject.toml"]
    command += ["--constraint", LOCKS / f"{engine or 'cpu'}.txt", "--extra", "finetune", "--extra", "dev"]
    command += ["--extra", engine or "transformers"]
    command += ["--override", "scripts/cpu-overrides.txt"] if engine == "cpu" else []
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0", "UV_FIND_LINKS": ""}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if "Failed to fetch" in found.stderr or "dns error" in found.stderr:
        pytest.skip("no package index can be reached")
    assert found.returncode == 0, found.stderr
    assert "Would install" in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["inspect-ai>=0.3.200", "lm-eval>=0.4.9", "mlflow>=3", "wandb>=0.19", "garak>=0.12"])
def test_the_project_resolves_beside_a_tool(tool: str, tmp_path: Path) -> None:
    """Nothing is installed. Without an index, the test is skipped."""
    uv = shutil.which("uv", path=f"{ROOT / '.uv' / 'bin'}:{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed")
    (tmp_path / "tool.txt").write_text(tool)
    command = [uv, "pip", "compile", "--quiet", "--python-version", "3.12", "--extra", "transformers"]
    command += ["pyproject.toml", tmp_path / "tool.txt"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "Failed to fetch" in found.stderr or "dns error" in found.stderr:
        pytest.skip("no package index can be reached")
    assert found.returncode == 0, found.stderr


def test_what_the_project_requires_are_ranges_that_hold_the_locked_version() -> None:
    """Only the engines are exact, because the layout of their weights in memory is traced."""
    versions = pinned("cpu", default_environment())
    for requirement in map(Requirement, [*PYPROJECT["project"]["dependencies"], *EXTRAS["transformers"]]):
        operators = sorted(specifier.operator for specifier in requirement.specifier)
        assert operators == ["<", ">="], requirement
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier
