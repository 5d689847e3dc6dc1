"""Event logs survive a crash."""

from __future__ import annotations

from orchestrator.store.events import read_all_events
from orchestrator.store.study import Study


def test_events_before_and_after_a_truncated_line_are_read(study: Study) -> None:
    log = study.events("20260101T000000-1")
    log.write("visit_done", tokens=3)
    with open(log.path, "a") as file:
        file.write('{"at": 1.0, "event": "cut sho')
    study.events("20260102T000000-1").write("run_started", why="é\n")
    assert [e["event"] for e in read_all_events(study.root)] == ["visit_done", "run_started"]
    assert list(study.events("no such run").read()) == []
