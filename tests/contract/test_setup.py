"""Test scripts/setup.sh: the choice of engine, wheels on disk, interruptions. A stand-in for uv records its calls."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.rules import ROOT

pytestmark = pytest.mark.thorough

UV = """#!/bin/sh
echo "$* links=$UV_FIND_LINKS" >>"$NOTES"
case "$1" in
    --version) exit 0 ;;
    venv) mkdir -p .venv/bin && ln -s "$PYTHON" .venv/bin/python ;;
    pip) if [ "$2" = compile ]; then echo "torch==1.0$UV_TORCH" && exit 0; fi; exit "${UV_FAILS:-0}" ;;
esac
"""


class Machine:
    """A copy of the files that setup.sh reads, and a PATH with stand-ins for uv, nvidia-smi and uname."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.programs, self.notes = folder / "checkout", folder / "bin", folder / "notes"
        self.programs.mkdir()
        for name in ("pyproject.toml", "scripts/setup.sh", "scripts/find_uv.sh", "scripts/locks/torch-cpu.txt"):
            (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.checkout / name)
        self.add_program("uv", UV)
        self.add_program("nvidia-smi", "#!/bin/sh\necho 'No devices were found' && exit 6\n")
        self.add_program("uname", "#!/bin/sh\necho Linux\n")
        (self.programs / "python3").symlink_to(sys.executable)

    def add_program(self, program: str, text: str) -> None:
        (self.programs / program).write_text(text)
        (self.programs / program).chmod(0o755)

    def set_up(self, *extras: str, **environment: str) -> tuple[int, list[str]]:
        """Run setup.sh; return its exit code and the calls of uv, except questions."""
        self.notes.write_text("")
        variables = {"PATH": f"{self.programs}:/usr/bin:/bin", "NOTES": str(self.notes), "PYTHON": sys.executable}
        variables["PIP_CONFIG_FILE"] = "/dev/null"  # ignore this machine's pip configuration
        script = self.checkout / "scripts" / "setup.sh"
        completed = subprocess.run(
            [script, *extras], env=variables | environment, capture_output=True, text=True, check=False
        )
        calls = self.notes.read_text().splitlines()
        return completed.returncode, [call for call in calls if not call.startswith(("--", "pip compile"))]

    @property
    def stamps(self) -> set[str]:
        return {path.name for path in (self.checkout / ".venv").glob(".setup-*")}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def commands(*options: str, lock: str) -> list[str]:
    """Return the two calls of uv that install the dependencies and this project."""
    dependencies = ["pip install --python .venv --requirement pyproject.toml", *options, "links="]
    project = f"pip install --quiet --python .venv --no-deps --editable . --build-constraint scripts/locks/{lock}.txt"
    return [" ".join(dependencies), f"{project} links="]


CPU = "--override scripts/cpu-overrides.txt --require-hashes --constraint scripts/locks/cpu.txt"
GPU = "--require-hashes --constraint scripts/locks/gpu.txt"


def test_without_a_gpu_the_cpu_engine_is_installed_with_its_lock_and_overrides(machine: Machine) -> None:
    code, calls = machine.set_up("finetune", "dev")
    assert code == 0
    assert calls[1:] == commands("--extra cpu --extra finetune --extra dev", CPU, lock="cpu")
    assert machine.stamps == {".setup-done"}


def test_the_hashes_of_pytorchs_cpu_build_are_used_if_uv_finds_that_build(machine: Machine) -> None:
    calls = machine.set_up(UV_TORCH="+cpu")[1]
    assert calls[1:] == commands("--extra cpu", CPU, "--constraint scripts/locks/torch-cpu.txt", lock="cpu")


def test_with_a_gpu_the_gpu_engine_is_installed(machine: Machine) -> None:
    machine.add_program("nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")
    assert machine.set_up()[1][1:] == commands("--extra gpu", GPU, lock="gpu")


def test_the_environment_variable_selects_the_engine(machine: Machine) -> None:
    assert machine.set_up(ENGINE="gpu")[1][1:] == commands("--extra gpu", GPU, lock="gpu")


def test_vllm_is_not_installed_on_other_systems(machine: Machine) -> None:
    machine.add_program("uname", "#!/bin/sh\necho Darwin\n")
    locked = "--require-hashes --constraint scripts/locks/cpu.txt"
    assert machine.set_up()[1][1:] == commands("--extra transformers", locked, lock="cpu")
    assert machine.set_up("dev")[1] == commands("--extra transformers --extra dev", locked, lock="cpu")


def test_without_the_lock_no_hashes_are_required(machine: Machine) -> None:
    dependencies, project = machine.set_up("dev", LOCKED="no", ENGINE="gpu")[1][1:]
    assert dependencies == "pip install --python .venv --requirement pyproject.toml --extra gpu --extra dev links="
    assert project == "pip install --quiet --python .venv --no-deps --editable . links="


def test_folders_of_wheels_configured_for_pip_are_used(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    folders = f"{tmp_path}/wheels {tmp_path}/nowhere"
    pip_config = tmp_path / "pip.conf"
    pip_config.write_text(f"[global]\nfind-links =\n    {tmp_path}/nowhere\n    {tmp_path}/wheels\n")
    for variables in ({"PIP_FIND_LINKS": folders}, {"PIP_CONFIG_FILE": str(pip_config)}):
        assert machine.set_up(**variables)[1][-1].endswith(f" links={tmp_path}/wheels")
    assert machine.set_up(PIP_FIND_LINKS=folders, UV_FIND_LINKS="mine")[1][-1].endswith(" links=mine")


def test_setup_starts_over_after_an_interruption(machine: Machine) -> None:
    uv_that_kills_setup = UV.replace('exit "$', 'kill -9 $PPID; exit "$')
    machine.add_program("uv", uv_that_kills_setup)
    assert machine.set_up()[0] != 0
    assert machine.stamps == {".setup-unfinished"}
    (machine.checkout / ".venv" / "half").touch()
    machine.add_program("uv", UV)
    code, calls = machine.set_up()
    assert (code, calls[0].split()[0]) == (0, "venv")
    assert not (machine.checkout / ".venv" / "half").exists()
    assert machine.stamps == {".setup-done"}


def test_a_working_environment_is_kept_if_an_extra_cannot_be_installed(machine: Machine) -> None:
    machine.set_up()
    assert machine.set_up("dev", UV_FAILS="2")[0] == 1
    assert machine.stamps == {".setup-done"}
    assert [call.split()[0] for call in machine.set_up("dev")[1]] == ["pip", "pip"]


def test_setup_starts_over_after_a_failed_first_run(machine: Machine) -> None:
    assert machine.set_up(UV_FAILS="1")[0] == 1
    assert machine.stamps == {".setup-unfinished"}
    assert [call.split()[0] for call in machine.set_up()[1]] == ["venv", "pip", "pip"]


def test_an_environment_without_its_python_is_created_again(machine: Machine) -> None:
    machine.set_up()
    (machine.checkout / ".venv" / "bin" / "python").unlink()
    assert [call.split()[0] for call in machine.set_up()[1]] == ["venv", "pip", "pip"]
