"""Event logs survive a crash."""

from __future__ import annotations

import socket
import traceback
from pathlib import Path

from orchestrator.execution.events import shortened
from orchestrator.store.events import read_all_events
from orchestrator.store.records import FailedVisit
from orchestrator.store.runs import RunRecorder
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder


def test_events_before_and_after_a_truncated_line_are_read(study: Study) -> None:
    log = study.events("20260101T000000-1")
    log.write("visit_done", tokens=3)
    with open(log.path, "a") as file:
        file.write('{"at": 1.0, "event": "cut sho')
    study.events("20260102T000000-1").write("run_started", why="é\n")
    assert [e["event"] for e in read_all_events(study.root)] == ["visit_done", "run_started"]
    assert list(study.events("no such run").read()) == []


def test_stored_errors_name_no_folder_and_no_host(study: Study, tmp_path: Path) -> None:
    try:
        raise ValueError(f"{tmp_path}/model.safetensors on {socket.gethostname()} and far-away is cut short")
    except ValueError as error:
        why = "".join(traceback.format_exception(error))
    log = study.events("run")
    log.write("actor_ready", host="far-away")
    log.write("visit_failed", why=why)
    log.write("visit_quarantined", story=[why, why])
    recorder = RunRecorder(SweepFolder(study, study.path("sweeps", "a")), 1)
    recorder.end("complete", failures=[FailedVisit(point_id="p", prompt_set_ids=("s",), errors=(why,))])
    (document,) = study.root.glob("sweeps/a/runs/*.json")
    for stored in (log.path.read_text(), document.read_text()):
        assert str(tmp_path) not in stored and str(Path(__file__).parent) not in stored
        assert ".../model.safetensors on HOST and " in stored and "tests/unit/store/test_events.py" in stored
    assert "and far-away" not in log.path.read_text(), "hosts of actors are known from the event that names them"


def test_events_of_earlier_versions_are_read_as_they_are(study: Study) -> None:
    log = study.events("old")
    log.path.parent.mkdir()
    log.path.write_text('{"at": 1.0, "event": "visit_failed", "why": "/opt/ann/x.py on box7"}\n')
    assert [event["why"] for event in log.read()] == ["/opt/ann/x.py on box7"]


def test_a_long_error_is_cut_at_a_line() -> None:
    lines = ["File /opt/ann/x.py"] * 200
    assert set(shortened("\n".join(lines)).split("\n")) == {lines[0]}
    assert shortened("x" * 3000) == "x" * 2000
