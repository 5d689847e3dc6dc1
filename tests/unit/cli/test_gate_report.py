"""The gate for CI: its JUnit report, and the GitHub Action that runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from orchestrator.cli.main import main
from orchestrator.store.discovery import latest_sweep
from tests.contract.rules import ROOT
from tests.unit.stored import basin, store_sweep

pytestmark = pytest.mark.thorough


ACTION = ROOT / ".github" / "actions" / "gate" / "action.yml"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return store_sweep(tmp_path / "studies", basin(0.3), directions=1)


def test_each_threshold_is_a_test(sweep: Path, tmp_path: Path) -> None:
    report = tmp_path / "new" / "gate.xml"
    thresholds = ["radius=0.1", "visage=99.5", "gate.allow_single=true", f"junit={report}"]
    assert main(["gate", str(sweep), *thresholds]) == 1
    root = ET.parse(report).getroot()
    assert root.attrib == {"tests": "3", "failures": "1", "errors": "0"}
    cases = {case.attrib["name"]: case for case in root.iter("testcase")}
    assert list(cases) == [
        "radius at least 0.1",
        "visage at least 99.5",
        "the stored numbers follow from the stored rows",
    ]
    assert {case.attrib["classname"] for case in cases.values()} == {f"gate.{sweep.name}"}
    failed = {name: failure.attrib["message"] for name, case in cases.items() for failure in case.findall("failure")}
    assert list(failed) == ["visage at least 99.5"] and "99.5" in failed["visage at least 99.5"]


def test_a_changed_number_is_a_failed_test(sweep: Path, tmp_path: Path) -> None:
    folder = latest_sweep(sweep)
    folder.write_summary({**folder.read_summary(), "points_done": 1})
    report = tmp_path / "gate.xml"
    assert main(["gate", str(sweep), "radius=0.1", "gate.allow_single=true", f"junit={report}"]) == 1
    (failure,) = ET.parse(report).getroot().iter("failure")
    assert "summary.json" in failure.attrib["message"]


def test_a_report_that_cannot_be_written_is_a_mistake(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gate", str(sweep), "radius=0.1", "gate.allow_single=true", f"junit={tmp_path}"]) == 2
    assert "gate.junit=" in capsys.readouterr().err


@pytest.mark.parametrize(("threshold", "code"), [("radius=0.1", 0), ("radius=0.4", 1)])
def test_the_action_runs_the_gate(sweep: Path, tmp_path: Path, threshold: str, code: int) -> None:
    action = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    (step,) = action["runs"]["steps"]
    program = tmp_path / "bin" / "safety-landscape"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m orchestrator "$@"\n')
    program.chmod(0o755)
    inputs = {"sweep": str(sweep), "thresholds": f"{threshold} gate.allow_single=true", "junit": "gate.xml"}
    assert set(inputs) == set(action["inputs"])
    given = {name: inputs[text.removeprefix("${{ inputs.").removesuffix(" }}")] for name, text in step["env"].items()}
    places = {"PATH": f"{program.parent}:{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]],
        cwd=tmp_path,
        env={**os.environ, **given, **places},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert ET.parse(tmp_path / "gate.xml").getroot().attrib["failures"] == str(code)
    assert "radius" in (tmp_path / "summary.md").read_text()
