"""Visits through real Ray to real processes, which are really killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.sweep.points import ORIGIN
from orchestrator.utils.errors import UserError
from tests.cluster.actors import Bare, Blind, Broken, Closing, Hopeless, Odd, OneBroken, Refused, Stillborn, Told
from tests.cluster.conftest import Event, Job, Responses


def tell(job: Job, point_id: str, what: str) -> None:
    """Have `Told` actors do this when they come to the point."""
    (job.study.out / point_id).write_text(what)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def wait_for(condition: Any, seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("actors", [1, 2, 4])
def test_stores_the_same_whatever_the_number_of_actors(job: Job, undisturbed: Responses, actors: int) -> None:
    outcome = job.run(actors=actors, seconds=0.2 * (actors > 1))  # long enough for the last one to start
    assert job.left == [] and not outcome.failures and not outcome.interrupted
    assert job.responses() == undisturbed
    assert outcome.visits == len(job.sweep.grid.points()) == len(job.heard("visit_done"))
    assert outcome.responses == len(undisturbed)
    assert outcome.actors == actors == len({e["pid"] for e in job.heard("actor_ready")})
    assert job.heard("visit_given")[0]["point_id"] == ORIGIN.id


def test_every_actor_is_at_work_and_none_outlives_the_dispatch(job: Job) -> None:
    job.run(actors=2, seconds=0.1)
    assert {e["slot"] for e in job.heard("visit_done")} == {0, 1}
    pids = [e["pid"] for e in job.heard("actor_ready")]
    assert wait_for(lambda: not any(map(is_alive, pids)))


def test_actors_are_closed_before_they_are_ended(job: Job) -> None:
    job.run(actor=Closing, seconds=0.1)
    closed = {path.name for path in job.study.out.glob("closed-*")}
    assert closed == {f"closed-{e['pid']}" for e in job.heard("actor_ready")} and len(closed) == 2


def test_a_killed_actor_is_replaced_and_nothing_is_lost_or_doubled(job: Job, undisturbed: Responses) -> None:
    killed: list[int] = []

    def kill(event: Event) -> None:
        if event["event"] == "visit_done" and len(killed) < 3:
            killed.append(job.pid(event["slot"]))
            os.kill(killed[-1], signal.SIGKILL)

    outcome = job.run(actors=2, seconds=0.1, on=kill)
    assert len(set(killed)) == 3
    assert outcome.restarts == 3 == len(job.heard("actor_died"))
    assert not outcome.failures and job.left == []
    assert job.responses() == undisturbed


def test_a_death_after_the_write_costs_nothing(job: Job, undisturbed: Responses) -> None:
    for point in job.sweep.grid.points()[2:5]:
        tell(job, point.id, "after die once")
    outcome = job.run(actor=Told)
    assert outcome.restarts == 3 and job.left == []
    assert job.responses() == undisturbed
    assert len(job.heard("visit_done")) == len(job.sweep.grid.points()) == outcome.visits
    assert outcome.responses == len(undisturbed)


def test_a_poisoned_visit_is_given_up_with_its_story_and_the_rest_goes_on(job: Job, undisturbed: Responses) -> None:
    poisoned = job.sweep.grid.points()[4]
    tell(job, poisoned.id, "before die")
    outcome = job.run(actor=Told, max_attempts=3)
    (failure,) = outcome.failures
    assert failure.visit.point == poisoned and len(failure.story) == 3
    assert outcome.restarts == 3
    assert [visit.point for visit in job.left] == [poisoned]
    assert job.responses() == {key: text for key, text in undisturbed.items() if key[0] != poisoned.id}
    # Only the visit that ran is blamed, though each actor had another one in its queue.
    assert {e["point_id"] for e in job.heard("actor_died")} == {poisoned.id}
    (given_up,) = job.heard("visit_quarantined")
    assert given_up["story"] == failure.story
    (job.study.out / poisoned.id).unlink()
    assert not job.run().failures  # what was given up is tried again by the next run
    assert job.responses() == undisturbed


def test_a_visit_that_raises_is_tried_again_without_losing_its_actor(job: Job, undisturbed: Responses) -> None:
    points = job.sweep.grid.points()
    tell(job, points[3].id, "before raise once")
    tell(job, points[12].id, "before raise")
    outcome = job.run(actor=Told, max_attempts=2)
    assert outcome.restarts == 0
    assert [f.visit.point for f in outcome.failures] == [points[12]]
    assert outcome.failures[0].story == ["RuntimeError: this point is beyond me"] * 2
    assert [e["point_id"] for e in job.heard("visit_failed")].count(points[3].id) == 1
    assert {key[0] for key in undisturbed} - {key[0] for key in job.responses()} == {points[12].id}


@pytest.mark.parametrize(("actor", "actors"), [(Broken, 1), (OneBroken, 2)])
def test_an_engine_that_breaks_is_replaced_and_no_point_is_given_up_for_it(
    job: Job, undisturbed: Responses, actor: type[Broken], actors: int
) -> None:
    outcome = job.run(actor=actor, actors=actors, seconds=0.05)
    assert not outcome.failures and job.responses() == undisturbed
    deaths = job.heard("actor_died")
    assert outcome.restarts == len(deaths) > 0 and not any(e["blamed"] for e in deaths)
    assert all(
        e["why"].endswith("two visits in a row failed: RuntimeError: the engine's executor failed") for e in deaths
    )


def test_points_that_every_engine_fails_at_are_given_up_though_they_come_in_a_row(
    job: Job, undisturbed: Responses
) -> None:
    poisoned = job.sweep.grid.points()[1:7]
    for point in poisoned:
        tell(job, point.id, "before raise")
    outcome = job.run(actor=Told, actors=1)
    assert {f.visit.point for f in outcome.failures} == set(poisoned) and outcome.restarts > 0
    assert all(len(f.story) == 3 for f in outcome.failures)
    assert {key[0] for key in undisturbed} - {key[0] for key in job.responses()} == {p.id for p in poisoned}


@pytest.mark.parametrize("actors", [1, 2])
def test_engines_that_break_at_once_end_the_run(job: Job, actors: int) -> None:
    with pytest.raises(UserError, match=r"no actor could be started .* 3 tries; RuntimeError: the engine's executor"):
        job.run(actor=Hopeless, actors=actors)
    assert len(job.heard("actor_starting")) == 3 * actors and not job.heard("visit_quarantined")


def test_an_actor_past_its_deadline_is_lost_and_its_visit_goes_elsewhere(job: Job, undisturbed: Responses) -> None:
    stopped = job.sweep.grid.points()[8]
    tell(job, stopped.id, "before hang once")
    outcome = job.run(actor=Told, deadline_floor=1.0, deadline_after=3)
    assert outcome.restarts == 1 and not outcome.failures
    (death,) = job.heard("actor_died")
    assert death["point_id"] == stopped.id and "deadline" in death["why"]
    assert job.responses() == undisturbed
    hung = next(e["pid"] for e in job.heard("actor_ready") if e["slot"] == death["slot"])
    assert wait_for(lambda: not is_alive(hung)), "a stopped process must not keep its memory"


def test_a_driver_that_was_held_up_itself_blames_no_actor(job: Job) -> None:
    def hold_up(event: Event) -> None:
        if event["event"] == "visit_done" and len(job.heard("visit_done")) == 8:
            time.sleep(3)  # its disk, say

    outcome = job.run(seconds=0.2, on=hold_up, deadline_floor=2.0, deadline_after=5)
    assert outcome.restarts == 0 and not job.heard("actor_died") and job.left == []


def test_no_deadline_before_enough_visits_are_done(job: Job) -> None:
    outcome = job.run(seconds=0.3, deadline_floor=0.0, deadline_factor=0.1, deadline_after=1000, only=job.left[:4])
    assert outcome.restarts == 0


def test_the_first_interrupt_lets_running_visits_finish(job: Job, undisturbed: Responses) -> None:
    def interrupt(event: Event) -> None:
        if event["event"] == "visit_done" and len(job.heard("visit_done")) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    outcome = job.run(seconds=0.2, on=interrupt)
    assert outcome.interrupted and not outcome.failures
    assert signal.getsignal(signal.SIGINT) is handler
    done = [e["visit"] for e in job.heard("visit_done")]
    assert 5 <= len(done) <= 7  # the two that ran when it was heard, and one that may have begun just then
    assert [e["signal"] for e in job.heard("stopping")] == ["SIGINT"]
    assert len(job.left) <= len(job.sweep.grid.points()) - len(done)
    assert not job.run(actors=3).interrupted
    assert job.responses() == undisturbed


def test_the_second_interrupt_stops_at_once(job: Job) -> None:
    def interrupt(event: Event) -> None:
        if event["event"] == "visit_given":
            threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()
        if event["event"] == "stopping":
            threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()

    outcome = job.run(seconds=300, on=interrupt, only=job.left[:1], actors=1, grace=1000)
    assert outcome.interrupted and not job.heard("visit_done")


def test_running_visits_are_not_waited_for_longer_than_the_grace(job: Job) -> None:
    def interrupt(event: Event) -> None:
        if event["event"] == "visit_given":
            threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGTERM]).start()

    outcome = job.run(seconds=300, on=interrupt, only=job.left[:1], actors=1, grace=1)
    assert outcome.interrupted and not job.heard("visit_done")


def test_the_users_mistake_reaches_the_driver_as_it_was_said(job: Job) -> None:
    with pytest.raises(UserError, match="the weights are quantised") as refused:
        job.run(actor=Refused)
    assert (refused.value.field, refused.value.value) == ("model.path", "there")
    points = job.sweep.grid.points()
    tell(job, points[-1].id, "before refuse")
    with pytest.raises(UserError, match=r"^model.max_model_len=12: raise it$"):
        job.run(actor=Told)
    assert type(refused.value) is UserError
    # What was done until then is not forgotten: the run's record has it.
    told = job.dispatch.outcome.to_json()
    assert told["visits"] == len(job.heard("visit_done")) >= len(points) - 3 and told["actors"] == 2


def test_an_actor_that_is_not_admitted_ends_the_run(job: Job) -> None:
    def admit(described: Mapping[str, Any]) -> None:
        raise UserError("engine.mix", "false", described["engine"]["engine"])

    with pytest.raises(UserError, match="dummy"):
        job.run(admit=admit)
    assert job.study.generations.stored() == {}


def test_machines_with_other_versions_are_refused_with_the_list_and_left_out(job: Job) -> None:
    outcome = job.run(actor=Odd, actors=2, seconds=0.5)
    (refused,) = job.heard("actor_failed_to_start")  # and not tried on that machine again
    assert re.search(r"has other versions than .*: .*vllm 0\.1 instead of", refused["why"])
    assert outcome.actors == 1 and outcome.restarts == 0 and job.left == []


def test_other_versions_end_the_run_where_no_other_actor_is_at_work(job: Job) -> None:
    def kill(event: Event) -> None:
        if event["event"] == "visit_done":
            os.kill(job.pid(event["slot"]), signal.SIGKILL)

    with pytest.raises(UserError, match="has other versions than"):
        job.run(actor=Odd, actors=1, seconds=0.2, on=kill)


def test_a_user_mistake_of_one_machine_leaves_the_others_at_work(job: Job) -> None:
    outcome = job.run(actor=Bare, actors=2, seconds=0.5)
    assert outcome.actors == 1 and job.left == []
    assert {e["why"] for e in job.heard("actor_failed_to_start")} == {"model.path=there: is not on this machine"}
    assert len(job.heard("actor_failed_to_start")) <= 3


def test_actors_that_never_start_are_given_up_in_the_end(job: Job) -> None:
    with pytest.raises(UserError, match="no actor could be started"):
        job.run(actor=Stillborn, actors=1, max_failed_starts=2)
    assert len(job.heard("actor_failed_to_start")) == 2 and job.heard("actor_abandoned")


def test_more_than_the_cluster_has_is_refused_at_once(job: Job) -> None:
    with pytest.raises(UserError, match="no node of the cluster has room") as refused:
        job.run(gpus_per_actor=64)
    assert refused.value.value == "64 GPU"


def test_actors_without_the_disk_return_their_rows_through_ray(job: Job, undisturbed: Responses) -> None:
    outcome = job.run(actor=Blind)
    assert not outcome.failures and job.left == []
    assert job.responses() == undisturbed
    assert not Path("/nowhere").exists()
    assert {part.meta["engine"]["engine"] for part in job.study.generations.parts()} == {"dummy"}


def test_two_thousand_tasks_leave_the_drivers_memory_flat(tmp_path: Path, ray_session: None) -> None:
    job = Job(tmp_path / "studies", steps=500, directions=2)
    resident: list[int] = []

    def watch(event: Event) -> None:
        if event["event"] == "visit_done":
            resident.append(psutil.Process().memory_info().rss)
            job.events.clear()

    outcome = job.run(actors=4, on=watch)
    assert outcome.visits == len(resident) == 1001 and job.left == []
    assert len(job.study.generations.stored()) == 2002 and len(job.responses()) == 10010
    assert max(resident) - resident[200] < 32 << 20


def test_nothing_to_do_starts_nothing(job: Job) -> None:
    assert job.run(only=[]).visits == 0 and job.events == []


def test_totals_are_told_at_the_end(job: Job) -> None:
    outcome = job.run()
    (totals,) = job.heard("dispatch_finished")
    done = job.heard("visit_done")
    assert totals["visits"] == outcome.visits == len(done)
    assert totals["tokens"] == outcome.tokens == sum(e["tokens"] for e in done)


def test_a_driver_needs_neither_torch_nor_an_engine() -> None:
    heavy = ("torch", "vllm", "transformers", "numba", "triton", "pandas")
    code = f"import sys, orchestrator.execution.dispatch; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
