"""What set-up decides: the engine, wheels on disk, what an interrupted one leaves. uv is a note-taker."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.rules import ROOT

UV = """#!/bin/sh
echo "$* links=$UV_FIND_LINKS" >>"$NOTES"
case "$1" in
    --version) exit 0 ;;
    venv) mkdir -p .venv/bin && ln -s "$PYTHON" .venv/bin/python ;;
    pip) exit "${UV_FAILS:-0}" ;;
esac
"""


class Machine:
    """A checkout of what set-up reads, and a PATH with a stand-in for uv."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.programs, self.notes = folder / "checkout", folder / "bin", folder / "notes"
        self.programs.mkdir()
        for name in ("pyproject.toml", "scripts/setup.sh", "scripts/cpu-overrides.txt"):
            (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.checkout / name)
        self.has("uv", UV)
        self.has("nvidia-smi", "#!/bin/sh\necho 'No devices were found' && exit 6\n")
        self.has("uname", "#!/bin/sh\necho Linux\n")
        (self.programs / "python3").symlink_to(sys.executable)

    def has(self, program: str, text: str) -> None:
        (self.programs / program).write_text(text)
        (self.programs / program).chmod(0o755)

    def set_up(self, *extras: str, **environment: str) -> tuple[int, list[str]]:
        """Its exit code, and the calls of uv."""
        self.notes.write_text("")
        known = {"PATH": f"{self.programs}:/usr/bin:/bin", "NOTES": str(self.notes), "PYTHON": sys.executable}
        known["PIP_CONFIG_FILE"] = "/dev/null"  # whatever this machine's pip is told of
        script = self.checkout / "scripts" / "setup.sh"
        done = subprocess.run([script, *extras], env=known | environment, capture_output=True, text=True, check=False)
        return done.returncode, [line for line in self.notes.read_text().splitlines() if line[:2] != "--"]

    @property
    def stamps(self) -> set[str]:
        return {path.name for path in (self.checkout / ".venv").glob(".setup-*")}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_a_gpu_the_cpu_engine_with_its_overrides(machine: Machine) -> None:
    code, calls = machine.set_up("finetune", "dev")
    assert code == 0
    install = "pip install --python .venv --override scripts/cpu-overrides.txt --editable .[cpu,finetune,dev] links="
    assert calls[1:] == [install]
    assert machine.stamps == {".setup-done"}


def test_with_a_gpu_the_gpu_engine(machine: Machine) -> None:
    machine.has("nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")
    assert machine.set_up()[1][1:] == ["pip install --python .venv --editable .[gpu] links="]


def test_one_may_decide_oneself(machine: Machine) -> None:
    assert machine.set_up(ENGINE="gpu")[1][1:] == ["pip install --python .venv --editable .[gpu] links="]


def test_no_engine_where_there_is_none(machine: Machine) -> None:
    machine.has("uname", "#!/bin/sh\necho Darwin\n")
    assert machine.set_up()[1][1:] == ["pip install --python .venv --editable . links="]
    assert machine.set_up("dev")[1] == ["pip install --python .venv --editable .[dev] links="]


def test_wheels_that_pip_is_told_of(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    places = f"{tmp_path}/wheels {tmp_path}/nowhere"
    told = tmp_path / "pip.conf"
    told.write_text(f"[global]\nfind-links =\n    {tmp_path}/nowhere\n    {tmp_path}/wheels\n")
    for known in ({"PIP_FIND_LINKS": places}, {"PIP_CONFIG_FILE": str(told)}):
        assert machine.set_up(**known)[1][-1].endswith(f" links={tmp_path}/wheels")
    assert machine.set_up(PIP_FIND_LINKS=places, UV_FIND_LINKS="mine")[1][-1].endswith(" links=mine")


def test_an_interrupted_set_up_starts_anew(machine: Machine) -> None:
    killed = UV.replace("pip) exit", "pip) kill -9 $PPID; exit")
    machine.has("uv", killed)
    assert machine.set_up()[0] != 0
    assert machine.stamps == {".setup-unfinished"}
    (machine.checkout / ".venv" / "half").touch()
    machine.has("uv", UV)
    code, calls = machine.set_up()
    assert (code, calls[0].split()[0]) == (0, "venv")
    assert not (machine.checkout / ".venv" / "half").exists()
    assert machine.stamps == {".setup-done"}


def test_an_environment_that_works_outlives_an_extra_that_cannot_be_had(machine: Machine) -> None:
    machine.set_up()
    assert machine.set_up("dev", UV_FAILS="2")[0] == 1
    assert machine.stamps == {".setup-done"}
    assert [call.split()[0] for call in machine.set_up("dev")[1]] == ["pip"]


def test_a_failed_first_set_up_starts_anew(machine: Machine) -> None:
    assert machine.set_up(UV_FAILS="1")[0] == 1
    assert machine.stamps == {".setup-unfinished"}
    assert [call.split()[0] for call in machine.set_up()[1]] == ["venv", "pip"]


def test_an_environment_whose_python_is_gone_is_made_anew(machine: Machine) -> None:
    machine.set_up()
    (machine.checkout / ".venv" / "bin" / "python").unlink()
    assert [call.split()[0] for call in machine.set_up()[1]] == ["venv", "pip"]
