"""Budgets of time: what counts, when they end a run, and what is refused."""

from __future__ import annotations

import pytest

from orchestrator.config.compose import compose
from orchestrator.config.schema import UntilConfig
from orchestrator.pipeline.budgets import Budgets
from orchestrator.pipeline.work import SweepWork
from orchestrator.store.records import RunRecord, RunTotals
from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import Point
from orchestrator.sweep.tasks import Visit
from orchestrator.utils.errors import UserError

VISITS = [Visit(Point.from_coefficients([(RandomDirection(1), alpha)]), ("set",)) for alpha in (0.1, 0.2)]
EARLIER = RunRecord(run="r1", outcome="interrupted", seconds=60.0, totals=RunTotals(gpu_seconds=1800.0))


class Clock:
    """A clock that a test sets, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_minutes_count_earlier_runs_and_this_one() -> None:
    clock = Clock()
    budgets = Budgets(UntilConfig(minutes=3), [EARLIER], clock)
    assert budgets.spent is None and budgets.seconds_left(gpus=0) == 120
    clock.now += 119
    assert budgets.spent is None
    clock.now += 1
    assert budgets.spent == "until.minutes"
    assert Budgets(UntilConfig(), [EARLIER] * 99, clock).spent is None


def test_gpu_hours_are_those_of_the_gpus_that_actors_hold() -> None:
    clock = Clock()
    budgets = Budgets(UntilConfig(gpu_hours=1.5), [EARLIER], clock)  # half an hour is used
    clock.now += 100
    for slot in (0, 1):
        budgets.observe("actor_ready", slot=slot, gpus=2.0, load_seconds=100.0)  # GPUs are held while they load
    assert budgets.gpu_hours_used == pytest.approx(0.5 + 4 * 100 / 3600)
    budgets.observe("actor_died", slot=1)
    budgets.observe("visit_given", slot=0, visit="v")
    clock.now += 1600
    assert (
        budgets.gpu_hours_used == pytest.approx(0.5 + (4 * 100 + 2 * 1600) / 3600)
        and budgets.spent == "until.gpu_hours"
    )


def test_a_spent_budget_is_refused_in_one_sentence() -> None:
    with pytest.raises(UserError) as error:
        Budgets(UntilConfig(minutes=1), [EARLIER]).check_unspent()
    assert "until.minutes=1: runs of this sweep took 1 min 0 s already: raise it, or leave it out" in str(error.value)
    with pytest.raises(UserError, match=r"until.gpu_hours=0.5: runs of this sweep used 0.5 GPU-hours already"):
        Budgets(UntilConfig(gpu_hours=0.5), [EARLIER]).check_unspent()
    Budgets(UntilConfig(minutes=2, gpu_hours=1), [EARLIER]).check_unspent()
    with pytest.raises(UserError, match="would never be spent"):
        Budgets(UntilConfig(gpu_hours=1)).check_gpus(gpus_per_actor=0)


@pytest.mark.parametrize(
    ("overrides", "field", "remedy"),
    [
        (["until.minutes=0"], "until.minutes", "must be at least"),
        (["until.minutes=9", "cluster.part=1/4"], "cluster.part", "until.minutes would have to count the time of all"),
        (["until.gpu_hours=1", "engine=dummy"], "until.gpu_hours", "would never be spent"),
        (["until.gpu_hours=1", "engine.device=cpu"], "until.gpu_hours", "would never be spent"),
    ],
)
def test_budgets_that_cannot_be_kept_are_refused(overrides: list[str], field: str, remedy: str) -> None:
    with pytest.raises(UserError) as error:
        compose(overrides)
    assert error.value.field == field and remedy in error.value.remedy


def test_nothing_begins_after_a_budget_is_spent_and_the_record_says_what_was_left() -> None:
    clock = Clock()
    budgets = Budgets(UntilConfig(minutes=1), clock=clock)
    work = SweepWork(lambda: (), begun=VISITS, budgets=budgets)
    work.take_stored(VISITS[0])
    assert not work.is_over() and not work.is_done
    clock.now += 61
    assert work.is_over()
    outcome = budgets.outcome(work_is_left=not work.is_done)
    assert outcome is not None and outcome.stopped_by == "until.minutes" and outcome.minutes_used == 1.02
    work.take_given_up(VISITS[1])
    assert work.is_done, "the last visit ended after the budget: nothing was left out"
    finished = budgets.outcome(work_is_left=not work.is_done)
    assert finished is not None and finished.stopped_by is None
    record = RunRecord(run="r2", outcome="complete", until=outcome)
    assert RunRecord.from_json(record.to_json()) == record and "until" not in EARLIER.to_json()
    assert Budgets(UntilConfig(), clock=clock).outcome(work_is_left=True) is None
