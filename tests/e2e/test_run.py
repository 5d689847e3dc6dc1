"""Test sweeps from the command line: their results, and that kills and later requests lose or repeat nothing."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest

from orchestrator.store.discovery import latest_sweep
from orchestrator.store.records import SweepRecord
from tests.e2e.conftest import Driver, assert_refused, call, parts, responses, tree, wait_for

pytestmark = pytest.mark.cluster

DUMMY = ("engine=dummy", "grid.directions=1", "grid.steps=8", "probes.limit=6")
Start = Callable[..., Driver]


def sweep_folder(out: Path) -> Path:
    """Return the folder of the latest sweep below `out`."""
    return latest_sweep(out).path


def record(out: Path) -> SweepRecord:
    """Return the record of the latest sweep below `out`, with its runs."""
    return latest_sweep(out).read_record()


def visits_of_last_run(out: Path) -> int:
    return record(out).runs[-1].totals.visits


def actors_of(driver: Driver) -> list[psutil.Process]:
    """Return the processes of a driver's actors."""
    actors = []
    for child in psutil.Process(driver.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # gone, or a zombie
            if "Actor" in " ".join(child.cmdline()):
                actors.append(child)
    return actors


def test_a_sweep_writes_its_results_and_a_second_call_does_nothing(tmp_path: Path) -> None:
    result = call("run", *DUMMY, f"out={tmp_path}")
    assert result.code == 0, result.err
    folder = sweep_folder(tmp_path)
    expected = {"sweep.json", "runs", "landscape.parquet", "summary.json", "figures", "report.html"}
    assert {p.name for p in folder.iterdir()} - {"logs"} == expected
    assert {p.name for p in (folder / "figures").iterdir()} == {"landscape.png", "landscape.svg", "landscape.pdf"}
    summary = json.loads((folder / "summary.json").read_text())
    landscape = pd.read_parquet(folder / "landscape.parquet")
    assert (summary["points_done"], summary["points_total"], summary["tasks_failed"]) == (9, 9, 0)
    assert len(landscape) == 9 and (landscape["n"] == 6).all() and landscape["asr"].between(0, 100).all()
    for text in (
        "safety basin",
        "VISAGE",
        "At the origin",
        "degenerate",
        "9 points x 6 prompts",
        str(folder),
        "Next:",
    ):
        assert text in " ".join(result.out.split()), text
    before = tree(tmp_path)
    again = call("run", *DUMMY, f"out={tmp_path}")
    assert again.code == 0 and "Nothing to run: 9 of 9 tasks are stored" in again.err
    after = tree(tmp_path)
    evidence = [name for name in before if not name.endswith((".png", ".svg", ".pdf", ".html"))]
    assert {name: after[name] for name in evidence} == {name: before[name] for name in evidence}
    assert after.keys() == before.keys()
    assert json.loads(call("run", *DUMMY, f"out={tmp_path}", "--json").out)["points_done"] == 9


def test_only_new_tasks_are_run(tmp_path: Path) -> None:
    """A finer grid, more directions, another system prompt: each run reuses the stored tasks."""
    sweep = ["run", "engine=dummy", f"out={tmp_path}", "grid.directions=1", "probes.limit=4"]
    assert call(*sweep, "grid.steps=4").code == 0
    stored = responses(tmp_path)
    for overrides, visits in (
        (["grid.steps=8"], 4),
        (["grid.steps=4", "grid.directions=2"], 4),
        (["grid.steps=4", "system_prompts=[default,safety]"], 5),
    ):
        result = call(*sweep, *overrides)
        assert result.code == 0, (overrides, result.err)
        assert visits_of_last_run(tmp_path) == visits, overrides
        now = responses(tmp_path)
        assert stored.items() <= now.items(), overrides
        stored = now


def test_a_stored_sweep_can_be_judged_and_reduced_again(tmp_path: Path) -> None:
    assert call("run", *DUMMY, f"out={tmp_path}").code == 0
    folder = sweep_folder(tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    for path in [*tmp_path.glob("*/judgements/*/*.parquet"), folder / "landscape.parquet", folder / "summary.json"]:
        path.unlink()
    assert call("judge", str(folder)).code == 0
    assert json.loads((folder / "summary.json").read_text()) == summary
    (folder / "summary.json").unlink()
    assert json.loads(call("reduce", f"out={tmp_path}", "--json").out)["visage"] == summary["visage"]
    (status,) = json.loads(call("status", str(tmp_path), "--json").out)
    assert (status["state"], status["done"], status["tasks"], status["failed"]) == ("complete", 9, 9, 0)
    assert "complete" in call("status", f"out={tmp_path}").out
    assert_refused(call("status", str(tmp_path / "none")), "no sweep")


def test_a_run_killed_at_random_moments_resumes_without_loss(tmp_path: Path, start: Start) -> None:
    """Kill the driver three times, once after its actor; every response equals that of an undisturbed run."""
    sweep = ["run", "engine=dummy", "engine.seconds=0.8", "grid.directions=1", "grid.steps=20", "probes.limit=5"]
    undisturbed_out, disturbed = tmp_path / "whole", tmp_path / "broken"
    undisturbed = start(*sweep, f"out={undisturbed_out}")
    rng = random.Random(7)
    for kill in range(3):
        driver = start(*sweep, f"out={disturbed}")
        n_stored = len(parts(disturbed))
        wait_for(
            lambda driver=driver, n_stored=n_stored: (
                len(parts(disturbed)) >= n_stored + rng.randint(1, 3) or driver.process.poll()
            )
        )
        assert driver.process.poll() is None, driver.wait()
        if kill % 2:
            (actor,) = wait_for(lambda driver=driver: actors_of(driver))
            actor.kill()
            wait_for(lambda driver=driver, actor=actor: [a for a in actors_of(driver) if a.pid != actor.pid])
        driver.kill()
    last = call(*sweep, f"out={disturbed}")
    assert last.code == 0, last.err
    result = undisturbed.wait()
    assert result.code == 0, result.err
    assert responses(disturbed) == responses(undisturbed_out) and len(responses(undisturbed_out)) == 21 * 5
    summary, expected = (
        json.loads((sweep_folder(out) / "summary.json").read_text()) for out in (disturbed, undisturbed_out)
    )
    for key in ("visage", "basin", "origin_asr", "results", "points_done"):
        assert summary[key] == expected[key]


def test_an_actor_killed_while_it_works_is_replaced(tmp_path: Path, start: Start) -> None:
    driver = start("run", *DUMMY, f"out={tmp_path}", "engine.seconds=0.5")
    wait_for(lambda: parts(tmp_path))
    (actor,) = actors_of(driver)
    actor.kill()
    result = driver.wait()
    assert result.code == 0, result.err
    assert len(responses(tmp_path)) == 9 * 6 and record(tmp_path).runs[-1].totals.restarts == 1


def test_ctrl_c_leaves_a_resumable_study_and_prints_the_command_to_resume(tmp_path: Path, start: Start) -> None:
    sweep = ["run", *DUMMY, f"out={tmp_path}"]
    driver = start(*sweep, "engine.seconds=8")
    wait_for(lambda: parts(tmp_path))
    assert_refused(call(*sweep), "a driver is at work", f"process {driver.process.pid}")
    (status,) = json.loads(call("status", str(tmp_path), "--json").out)
    assert status["state"] == "running" and 0 < status["done"] < 9
    result = driver.interrupt()
    assert result.code == 130, result.err
    assert " -m orchestrator run engine=dummy" in result.err.partition("Continue with: ")[2], result.err
    stored = responses(tmp_path)
    assert 0 < len(stored) < 9 * 6
    (status,) = json.loads(call("status", str(tmp_path), "--json").out)
    assert status["state"] == "incomplete" and status["done"] == len(stored) // 6
    assert call(*sweep).code == 0
    assert stored.items() <= responses(tmp_path).items() and len(responses(tmp_path)) == 9 * 6


def test_a_task_that_keeps_failing_is_given_up_and_the_rest_is_run(tmp_path: Path) -> None:
    poison = tmp_path / "poison"
    poison.touch()
    root = Path(__file__).parents[2]
    env = os.environ | {"POISON": str(poison), "PYTHONPATH": str(root)}
    sweep = ["run", *DUMMY, "cluster.max_attempts=2", f"out={tmp_path / 'out'}"]

    def poisoned(*overrides: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "tests.e2e.poisoned", *sweep, *overrides]
        return subprocess.run(line, capture_output=True, text=True, env=env, cwd=root, check=False)

    result = poisoned()
    assert result.returncode == 3, result.stderr
    assert len(responses(tmp_path / "out")) == 8 * 6
    (status,) = json.loads(call("status", str(tmp_path / "out"), "--json").out)
    assert (status["state"], status["done"], status["failed"]) == ("failed", 8, 1)
    assert "this point is poison" in status["failures"][0]
    assert "1 task failed" in " ".join(result.stdout.split()) and "retry=failed" in result.stdout
    again = poisoned()
    assert again.returncode == 3 and "1 tasks were given up before" in again.stderr, (
        "must not be tried again without retry=failed"
    )
    poison.unlink()
    assert poisoned("retry=failed").returncode == 0
    assert len(responses(tmp_path / "out")) == 9 * 6


def test_sigterm_is_handled_like_ctrl_c(tmp_path: Path, start: Start) -> None:
    driver = start("run", *DUMMY, f"out={tmp_path}", "engine.seconds=0.5")
    wait_for(lambda: parts(tmp_path))
    os.kill(driver.process.pid, signal.SIGTERM)
    assert driver.wait().code == 130
