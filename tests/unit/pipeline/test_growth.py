"""Sweeps with goals from request to results, without Ray: the dummy engine answers in this process."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.compose import compose
from orchestrator.pipeline.budgets import Budgets
from orchestrator.pipeline.growth import GrowingSweep, check_goals, overrides_of
from orchestrator.pipeline.prepare import PreparedSweep
from orchestrator.pipeline.work import SweepWork, levels_of
from orchestrator.store.records import FailedVisit, RunRecord, SweepRecord
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.store.temporary import create_disk_token
from orchestrator.sweep.directions import Direction
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import Adaptive, Grid, Sweep
from orchestrator.sweep.tasks import Visit, visits
from orchestrator.utils.choices import EngineKind, GridKind
from orchestrator.utils.errors import UserError
from tests.unit.pipeline.test_adaptive import ADAPTIVE, prompt_set, reduced
from workers.actor import Actor
from workers.engines.base import EngineSpec

pytestmark = pytest.mark.thorough


class Growing:
    """A study in which a sweep with goals is measured by the dummy engine, visit by visit."""

    def __init__(self, out: Path, *overrides: str, adaptive: Adaptive | None = None) -> None:
        self.sets = [prompt_set(2, "benign"), prompt_set(12, "harmful")]
        self.study = Study.create(out, StudyInfo("dummy", "dummy", "float32", 1))
        for prompts in self.sets:
            self.study.prompt_sets.write(prompts)
        grid = Grid(steps=10, directions=2, adaptive=adaptive)
        sweep = Sweep(grid, tuple(prompts.id for prompts in self.sets))
        config = compose(["engine=dummy", *overrides])
        self.prepared = PreparedSweep(config, None, None, (), tuple(self.sets), sweep, self.study.info)
        self.actor = Actor(
            EngineSpec(kind=EngineKind.dummy), str(self.study.root), self.study.id, create_disk_token(self.study.out)
        )
        self.actor.load()

    def stored(self, sweep: Sweep) -> StoredSweep:
        stored = StoredSweep(SweepFolder.of(self.study, sweep), sweep)
        if not (stored.folder.path / "sweep.json").exists():
            stored.folder.write_record(SweepRecord(sweep_id=sweep.id, name=sweep.name, request=sweep.to_json()))
        return stored

    def run(self, rng: random.Random, most: int = 10**9, give_up: str | None = None) -> GrowingSweep | None:
        """Measure in a random order until `most` visits are done, and give up the point of this id.

        Return the grown sweep; None if it was cut off.
        """
        growing = GrowingSweep(self.prepared, self.stored(self.prepared.sweep))
        missing = growing.advance()
        todo = visits(missing.tasks)
        scalars = {d.id: self.actor.measure(d) for d in growing.prepared.sweep.grid.directions_used}
        work = SweepWork(lambda: (), levels_of(growing, missing), todo, growing=growing)
        for _ in range(most):
            for item in work.more(idle=not todo):
                if isinstance(item, Direction):
                    scalars[item.id] = self.actor.measure(item)
                elif isinstance(item, Visit):
                    todo.append(item)
            if not todo:
                assert work.is_done
                return growing
            self.actor.set_inputs({prompts.id: prompts for prompts in self.sets}, scalars)
            visit = todo.pop(rng.randrange(len(todo)))
            if visit.point.id == give_up:
                work.take_given_up(visit)
                continue
            self.actor.visit(visit)
            work.take_stored(visit)
        return None


@pytest.mark.parametrize(
    ("adaptive", "goals", "steps"),
    [(None, ("until.visage=25", "until.radius=0.049"), 20), (ADAPTIVE, ("until.visage=30",), 10)],
)
def test_a_killed_sweep_grows_to_the_same_grid_and_its_numbers_are_those_of_the_summary(
    adaptive: Adaptive | None, goals: tuple[str, ...], steps: int, tmp_path: Path
) -> None:
    whole, killed = (Growing(tmp_path / name, *goals, adaptive=adaptive) for name in ("whole", "killed"))
    grown = whole.run(random.Random(1))
    assert grown is not None and grown.whole is not None and grown.growth is not None and grown.growth.is_met
    rng = random.Random(2)
    while (again := killed.run(rng, most=rng.randrange(20, 80))) is None:
        pass
    assert again.whole == grown.whole and again.growth == grown.growth
    points = [{point for point, _ in each.study.generations.stored()} for each in (whole, killed)]
    assert points[0] == points[1]
    grid = grown.whole.grid
    assert grid.lines >= 6 and grid.steps == steps
    _, summary = reduced(whole.stored(grown.whole))
    assert summary.points_done == summary.points_total
    for goal in grown.growth.progress:
        value = summary.visage.paper if goal.name == "visage" else summary.basin.mean_radius.value
        assert goal.value == pytest.approx(value) and goal.half_width is not None and goal.half_width <= goal.wanted


@pytest.mark.parametrize("adaptive", [None, ADAPTIVE])
def test_a_sweep_grows_on_without_a_visit_that_was_given_up_and_its_numbers_are_those_of_the_summary(
    adaptive: Adaptive | None, tmp_path: Path
) -> None:
    job = Growing(tmp_path, "until.radius=0.2", adaptive=adaptive)
    grid = job.prepared.sweep.grid
    lost = grid.point_at(0, 0.3, None).id  # beyond the edge on one side: the radius has the other one
    grown = job.run(random.Random(0), give_up=lost)
    assert grown is not None and grown.growth is not None and grown.growth.is_met
    stored = job.stored(job.prepared.sweep)
    failure = FailedVisit(point_id=lost, prompt_set_ids=stored.sweep.prompt_set_ids, errors=("it broke",))
    stored.folder.write_run(RunRecord(run="r", outcome="complete", failures=(failure,)))
    assert grown.whole is not None and grown.whole.grid.lines > grid.lines
    _, summary = reduced(job.stored(grown.whole))
    assert grown.growth.progress[0].value == pytest.approx(summary.basin.mean_radius.value)


def test_goals_enter_no_identity_and_a_met_goal_adds_nothing(tmp_path: Path) -> None:
    job = Growing(tmp_path, "until.visage=50")
    grown = job.run(random.Random(0))
    assert grown is not None and grown.whole is not None
    stored = job.stored(job.prepared.sweep)
    assert grown.stored.folder.path == stored.folder.path
    wider = dataclasses.replace(job.prepared, config=compose(["engine=dummy", "until.visage=49"]))
    later = GrowingSweep(wider, stored)
    assert not later.advance().tasks and later.whole == grown.whole
    outcome = Budgets(wider.config.until).outcome(False, later.outcome())
    assert outcome is not None and outcome.goals[0].met and outcome.sweep_id == grown.whole.id
    overrides = overrides_of(wider, grown.whole, ["grid.directions=2", "name=x"])
    assert overrides == ["name=x", f"grid.directions={grown.whole.grid.lines}", "grid.steps=10"]


@pytest.mark.parametrize(
    ("grid", "options", "remedy"),
    [
        ({"kind": GridKind.interpolate_1d}, ["until.visage=2"], "VISAGE is undefined for this grid"),
        ({"range": (-0.2, 0.2)}, ["until.visage=2"], "does not cover [-0.5, 0.5]"),
        ({"steps": 20}, ["until.radius=0.00001"], "on the finest grid of 20,000 points"),
        ({}, ["until.visage=2", "judge=llama_guard3"], "add keyword to judges"),
    ],
)
def test_goals_without_meaning_are_refused(
    grid: dict[str, Any], options: list[str], remedy: str, tmp_path: Path
) -> None:
    if grid.get("kind") == GridKind.interpolate_1d:
        grid = {**grid, "towards": (TowardsDirection("a" * 16, "a"),)}
    job = Growing(tmp_path)
    config = compose(["engine=dummy", *options])
    sweep = dataclasses.replace(job.prepared.sweep, grid=Grid(**grid), judges=tuple(config.judge_names))
    with pytest.raises(UserError) as error:
        check_goals(dataclasses.replace(job.prepared, config=config, sweep=sweep))
    assert error.value.field == options[0].partition("=")[0] and remedy in error.value.remedy
