"""The status of a sweep, computed from what its drivers left on disk: running, ended or dead without a final record."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store import status
from orchestrator.store.lease import Lease
from orchestrator.store.records import FailedVisit, RunRecord, RunTotals
from orchestrator.store.runs import RunRecorder
from orchestrator.store.status import Status
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.until import GoalProgress, UntilOutcome
from tests.unit.stored import basin, store_sweep


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """A sweep of 11 points, of which 8 are stored."""
    path = store_sweep(tmp_path, basin(0.3), leave_out=lambda node: node.alpha > 0.25, directions=1)
    return SweepFolder(Study.open(path.parents[1]), path)


def examine(folder: SweepFolder) -> Status:
    """Return the sweep's status as it is on disk now."""
    return status.examine(StoredSweep.open(folder))


def begin_run(folder: SweepFolder, at: float, *events: tuple[float, str, dict[str, Any]], **run_fields: Any) -> str:
    """Record an unfinished run that began at `at`, and its events; return its id.

    Each event is (seconds after the start, name, fields).
    """
    run = f"run{at:09.0f}"
    run_fields = {"host": socket.gethostname(), "pid": -1, **run_fields}
    folder.write_run(RunRecord(run=run, started_at=at, outcome="running", tasks=9, **run_fields))
    log = folder.study.events(run)
    for later, name, fields in [(0.0, "run_started", {}), *events]:
        log.path.parent.mkdir(exist_ok=True)
        with open(log.path, "a") as file:
            file.write(json.dumps({"at": at + later, "event": name, **fields}) + "\n")
    return run


READY = {"slot": 0, "gpus": 2.0, "load_seconds": 10.0}


def visit_done(later: float, visit: str) -> tuple[float, str, dict[str, Any]]:
    return later, "visit_done", {"slot": 0, "visit": visit, "responses": 20, "tokens": 100, "seconds": 5.0}


def visit_given(later: float, visit: str) -> tuple[float, str, dict[str, Any]]:
    return later, "visit_given", {"slot": 0, "visit": visit}


@pytest.mark.parametrize("step", [-40 * 86400.0, 3600.0])
def test_a_clock_that_is_set_while_a_run_goes_on_changes_no_duration(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    recorder = RunRecorder(folder, 3)
    log = folder.study.events(recorder.run)
    log.write("actor_ready", **READY)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + step)
    log.write("actor_died", slot=0)
    while_running = examine(folder)
    recorder.end("complete", RunTotals())
    for seconds in (while_running.seconds, examine(folder).seconds):
        assert 0 <= seconds < 600
    assert while_running.gpu_hours == pytest.approx(2 * 10 / 3600, rel=0.5)


def test_runs_that_died_and_runs_that_ended_are_added_up(folder: SweepFolder) -> None:
    begin_run(folder, 100, (20, "actor_ready", READY), visit_given(20, "a"), visit_done(30, "a"), visit_given(30, "b"))
    begin_run(folder, 200, (20, "actor_ready", READY), visit_done(30, "b"), (40, "actor_died", {"slot": 0}),
          (70, "actor_ready", READY), visit_done(80, "c"))  # fmt: skip
    record = RunRecorder(folder, 3)
    record.end("complete", RunTotals(tokens=7, restarts=1, gpu_seconds=3600.0))
    result = examine(folder)
    assert (result.state, result.done, result.tasks, result.running) == ("incomplete", 8, 11, 0)
    assert (result.tokens, result.restarts) == (100 + 200 + 7, 0 + 1 + 1)
    assert result.seconds == pytest.approx(30 + 80, abs=5)
    # Each actor held two GPUs from the start of its load to its death, or to its last event.
    assert result.gpu_hours == pytest.approx((2 * (20 + 30 + 20) + 3600) / 3600, abs=1e-3)
    assert result.driver is None and ("GPU-hours", "1.04") in status.lines(result)


def test_running_parts_are_reported_together(folder: SweepFolder) -> None:
    now = time.time()
    for part, at in (("1/3", now - 100), ("2/3", now - 60)):
        events = [visit_given(0, "a"), visit_done(10, "a"), visit_given(10, "b"), visit_done(20, "b")]
        events.append(visit_given(20, f"c{part}"))
        begin_run(folder, at, (0, "actor_ready", READY), *events, part=part, pid=os.getpid())
    begin_run(folder, now - 500, visit_given(1, "z"), part="3/3")  # died
    first, second = (Lease(folder.study.out, folder.lease_path(part), part) for part in ("1/3", "2/3"))
    with first, second:
        result = examine(folder)
    assert (result.state, result.running) == ("running", 2)
    assert result.points_per_second == pytest.approx(2 * 2 / 20)
    assert result.eta_seconds == pytest.approx(3 / 0.2)
    assert result.driver is not None and result.driver.count(f"process {os.getpid()} ") == 2
    dead = examine(folder)
    assert dead.state == "incomplete", "no driver holds the lease anymore"
    assert dead.died and not result.died
    assert ("state", "incomplete (its driver was killed; the same command continues it)") in status.lines(dead)


MET = GoalProgress(name="radius", wanted=0.1, met=True)
OPEN = GoalProgress(name="visage", wanted=2)
OUT_OF_REACH = GoalProgress(name="visage", wanted=2, reason="nothing can be added that narrows it")


@pytest.mark.parametrize(
    ("goals", "state"), [((MET, OPEN), "incomplete"), ((MET,), "complete"), ((MET, OUT_OF_REACH), "complete")]
)
@pytest.mark.parametrize("is_killed", [True, False])
def test_a_sweep_is_not_complete_while_a_goal_can_still_be_met(
    tmp_path: Path, goals: tuple[GoalProgress, ...], state: str, is_killed: bool
) -> None:
    path = store_sweep(tmp_path, basin(0.3), directions=1)
    folder = SweepFolder(Study.open(path.parents[1]), path)
    recorder = RunRecorder(folder, 3, until=UntilOutcome(goals=goals))
    if not is_killed:
        recorder.end("interrupted")
    result = examine(folder)
    assert (result.done, result.tasks) == (11, 11), "every task of the requested grid is stored"
    is_open = state == "incomplete"
    assert (result.state, result.died) == (state, is_open and is_killed)
    assert result.open_goals == (("until.visage=2",) if is_open else ())
    assert (("not met yet", "until.visage=2") in status.lines(result)) == is_open
    assert result.to_json()["open_goals"] == list(result.open_goals)
    folder.write_run(RunRecord(run="later", outcome="complete"))
    assert examine(folder).state == "complete", "a later run without goals asks for no more"


def test_visits_that_were_given_up_are_reported(folder: SweepFolder) -> None:
    stored = StoredSweep.open(folder)
    missing = [task.key for task in stored.sweep.tasks() if task.key not in stored.generations]
    failures = [FailedVisit(point_id=p, prompt_set_ids=(s,), errors=("once", "it broke")) for p, s in missing]
    RunRecorder(folder, 3).end("complete", failures=failures)
    result = examine(folder)
    assert (result.state, result.failed, len(result.failures)) == ("failed", 3, 3)
    assert all(failure.endswith(": it broke") for failure in result.failures)


def test_a_failure_that_a_later_run_repaired_is_not_reported(folder: SweepFolder) -> None:
    stored = StoredSweep.open(folder)
    keys = [task.key for task in stored.sweep.tasks()]
    missing = [key for key in keys if key not in stored.generations]
    repaired = next(key for key in keys if key in stored.generations)  # a later run stored its responses
    failures = [FailedVisit(point_id=p, prompt_set_ids=(s,), errors=("it broke",)) for p, s in (repaired, missing[0])]
    RunRecorder(folder, 3).end("complete", failures=failures)
    result = examine(folder)
    assert result.failed == 1 and result.failures == (f"point {missing[0][0]}: it broke",)


def test_a_run_with_a_damaged_record_is_skipped(folder: SweepFolder) -> None:
    RunRecorder(folder, 3).end("complete", RunTotals(tokens=7))
    other = RunRecorder(folder, 3)
    (folder.path / "runs" / f"{other.run}.json").write_text("{")
    assert examine(folder).tokens == 7
