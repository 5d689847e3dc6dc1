"""Tests of how a sweep in a bucket is shown on a machine with an empty cache: its address, and its report's file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import FailedTasksError, load_studies, load_study
from orchestrator.cli.main import main
from orchestrator.report.viewer import serve
from orchestrator.store.working_copy import open_root
from tests.object_stores.ceph import Store
from tests.unit.stored import basin, store_sweep

Use = Callable[[Store], str]
SMALL = {"probes": tuple("abcd"), "directions": 1, "steps": 4}


@pytest.fixture
def sweep(moto: Store, use: Use, other_machine: Callable[[str], Path]) -> str:
    """Return the address of a sweep; this process is on another machine then, whose cache is empty."""
    address = use(moto)
    root = open_root(address)
    folder = store_sweep(root, basin(0.25), **SMALL)
    other_machine(address)
    return f"{address}/{folder.relative_to(root)}"


def test_verbs_name_the_address(
    sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    local = str(store_sweep(tmp_path / "studies", basin(0.4), **SMALL))
    formats = ("jsonl", "harmbench", "latex", "vtp")
    calls = [
        *(["export", name, sweep, f"to=exported/{name}"] for name in formats),
        ["export", "jsonl", sweep],
        ["gate", sweep, "visage=100", "gate.allow_single=true", "junit=gate.xml"],
        ["compare", sweep, local, "html=compared.html", "csv=compared.csv", "latex=compared.tex"],
        ["view", sweep, "bundle=bundle"],
        ["status", sweep],
    ]
    codes = [main(call) for call in calls]
    printed = capsys.readouterr()
    assert codes == [0] * 5 + [1] + [0] * 3, printed
    assert {path.name for path in (tmp_path / "exported").iterdir()} == {*formats}
    text, machine = "".join((printed.out + printed.err).split()), str(tmp_path / "other")  # long lines are folded
    assert text.count(sweep) == 6 and sweep in (tmp_path / "gate.xml").read_text()
    assert machine not in text
    written = [path for path in tmp_path.rglob("*") if path.is_file() and not str(path).startswith(machine)]
    assert not [path for path in written if machine.encode() in path.read_bytes()]
    assert len(os.listdir(tmp_path / "other" / "buckets")) == 1


def test_the_viewer_refuses_a_folder_without_studies(
    sweep: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "serve", lambda *call: None)
    nowhere = f"{sweep.partition('/studies/')[0]}/nowhere"
    assert main(["view", nowhere]) == 2
    assert capsys.readouterr().err.startswith(f"error: path={nowhere}: there is no study in that folder")


def test_report_prints_the_address_and_the_file(sweep: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", sweep]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["report"] == f"{sweep}/report.html" and lines["live"].endswith(f" view {sweep}")
    assert "</html>" in Path(lines["here"]).read_text()


def test_python_names_the_address(sweep: str) -> None:
    (path,) = load_studies(sweep.partition("/studies/")[0] + "/studies")["path"]
    study = load_study(path)
    assert path == sweep and repr(study) == f"<sweep {sweep}>"
    assert str(FailedTasksError(str(study.sweep))).startswith(f"{sweep}: some tasks failed")
