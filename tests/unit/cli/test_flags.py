"""Flags and help: what each prints, and what is answered to an option written with dashes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.cli.output import stderr_console
from tests.contract.rules import ROOT


def test_the_version_has_a_short_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-V"]) == 0
    assert capsys.readouterr().out == version("safety-landscape") + "\n"


def test_help_of_a_verb_shows_the_values_of_its_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "run"]) == 0
    default = capsys.readouterr().out
    assert main(["run", "model=mistral7b", "grid.steps=7", "--help"]) == 0
    chosen = capsys.readouterr().out
    line = "  grid.steps={}                       number of intervals on each axis\n"
    assert line.format("20") in default and line.format("7 ") in chosen
    assert "model.hub=mistralai/Mistral-7B-Instruct-v0.2\n" in chosen
    assert "the values that `run model=mistral7b grid.steps=7` uses" in chosen


def test_help_is_shown_in_spite_of_a_wrong_override(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "grid.stepz=7", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "grid.steps=20" in shown and "did you mean 'grid.steps'" in shown


def test_help_shows_presets_of_a_folder_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "garden.yaml").write_text("max_mib: 7\n", encoding="utf-8")
    for arguments in (["help", "run"], ["run", "--help"]):
        assert main([*arguments, "--config-dir", str(tmp_path), "probes=garden"]) == 0
        shown = capsys.readouterr().out
        assert " garden," in shown and "  probes.max_mib=7 " in shown
    assert main(["help", "run", "--config-dir", str(tmp_path / "nowhere")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_help_of_gate_lists_its_own_options_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "gate"]) == 0
    shown = capsys.readouterr().out
    assert "\n  visage=null " in shown and "grid.steps" not in shown


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--model", "mistral7b"], "write model=mistral7b"),
        (["--model=mistral7b"], "write model=mistral7b"),
        (["--max-tokens", "32"], "write sampling.max_tokens=32"),
        (["--seed"], "write grid.seed=VALUE"),
        (["--limit", "--json"], "write probes.limit=VALUE"),
        (["--jsn"], "did you mean '--json'?"),
        (["--log-level", "loud"], "must be one of debug, info, warning, error"),
        (["--log-level"], "must be one of debug"),
    ],
)
def test_an_option_with_dashes_is_answered_with_how_to_write_it(
    arguments: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments]) == 2
    assert answer in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "shown"), [(["-q"], ""), (["--log-level=warning"], ""), ([], "progress\n")])
def test_quiet_hides_progress_and_keeps_results(
    flags: list[str], shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "engine=dummy", "--json", f"out={tmp_path}", *flags]) == 0
    stderr_console().print("progress")
    captured = capsys.readouterr()
    assert json.loads(captured.out)["points"] == 61
    assert captured.err == shown


@pytest.mark.parametrize("call", [["run"], ["status"], ["help", "run"], ["--version"]])
def test_a_python_without_the_libraries_is_named(call: list[str], tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    bare = [sys.executable, "-S", "-m", "orchestrator", *call]  # -S: without installed packages
    done = subprocess.run(
        bare, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    missing = r"needs [\w-]+, which is not installed for \S+"
    assert re.fullmatch(rf"error: verb={call[0]}: {missing}: call \.venv/bin/python, or `make setup`\n", done.stderr)


def test_a_folder_of_another_user_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def is_study(root: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(root / "study.json"))

    monkeypatch.setattr("orchestrator.store.discovery.is_study", is_study)
    assert main(["status", str(tmp_path)]) == 2
    remedy = "cannot be used (Permission denied): name another one, or let its owner open it to you"
    assert capsys.readouterr().err == f"error: path={tmp_path / 'study.json'}: {remedy}\n"


def test_a_refusal_that_concerns_no_file_is_not_blamed_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_study(root: Path) -> bool:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("orchestrator.store.discovery.is_study", is_study)
    with pytest.raises(PermissionError, match="not permitted"):
        main(["status", str(tmp_path)])


def test_a_file_in_place_of_a_model_is_refused_by_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.safetensors").touch()
    assert main(["plan", f"model.path={tmp_path / 'model.safetensors'}"]) == 2
    assert "is a file: give the folder that contains it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "code"),
    [("/no/m", 2), ("./no", 2), ("../no", 2), ("~/no", 2), ("no/such/m", 2), ("owner/no", 0), ("no", 0)],
)
def test_a_missing_folder_is_refused_by_plan_and_a_name_of_a_hub_is_not(
    path: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", f"model.path={path}", "probes.limit=2"]) == code
    captured = capsys.readouterr()
    assert ("there is no such folder" in captured.err) == (code == 2)
    assert (f"model.path={path} is not on this machine" in captured.out + captured.err) == (code == 0)


def test_a_preset_is_planned_whose_weights_are_in_a_folder_of_another_machine(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "model=mistral7b", "model.path=/no/m", "probes.limit=2"]) == 0
    assert "model.path=/no/m is not on this machine, so that sizes are the preset's" in capsys.readouterr().out
