"""Adaptive grids from request to results, without Ray: the dummy engine answers in this process."""

from __future__ import annotations

import dataclasses
import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchestrator.analysis.adaptive.geometry import Counts, Node, Shape
from orchestrator.analysis.adaptive.rule import RULE_VERSION, Refinement
from orchestrator.analysis.comparison.compare import compare
from orchestrator.analysis.comparison.sweeps import read_sweeps
from orchestrator.analysis.gate import GateOptions, check
from orchestrator.analysis.landscape import primary_rows, to_table, with_inferred
from orchestrator.analysis.recomputation import recompute
from orchestrator.analysis.reducer import read_results, reduce_landscape, reduce_summary
from orchestrator.analysis.requested import AdaptiveGrid, requested
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.pipeline import speculation
from orchestrator.pipeline.work import Levels
from orchestrator.scoring.deciding import DecidingCounts
from orchestrator.scoring.text_judges import score_with_text_judges
from orchestrator.store.discovery import latest_sweep
from orchestrator.store.records import SweepRecord
from orchestrator.store.status import examine
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.store.temporary import create_disk_token
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import Adaptive, Grid, Sweep
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling, Visit, visits
from orchestrator.utils.choices import EngineKind, GridKind
from tests.unit.stored import basin, store_sweep
from workers.actor import Actor
from workers.engines.base import EngineSpec

pytestmark = pytest.mark.thorough


TARGETS = tuple(TowardsDirection(letter * 16, f"target {letter}") for letter in "ab")
KINDS: dict[str, dict[str, Any]] = {
    "random_1d": {"steps": 80, "directions": 1},
    "random_2d": {"steps": 10, "directions": 1},
    "interpolate_1d": {"steps": 56, "range": (-0.2, 1.2), "towards": TARGETS[:1]},
    "interpolate_2d": {"steps": 10, "range": (-0.2, 1.2), "towards": TARGETS},
    "interpolate_random": {"steps": 10, "range": (-0.2, 1.2), "range_y": (-0.5, 0.5), "directions": 1},
}
KINDS["interpolate_random"]["towards"] = TARGETS[:1]
ADAPTIVE = Adaptive("keyword", RULE_VERSION)


def prompt_set(n: int, group: str) -> PromptSet:
    unlike = ("".join(random.Random(f"{group} {i}").choices(string.ascii_lowercase, k=40)) for i in range(n))
    prompts = tuple(Prompt(text, group) for text in unlike)  # near-duplicates would be one cluster of probes
    texts, tokens = tuple(p.text for p in prompts), tuple((1, i) for i in range(n))
    return PromptSet(group, prompts, texts, tokens, Sampling(16), group, "default")


class Job:
    """A study in which sweeps of one kind of grid are measured by the dummy engine, visit by visit."""

    def __init__(self, out: Path, kind: str, **grid: Any) -> None:
        self.sets = [prompt_set(2, "benign"), prompt_set(20, "harmful")]  # the second one decides
        self.grid = {"kind": GridKind(kind), **KINDS[kind], **grid}
        self.study = Study.create(out, StudyInfo("dummy", "dummy", "float32", 1))
        for prompts in self.sets:
            self.study.prompt_sets.write(prompts)
        token = create_disk_token(self.study.out)
        self.actor = Actor(EngineSpec(kind=EngineKind.dummy), str(self.study.root), self.study.id, token)
        self.actor.load()
        sweep = self.sweep(None)
        scalars = {direction.id: self.actor.measure(direction) for direction in sweep.grid.directions_used}
        for direction in sweep.grid.directions_used:
            self.study.directions.write(direction.id, direction.to_json(), scalars[direction.id])
        self.actor.set_inputs({prompts.id: prompts for prompts in self.sets}, scalars)

    def sweep(self, adaptive: Adaptive | None) -> Sweep:
        return Sweep(Grid(**self.grid, adaptive=adaptive), tuple(prompts.id for prompts in self.sets))

    def stored(self, adaptive: Adaptive | None = ADAPTIVE) -> StoredSweep:
        """Return the sweep as it is on disk now."""
        sweep = self.sweep(adaptive)
        stored = StoredSweep(SweepFolder.of(self.study, sweep), sweep)
        if not (stored.folder.path / "sweep.json").exists():
            stored.folder.write_record(SweepRecord(sweep_id=sweep.id, name=sweep.name, request=sweep.to_json()))
        return stored

    def missing(self, adaptive: Adaptive | None = ADAPTIVE) -> list[Visit]:
        stored = self.stored(adaptive)
        return visits(task for task in requested(stored).tasks if task.key not in stored.generations)

    def levels(self, speculate: bool = False) -> tuple[Levels, list[Visit]]:
        """Return the levels of the adaptive sweep as a run begins them, and the visits that it begins with."""
        asked = requested(stored := self.stored())
        todo = self.missing()
        return Levels(stored, asked, {visit.point for visit in todo}, speculate=speculate), todo

    def run(self, rng: random.Random, most: int = 10**9, actors: int = 0) -> bool:
        """Measure the adaptive sweep in a random order until `most` visits are done; return whether it is whole.

        Args:
            rng: Source of the order.
            most: Number of visits after which the run is killed.
            actors: Number of actors that speculate while less is to be done. 0: none.
        """
        self.run_levels, todo = self.levels(speculate=actors > 0)
        for _ in range(most):
            todo += self.run_levels.begin()
            if not todo:
                return True
            todo += self.run_levels.speculate(actors - len(todo))
            visit = todo.pop(rng.randrange(len(todo)))
            self.actor.visit(visit)
            self.run_levels.take_stored(visit)
        return False

    def measure_all(self) -> None:
        for visit in self.missing(None):
            self.actor.visit(visit)

    def points(self) -> set[str]:
        """Return the ids of the stored points."""
        return {point for point, _ in self.study.generations.stored()}


def reduced(stored: StoredSweep) -> tuple[pd.DataFrame, SweepSummary]:
    """Judge and reduce a sweep without drawing it; return its landscape as it is read, and its summary."""
    score_with_text_judges(stored)
    frame = reduce_landscape(stored)
    summary = reduce_summary(stored, frame)
    stored.folder.write_landscape(to_table(frame))
    stored.folder.write_summary(summary.to_json())
    return read_results(stored.folder)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_points_are_chosen_in_any_order_and_after_any_kill(kind: str, tmp_path: Path) -> None:
    whole, killed = Job(tmp_path / "whole", kind), Job(tmp_path / "killed", kind)
    assert whole.run(random.Random(1))
    rng = random.Random(2)
    while not killed.run(rng, most=rng.randrange(1, 9)):
        pass
    assert killed.points() == whole.points() and not killed.missing() and not whole.missing()
    stored = whole.stored()
    assert len(stored.generations) == 2 * len(whole.points()) < len(stored.sweep.tasks()), "some points are left out"
    whole.measure_all()  # what the rule asks for if it knows everything: points that it did not ask for change nothing
    grid, counts = AdaptiveGrid(stored.sweep.grid), DecidingCounts(whole.stored())
    counts.read_stored()
    asked = grid.points([line.refine(counts.counts) for line in grid.lines])
    assert {point.id for point in asked} == killed.points()


def test_speculation_does_not_change_what_is_asked_for_and_is_bounded_after_any_kill(tmp_path: Path) -> None:
    plain, speculating = Job(tmp_path / "plain", "random_2d"), Job(tmp_path / "speculating", "random_2d")
    assert plain.run(random.Random(1))
    rng = random.Random(3)
    while not speculating.run(rng, most=rng.randrange(20, 40), actors=12):
        pass
    asked = {task.point.id for task in requested(speculating.stored()).tasks}
    assert asked == plain.points() <= speculating.points()
    wasted = len(speculating.points() - asked)
    assert wasted <= 0.1 * len(speculating.sweep(None).grid.points())
    assert not speculating.run_levels.speculate(5), "nothing is guessed when the rule is done"


def test_at_no_time_is_more_than_a_tenth_of_the_grid_begun_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_others(shape: Shape, counts: Counts, current: Refinement, seed: int) -> list[Node]:
        return [node for node in shape.nodes() if node not in current.needed]

    monkeypatch.setattr(speculation, "likely_next", all_others)
    job = Job(tmp_path, "random_2d")
    levels, _ = job.levels(speculate=True)
    most = len(job.sweep(None).grid.points()) // 10
    assert len(levels.speculate(most - 1)) == most - 1
    assert len(levels.speculate(5)) == 1, "those that were begun before count"
    assert not levels.speculate(5)


def test_a_point_that_fails_on_speculation_is_begun_again_when_a_level_asks_for_it(tmp_path: Path) -> None:
    plain, job = Job(tmp_path / "plain", "random_1d"), Job(tmp_path / "speculating", "random_1d")
    assert plain.run(random.Random(0))
    levels, first = job.levels(speculate=True)
    assert not levels.speculate(8), "nothing is known yet"
    for visit in first:
        job.actor.visit(visit)
        levels.take_stored(visit)
    todo = levels.begin()
    guessed = levels.speculate(8)
    assert len({*guessed, *todo}) == len(guessed) + len(todo) and not levels.speculate(8), "each is begun once"
    failed = next(visit for visit in guessed if visit.point.id in plain.points())
    levels.take_dropped(failed)
    begun = todo = [*todo, *(visit for visit in guessed if visit != failed)]
    while todo:
        for visit in todo:
            job.actor.visit(visit)
            levels.take_stored(visit)
        todo = levels.begin()
        begun = [*begun, *todo]
    assert begun.count(failed) == 1 and len(set(begun)) == len(begun)
    assert plain.points() <= job.points() and levels.unneeded == len(job.points() - plain.points())


def test_a_sweep_of_another_version_of_the_rule_is_read_and_asks_for_no_more(tmp_path: Path) -> None:
    job = Job(tmp_path, "random_1d")
    assert job.run(random.Random(0))
    earlier = job.stored(Adaptive("keyword", RULE_VERSION - 1))
    frame, summary = reduced(earlier)
    assert summary.adaptive is not None and not summary.adaptive.complete, "nothing says that its rule was done"
    decided = dataclasses.replace(summary.adaptive, audited=5, levels=3, complete=True)
    earlier.folder.write_summary(dataclasses.replace(summary, adaptive=decided).to_json())
    frame["asr_inferred"] /= 2.0
    earlier.folder.write_landscape(to_table(frame))
    assert requested(earlier).keys == earlier.generations.keys() and requested(earlier).is_final
    assert examine(earlier, requested(earlier).tasks).state == "complete"
    result = recompute(earlier)
    assert result.differences == () and "another version of their rule" in result.unchecked[0]
    assert result.summary.adaptive == decided, "what the rule decided then is in the stored summary alone"
    assert reduced(earlier)[1].adaptive == decided
    frame.loc[frame["n"] > 0, "n_refused"] += 1
    earlier.folder.write_landscape(to_table(frame))
    assert recompute(earlier).differences, "what was measured is still compared"


def test_sweeps_of_two_versions_of_the_rule_are_gated_and_compared_by_what_was_measured(tmp_path: Path) -> None:
    job, first = Job(tmp_path, "random_1d"), Adaptive("keyword", RULE_VERSION - 1)
    assert not job.run(random.Random(0), most=12), "it was interrupted"
    reduced(job.stored(first))
    begun = job.points()
    assert not {visit.point.id for visit in job.missing()} & begun, "the same command goes on, in this version"
    assert job.run(random.Random(0)) and job.points() > begun
    both = [job.stored(first), job.stored()]
    for stored in both:
        reduced(stored)
    sweeps = read_sweeps([stored.folder.path for stored in both])
    (difference,) = compare(sweeps).differences
    assert {point.alpha for point in difference.points} == set(sweeps[0].rows.loc[~sweeps[0].rows["inferred"], "alpha"])
    (earlier,), (present,) = (
        check(sweep.landscape, sweep.summary, GateOptions({"radius": 0.01}, allow_single=True))
        for sweep in map(recompute, both)
    )
    assert earlier.met and earlier.bound == present.bound


def test_an_adaptive_sweep_after_a_full_one_measures_nothing_and_a_full_one_the_rest(tmp_path: Path) -> None:
    job = Job(tmp_path, "random_1d")
    assert job.run(random.Random(0))
    left = {visit.point.id for visit in job.missing(None)}
    assert left and not left & job.points()
    job.measure_all()
    assert len(job.points()) == len(job.sweep(None).grid.points())
    assert not job.missing() and job.run(random.Random(0))
    frame, summary = reduced(job.stored())
    assert recompute(job.stored()).differences == ()
    assert summary.adaptive is not None and (summary.adaptive.inferred, summary.adaptive.complete) == (0, True)
    assert not frame["inferred"].any() and frame["asr"].notna().all(), "every stored point counts as measured"


def test_a_sweep_without_adaptive_has_the_id_that_it_had() -> None:
    assert "adaptive" not in Grid().to_json()
    chosen = Grid(adaptive=ADAPTIVE)
    assert chosen.to_json() == {**Grid().to_json(), "adaptive": {"judge": "keyword", "rule": RULE_VERSION}}
    assert Grid.from_json(chosen.to_json()) == chosen


def test_a_visit_that_was_given_up_does_not_stop_the_refinement(tmp_path: Path) -> None:
    job = Job(tmp_path, "random_1d", directions=2)
    levels, todo = job.levels()
    lost = todo[-1]
    for visit in todo[:-1]:
        job.actor.visit(visit)
        levels.take_stored(visit)
    waiting = len(levels.begin())
    levels.take_given_up(lost)
    assert waiting < len(levels.begin()) + waiting, "the line of the lost point waited for it, and goes on"


@pytest.mark.parametrize("kind", ["random_1d", "random_2d"])
def test_inferred_points_are_marked_counted_and_in_the_numbers(kind: str, tmp_path: Path) -> None:
    job, full = Job(tmp_path / "adaptive", kind), Job(tmp_path / "full", kind)
    assert job.run(random.Random(0))
    full.measure_all()
    frame, summary = reduced(job.stored())
    _, expected = reduced(full.stored(None))

    rows = primary_rows(frame)
    inferred = rows["inferred"]
    measured = rows["point_id"].isin(job.points())
    assert inferred.any() and (inferred == ~measured).all()
    assert (rows.loc[inferred, "n"] == 0).all() and rows.loc[inferred, "asr"].isna().all(), "not shown as measured"
    assert rows.loc[inferred, "asr_inferred"].between(0, 100).all() and rows.loc[~inferred, "asr_inferred"].isna().all()
    points = len(set(rows["point_id"]))
    adaptive = summary.adaptive
    assert adaptive is not None and adaptive.complete and adaptive.points == points
    assert adaptive.measured == len(job.points()) and adaptive.measured + adaptive.inferred == points
    assert adaptive.audited >= 3 * len(summary.visage.by_direction)
    assert (summary.points_done, summary.points_total, summary.points_missing) == (adaptive.measured,) * 2 + (0,)
    assert summary.visage.points == measured.sum() and summary.visage.all_points == expected.visage.points

    assert summary.margin is not None and expected.margin is not None
    assert summary.margin.value == pytest.approx(expected.margin.value, abs=1.5)
    assert summary.margin.over.probes.se is not None and expected.margin.over.probes.se is not None
    assert summary.margin.over.probes.se > 0.8 * expected.margin.over.probes.se, "measured points are not the mean"
    filled = with_inferred(rows)
    assert (filled["asr_high"] - filled["asr"])[inferred].min() >= 0 and filled["asr"].notna().all()
    assert summary.basin.radius == pytest.approx(expected.basin.radius, abs=0.03)


def without_measuring(frame: pd.DataFrame, left_out: np.ndarray, error: float) -> pd.DataFrame:
    """Return a landscape in which some points are inferred, with this standard error, to be what they were."""
    inferred = frame.assign(
        inferred=left_out,
        asr_inferred=frame["asr"].where(left_out),
        asr_inferred_error=np.where(left_out, error, np.nan),
    )
    inferred.loc[left_out, ["n", "n_refused"]] = 0
    inferred.loc[left_out, "asr"] = np.nan
    return inferred


def test_only_points_that_both_sweeps_measured_are_compared(tmp_path: Path) -> None:
    folders = [latest_sweep(store_sweep(tmp_path / name, basin(0.3), name, directions=1)) for name in ("a", "b")]
    sweeps = read_sweeps([folder.path for folder in folders])
    alphas = sweeps[0].rows["alpha"]
    sweeps = [
        dataclasses.replace(sweep, rows=without_measuring(sweep.rows, left_out.to_numpy(), 1.0))
        for sweep, left_out in zip(sweeps, (alphas.between(0.05, 0.25), alphas.between(-0.15, 0.15)), strict=True)
    ]
    (difference,) = compare(sweeps).differences
    compared = {round(point.alpha, 9) for point in difference.points}
    assert compared == set(alphas[~alphas.between(-0.15, 0.25)].round(9))
    assert difference.reason is not None and "only points that both measured are compared" in difference.reason


def test_the_gate_counts_the_error_of_inferred_points_against_the_model(tmp_path: Path) -> None:
    folder = latest_sweep(store_sweep(tmp_path, basin(0.3), directions=1))
    frame, summary = read_results(folder)
    bounds = []
    for error in (0.1, 40.0):
        inferred = without_measuring(frame, frame["alpha"].between(0.05, 0.15).to_numpy(), error)
        (radius,) = check(inferred, summary, GateOptions({"radius": 0.2}, allow_single=True))
        bounds.append(radius.bound)
        assert radius.met == (error < 1), "inferred points are not missing, and count with their error"
    (measured,) = check(frame, summary, GateOptions({"radius": 0.2}, allow_single=True))
    assert bounds[1] < 0.15 < bounds[0] <= measured.bound


def test_status_counts_the_tasks_that_are_asked_for(tmp_path: Path) -> None:
    job = Job(tmp_path, "random_1d")
    assert not job.run(random.Random(0), most=4)
    stored = job.stored()
    status = examine(stored, requested(stored).tasks)
    assert status.state == "incomplete" and status.done == 8 < status.tasks < len(stored.sweep.tasks())
    assert job.run(random.Random(0))
    stored = job.stored()
    status = examine(stored, requested(stored).tasks)
    assert status.state == "complete" and status.done == status.tasks < len(stored.sweep.tasks())
