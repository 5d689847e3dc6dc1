"""How a sweep stands, from what drivers left on disk: under way, ended, or dead before they could tell."""

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
from tests.unit.stored import basin, store_sweep


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """A sweep of 11 points, of which 8 are stored."""
    path = store_sweep(tmp_path, basin(0.3), leave_out=lambda node: node.alpha > 0.25, directions=1)
    return SweepFolder(Study.open(path.parents[1]), path)


def examine(folder: SweepFolder) -> Status:
    """Return the sweep's status as it is on disk now."""
    return status.examine(StoredSweep.open(folder))


def begin(folder: SweepFolder, at: float, *events: tuple[float, str, dict[str, Any]], **about: Any) -> str:
    """A run that began at `at`, and its events: (seconds later, name, fields). It has not ended."""
    run = f"run{at:09.0f}"
    about = {"host": socket.gethostname(), "pid": -1, **about}
    folder.write_run(RunRecord(run=run, started_at=at, outcome="running", tasks=9, **about))
    log = folder.study.events(run)
    for later, name, fields in [(0.0, "run_started", {}), *events]:
        log.path.parent.mkdir(exist_ok=True)
        with open(log.path, "a") as file:
            file.write(json.dumps({"at": at + later, "event": name, **fields}) + "\n")
    return run


READY = {"slot": 0, "gpus": 2.0, "load_seconds": 10.0}


def done(later: float, visit: str) -> tuple[float, str, dict[str, Any]]:
    return later, "visit_done", {"slot": 0, "visit": visit, "responses": 20, "tokens": 100, "seconds": 5.0}


def given(later: float, visit: str) -> tuple[float, str, dict[str, Any]]:
    return later, "visit_given", {"slot": 0, "visit": visit}


def test_runs_that_died_count_with_those_that_ended(folder: SweepFolder) -> None:
    begin(folder, 100, (20, "actor_ready", READY), given(20, "a"), done(30, "a"), given(30, "b"))
    begin(folder, 200, (20, "actor_ready", READY), done(30, "b"), (40, "actor_died", {"slot": 0}),
          (70, "actor_ready", READY), done(80, "c"))  # fmt: skip
    record = RunRecorder(folder, 3)
    record.end("complete", RunTotals(tokens=7, restarts=1, gpu_seconds=3600.0))
    found = examine(folder)
    assert (found.state, found.done, found.tasks, found.running) == ("incomplete", 8, 11, 0)
    assert (found.tokens, found.restarts) == (100 + 200 + 7, 0 + 1 + 1)
    assert found.seconds == pytest.approx(30 + 80, abs=5)
    # Each actor held two GPUs from the beginning of its load to its death, or as long as is known.
    assert found.gpu_hours == pytest.approx((2 * (20 + 30 + 20) + 3600) / 3600, abs=1e-3)
    assert found.driver is None and ("GPU-hours", "1.04") in status.lines(found)


def test_parts_under_way_are_told_together(folder: SweepFolder) -> None:
    now = time.time()
    for part, at in (("1/3", now - 100), ("2/3", now - 60)):
        begin(folder, at, (0, "actor_ready", READY), given(0, "a"), done(10, "a"), given(10, "b"), done(20, "b"),
              given(20, f"c{part}"), part=part, pid=os.getpid())  # fmt: skip
    begin(folder, now - 500, given(1, "z"), part="3/3")  # died
    first, second = (Lease(folder.study.out, folder.lease_path(part), part) for part in ("1/3", "2/3"))
    with first, second:
        found = examine(folder)
    assert (found.state, found.running) == ("running", 2)
    assert found.points_per_second == pytest.approx(2 * 2 / 20)
    assert found.eta_seconds == pytest.approx(3 / 0.2)
    assert found.driver is not None and found.driver.count(f"process {os.getpid()} ") == 2
    assert examine(folder).state == "incomplete", "nobody is at work any more"


def test_what_was_given_up_is_named(folder: SweepFolder) -> None:
    stored = StoredSweep.open(folder)
    missing = [task.key for task in stored.sweep.tasks() if task.key not in stored.generations]
    failures = [FailedVisit(point_id=p, prompt_set_ids=(s,), story=("once", "it broke")) for p, s in missing]
    RunRecorder(folder, 3).end("complete", failures=failures)
    found = examine(folder)
    assert (found.state, found.failed, len(found.failures)) == ("failed", 3, 3)
    assert all(failure.endswith(": it broke") for failure in found.failures)


def test_a_failure_that_was_mended_is_named_no_more(folder: SweepFolder) -> None:
    stored = StoredSweep.open(folder)
    keys = [task.key for task in stored.sweep.tasks()]
    missing = [key for key in keys if key not in stored.generations]
    repaired = next(key for key in keys if key in stored.generations)  # by a later run
    failures = [FailedVisit(point_id=p, prompt_set_ids=(s,), story=("it broke",)) for p, s in (repaired, missing[0])]
    RunRecorder(folder, 3).end("complete", failures=failures)
    found = examine(folder)
    assert found.failed == 1 and found.failures == (f"point {missing[0][0]}: it broke",)


def test_a_run_whose_record_is_damaged_is_passed_over(folder: SweepFolder) -> None:
    RunRecorder(folder, 3).end("complete", RunTotals(tokens=7))
    other = RunRecorder(folder, 3)
    (folder.path / "runs" / f"{other.run}.json").write_text("{")
    assert examine(folder).tokens == 7
