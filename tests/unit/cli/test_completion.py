"""Shell completion: the scripts are given to real shells, which complete real lines."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from orchestrator.cli.main import main


@pytest.fixture
def script(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", request.param]) == 0
    return capsys.readouterr().out


def shell(name: str, text: str) -> list[str]:
    """Run lines in a shell and return the lines of its output."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    flags = ["--norc"] if name == "bash" else ["-f"] if name == "zsh" else ["--no-config"]
    done = subprocess.run([program, *flags], input=text, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("script", ["bash"], indirect=True)
@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("safety-landscape ver", ["verify"]),
        ("safety-landscape help pl", ["plan"]),
        ("safety-landscape run grid.st", ["grid.steps="]),
        ("safety-landscape run model=mis", ["mistral7b"]),
        ("safety-landscape run grid.seed=1 sampling.early_stop=", ["true", "false"]),
        ("safety-landscape run --js", ["--json"]),
    ],
)
def test_bash_completes(script: str, line: str, completions: list[str]) -> None:
    call = f"COMP_LINE='{line}' COMP_POINT={len(line)}\n_safety_landscape\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    assert shell("bash", script + call) == completions


@pytest.mark.parametrize("script", ["fish"], indirect=True)
@pytest.mark.parametrize(
    ("line", "first"),
    [
        ("safety-landscape ver", "verify"),
        ("safety-landscape run grid.step", "grid.steps="),
        ("safety-landscape run model=mistr", "model=mistral7b"),
    ],
)
def test_fish_completes(script: str, line: str, first: str) -> None:
    assert first in shell("fish", f"{script}\ncomplete -C '{line}'\n")


@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_accepts_the_script(script: str) -> None:
    offered = "compadd() { shift 3; print -l -- $@ }; compdef() { :; }\n"
    call = "words=(safety-landscape run x) CURRENT=3 PREFIX=model=mi\n_safety_landscape\n"
    assert "model=mistral7b" in shell("zsh", offered + script + call)


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "csh"]) == 2
    assert "must be one of bash, zsh, fish" in capsys.readouterr().err
    assert main(["completion"]) == 2
