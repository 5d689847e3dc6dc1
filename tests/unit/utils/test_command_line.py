"""Commands that are printed begin as the user has started this program, so that they can be copied."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.pipeline.run import resume_hint
from orchestrator.utils.command_line import command_line


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an environment with a Python and the console script that is not on the PATH; work in the folder above."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "safety-landscape"):
        (folder / name).touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "orchestrator" / "__main__.py")])
    monkeypatch.setenv("PATH", "")
    return folder


def test_the_python_is_named_as_the_shell_finds_it(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command_line("run", "name=two words") == ".venv/bin/python -m orchestrator run 'name=two words'"
    monkeypatch.setenv("PATH", str(environment))
    assert command_line("view") == "python -m orchestrator view"
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir("/")
    assert command_line("view") == f"{environment.relative_to('/')}/python -m orchestrator view"


def test_the_console_script_is_named_if_it_was_called(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/safety-landscape"])
    assert command_line("status") == ".venv/bin/safety-landscape status"
    monkeypatch.setenv("PATH", str(environment))
    assert command_line("status") == "safety-landscape status"


def test_the_command_that_resumes_a_run_has_its_folder_of_presets(environment: Path) -> None:
    command = "Continue with: .venv/bin/python -m orchestrator run model=mine"
    assert resume_hint(["model=mine"], "my presets").endswith(f"{command} --config-dir 'my presets'")
    assert resume_hint(["model=mine"]).endswith(command)
