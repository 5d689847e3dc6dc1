"""`Experiment`: options from Python values, mistakes and endings as exceptions. tests/cluster runs real ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import Experiment, FailedTasksError, SessionLostError, UserError, load_study
from orchestrator.execution.run_counts import RunCounts
from orchestrator.utils.errors import ExitCode
from tests.unit.stored import basin, store_sweep

pytestmark = pytest.mark.thorough

DUMMY = {"engine": "dummy", "probes.limit": 4}


def test_python_values_become_options(tmp_path: Path) -> None:
    grid = {
        "kind": "random_2d",
        "range": (-0.5, 0.25),
        "orthogonal": False,
        "plane_steps": None,
        "exclude": ["norm", "a,b"],
    }
    config = Experiment(grid=grid, overrides={**DUMMY, "out": tmp_path, "engine.seconds": 0.5})._config
    assert config.grid.kind == "random_2d" and config.grid.range == [-0.5, 0.25] and not config.grid.orthogonal
    assert config.grid.exclude == ["norm", "a,b"] and config.grid.plane_steps is None
    assert config.out == str(tmp_path) and config.engine.seconds == 0.5 and config.model.name == "dummy"
    assert Experiment("mistral7b", "random_2d", ["probes.limit=4"])._config.model.name == "mistral7b"
    assert Experiment(tmp_path)._config.model.path == Experiment(str(tmp_path))._config.model.path == str(tmp_path)


def test_mistakes_are_exceptions_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'mistral7b'") as mistake:
        Experiment("mistral7")
    assert (mistake.value.field, mistake.value.value) == ("model", "mistral7")
    with pytest.raises(UserError, match="give a list"):
        Experiment(overrides="grid.steps=10")
    with pytest.raises(UserError, match="no such option"):
        Experiment(grid={"step": 10})
    with pytest.raises(UserError, match="cluster=slurm: the command line submits jobs"):
        Experiment(overrides={"cluster": "slurm"})
    experiment = Experiment(overrides={**DUMMY, "out": tmp_path / "none"})
    for ask in (experiment.status, lambda: experiment.results):
        with pytest.raises(UserError, match="has not begun there: call run"):
            ask()
    assert experiment.plan().points == 61 and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("code", "event", "error"),
    [
        (ExitCode.COMPLETE, None, None),
        (ExitCode.FAILED_TASKS, None, FailedTasksError),
        (ExitCode.INTERRUPTED, None, SessionLostError),
        (ExitCode.INTERRUPTED, "stopping", KeyboardInterrupt),
    ],
)
def test_each_exit_code_of_a_run_is_an_exception(
    code: ExitCode,
    event: str | None,
    error: type[BaseException] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = store_sweep(tmp_path, basin(0.25), directions=1)

    def run(config: Any, presets: Any, overrides: Any, console: Any, watch: Any) -> Any:
        observe = watch(None)
        if event:
            observe(event, signal="SIGINT")
        return SimpleNamespace(code=code, waits_for=(), stored=SimpleNamespace(folder=SimpleNamespace(path=folder)))

    monkeypatch.setattr("orchestrator.pipeline.run.run", run)
    experiment = Experiment(overrides=DUMMY)
    if error is None:
        assert experiment.run().summary == load_study(folder).summary
    else:
        with pytest.raises(error):
            experiment.run()


def test_progress_counts_every_session_of_a_run() -> None:
    now = [0.0]
    counts = RunCounts(clock=lambda: now[0])
    counts.observe("run_started", visits=4)
    now[0] = 10
    counts.observe("actor_ready", slot=0)
    now[0] = 12
    counts.observe("visit_done", slot=0, tokens=100, seconds=2.0)
    progress = counts.progress
    assert (progress.points_done, progress.points_total, progress.tokens_per_second) == (1, 4, 50.0)
    assert (progress.seconds, progress.seconds_left, progress.actors) == (12, 6.0, 1)
    counts.observe("visit_failed", slot=0)
    counts.observe("actor_died", slot=0)
    assert not counts.observe("visit_given", slot=1)
    counts.observe("run_started", visits=3)  # in another Ray session
    counts.observe("actor_ready", slot=0)
    counts.observe("visit_quarantined")
    counts.observe("visit_done", slot=0, tokens=50, seconds=1.0)
    progress = counts.progress
    assert (progress.points_done, progress.points_total, progress.tokens) == (2, 4, 150)
    assert (progress.failures, progress.restarts, progress.given_up) == (2, 1, 1)
    assert counts.slots[0].tokens_per_second == 50.0 and counts.slots[0].restarts == 1
