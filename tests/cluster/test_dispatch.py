"""Test dispatch with real Ray and real actor processes, which are killed, stopped and interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from orchestrator.execution import placement
from orchestrator.execution.events import WorkItem
from orchestrator.execution.work_source import WorkSource
from orchestrator.pipeline.admission import Admission
from orchestrator.sweep.continuations import Continuation, ContinuationBatch, context_id
from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import ORIGIN, Point
from orchestrator.sweep.tasks import Visit
from orchestrator.utils.errors import UserError
from tests.cluster.actors import (
    Broken,
    BrokenAtOnce,
    Closing,
    DiesLoading,
    FailsReading,
    HangsAtFirst,
    HangsInConstructor,
    HangsMeasuring,
    MeasuresBlocks,
    OldDriver,
    OnBadGpu,
    OneBroken,
    OneOnGoodGpu,
    OtherSettings,
    OtherVersions,
    Refused,
    Scripted,
    WithoutDisk,
    WithoutModel,
)
from tests.cluster.conftest import Event, Job, Responses, admission


def instruct(job: Job, point_id: str, instruction: str) -> None:
    """Write the instruction that `Scripted` actors follow at this point."""
    (job.study.out / point_id).write_text(instruction)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def wait_for(condition: Any, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_local_session_starts_only_the_processes_that_it_needs(ray_session: None) -> None:
    programs = [" ".join(child.cmdline()) for child in psutil.Process().children()]
    assert all(any(name in each for each in programs) for name in ("gcs_server", "raylet")), programs
    for name in ("dashboard.py", "log_monitor.py", "monitor.py"):
        assert not any(name in each for each in programs), f"{name}: update cluster._UNUSED_PROCESSES for this Ray"


class OverAfter(WorkSource):
    """Lets nothing begin after a number of stored visits, as a spent budget does."""

    def __init__(self, visits: int) -> None:
        self.left = visits

    def take_stored(self, visit: Visit) -> None:
        self.left -= 1

    def is_over(self) -> bool:
        return self.left <= 0


def test_running_visits_are_finished_when_the_work_is_over_and_waiting_ones_are_not(job: Job) -> None:
    outcome = job.run(actors=1, source=OverAfter(3))
    assert 3 <= outcome.visits <= 3 + job.dispatcher._policy.in_flight and not outcome.interrupted
    given = {event["visit"] for event in job.events_named("visit_given")}
    assert given == {event["visit"] for event in job.events_named("visit_done")}
    assert len(job.missing) == len(job.sweep.grid.points()) - outcome.visits


class Grows(WorkSource):
    """Adds visits along directions that the dispatch did not begin with, one after the other."""

    def __init__(self, lines: Sequence[Sequence[WorkItem]]) -> None:
        self.lines = list(lines)

    def more(self, idle: bool) -> Sequence[WorkItem]:
        return self.lines.pop(0) if idle and self.lines else ()


def test_directions_that_are_added_are_measured_unless_they_are_stored(job: Job) -> None:
    first, *others = (RandomDirection(seed) for seed in (123, 777, 778))
    lines = [[d, Visit(Point.from_coefficients([(d, 0.25)]), (job.sets[0].id,))] for d in others]
    todo = [Visit(Point.from_coefficients([(first, 0.25)]), (job.sets[0].id,))]
    outcome = job.run(actors=1, only=todo, source=Grows(lines))
    assert outcome.visits == 3 and not outcome.failures
    measured = [event["direction"] for event in job.events_named("direction_measured")]
    assert {d.id for d in others} <= set(measured) and len(measured) == len(set(measured))
    last = Visit(Point.from_coefficients([(others[1], 0.5)]), (job.sets[0].id,))
    assert job.run(actors=1, only=todo, source=Grows([[others[1], last]])).visits == 2
    assert [event["direction"] for event in job.events_named("direction_measured")] == measured


@pytest.mark.parametrize("actors", [1, 2, 4])
def test_responses_do_not_depend_on_the_number_of_actors(job: Job, undisturbed: Responses, actors: int) -> None:
    job.hold(until=lambda: len(job.slots("visit_given")) == actors)
    outcome = job.run(actors=actors)
    assert job.missing == [] and not outcome.failures and not outcome.interrupted
    assert job.responses() == undisturbed
    assert outcome.visits == len(job.sweep.grid.points()) == len(job.events_named("visit_done"))
    assert outcome.responses == len(undisturbed)
    assert outcome.actors == actors == len({e["pid"] for e in job.events_named("actor_ready")})
    assert job.events_named("visit_given")[0]["point_id"] == ORIGIN.id


def test_every_actor_works_and_none_outlives_the_dispatch(job: Job) -> None:
    job.hold(until=lambda: job.slots("visit_given") == {0, 1})
    job.run(actors=2)
    assert job.slots("visit_done") == {0, 1}
    pids = [e["pid"] for e in job.events_named("actor_ready")]
    assert wait_for(lambda: not any(map(is_alive, pids)))


def test_actors_are_closed_before_their_processes_end(job: Job) -> None:
    job.hold(until=lambda: job.slots("actor_ready") == {0, 1})
    outcome = job.run(actor=Closing)
    assert outcome.actors == outcome.actors_at_once == 2
    closed = {path.name for path in job.study.out.glob("closed-*")}
    assert closed == {f"closed-{e['pid']}" for e in job.events_named("actor_ready")} and len(closed) == 2


def test_a_killed_actor_is_replaced_and_nothing_is_lost_or_doubled(job: Job, undisturbed: Responses) -> None:
    killed: list[int] = []

    def kill(event: Event) -> None:
        if event["event"] == "visit_done" and len(killed) < 3 and job.pid(event["slot"]) not in killed:
            killed.append(job.pid(event["slot"]))
            os.kill(killed[-1], signal.SIGKILL)

    outcome = job.run(actors=2, seconds=0.1, on_event=kill)
    assert len(killed) == 3
    assert outcome.restarts == 3 == len(job.events_named("actor_died"))
    assert outcome.actors_at_once <= 2 < outcome.actors
    assert not outcome.failures and job.missing == []
    assert job.responses() == undisturbed


def test_a_visit_stored_before_its_actor_died_is_not_repeated(job: Job, undisturbed: Responses) -> None:
    for point in job.sweep.grid.points()[2:5]:
        instruct(job, point.id, "after die once")
    outcome = job.run(actor=Scripted)
    assert outcome.restarts == 3 and job.missing == []
    assert job.responses() == undisturbed
    assert len(job.events_named("visit_done")) == len(job.sweep.grid.points()) == outcome.visits
    assert outcome.responses == len(undisturbed)


def test_a_visit_that_kills_its_actors_is_given_up_and_the_rest_is_run(job: Job, undisturbed: Responses) -> None:
    poisoned = job.sweep.grid.points()[4]
    instruct(job, poisoned.id, "before die")
    outcome = job.run(actor=Scripted, max_attempts=3)
    (failure,) = outcome.failures
    assert failure.visit.point == poisoned and len(failure.errors) == 3
    assert outcome.restarts == 3
    assert [visit.point for visit in job.missing] == [poisoned]
    assert job.responses() == {key: text for key, text in undisturbed.items() if key[0] != poisoned.id}
    # Only the visit that ran is blamed, though each actor had another one in its queue.
    assert {e["point_id"] for e in job.events_named("actor_died")} == {poisoned.id}
    (given_up,) = job.events_named("visit_quarantined")
    assert given_up["story"] == failure.errors
    (job.study.out / poisoned.id).unlink()
    assert not job.run().failures  # the next run tries visits that were given up again
    assert job.responses() == undisturbed


def test_a_visit_that_raises_is_tried_again_by_the_same_actor(job: Job, undisturbed: Responses) -> None:
    points = job.sweep.grid.points()
    instruct(job, points[3].id, "before raise once")
    instruct(job, points[12].id, "before raise")
    outcome = job.run(actor=Scripted, actors=1, max_attempts=2)  # one of two actors might get these two in a row
    assert outcome.restarts == 0
    assert [f.visit.point for f in outcome.failures] == [points[12]]
    assert outcome.failures[0].errors == ["RuntimeError: this point is beyond me"] * 2
    assert [e["point_id"] for e in job.events_named("visit_failed")].count(points[3].id) == 1
    assert {key[0] for key in undisturbed} - {key[0] for key in job.responses()} == {points[12].id}


@pytest.mark.parametrize(("actor", "actors"), [(Broken, 1), (OneBroken, 2)])
def test_an_engine_that_fails_is_replaced_and_no_visit_is_given_up(
    job: Job, undisturbed: Responses, actor: type[Broken], actors: int
) -> None:
    job.hold(until=lambda: actors == 1 or bool(job.events_named("actor_died")))
    outcome = job.run(actor=actor, actors=actors)
    assert not outcome.failures and job.responses() == undisturbed
    deaths = job.events_named("actor_died")
    assert outcome.restarts == len(deaths) > 0 and not any(e["blamed"] for e in deaths)
    assert all(
        e["why"].endswith("two visits in a row failed: RuntimeError: the engine's executor failed") for e in deaths
    )


def test_consecutive_points_at_which_every_engine_fails_are_given_up(job: Job, undisturbed: Responses) -> None:
    poisoned = job.sweep.grid.points()[1:7]
    for point in poisoned:
        instruct(job, point.id, "before raise")
    # Two actors complete no visit, which counts as two failed starts. On a busy machine real ones may be added to them.
    outcome = job.run(actor=Scripted, actors=1, max_failed_starts=8)
    assert {f.visit.point for f in outcome.failures} == set(poisoned) and outcome.restarts > 0
    assert all(len(f.errors) == 3 for f in outcome.failures)
    assert {key[0] for key in undisturbed} - {key[0] for key in job.responses()} == {p.id for p in poisoned}


@pytest.mark.parametrize("actors", [1, 2])
def test_engines_that_fail_at_their_first_visit_end_the_run(job: Job, actors: int) -> None:
    with pytest.raises(UserError, match=r"no actor could be started .* 3 tries; RuntimeError: the engine's executor"):
        job.run(actor=BrokenAtOnce, actors=actors)
    assert len(job.events_named("actor_starting")) == 3 * actors and not job.events_named("visit_quarantined")


def test_an_actor_past_its_deadline_is_replaced_and_its_visit_runs_on_another(job: Job, undisturbed: Responses) -> None:
    stopped = job.sweep.grid.points()[8]
    instruct(job, stopped.id, "before hang once")
    outcome = job.run(actor=Scripted, deadline_floor=5.0, deadline_after=3)
    assert outcome.restarts == 1 and not outcome.failures
    (death,) = job.events_named("actor_died")
    assert death["point_id"] == stopped.id and "deadline" in death["why"]
    assert job.responses() == undisturbed
    hung = next(e["pid"] for e in job.events_named("actor_ready") if e["slot"] == death["slot"])
    assert wait_for(lambda: not is_alive(hung)), "a stopped process must not keep its memory"


def test_a_driver_that_was_delayed_itself_blames_no_actor(job: Job) -> None:
    def delay_driver(event: Event) -> None:
        if event["event"] == "visit_done" and len(job.events_named("visit_done")) == 8:
            time.sleep(3)  # for example because its disk is slow

    outcome = job.run(seconds=0.2, on_event=delay_driver, deadline_floor=2.0, deadline_after=5)
    assert outcome.restarts == 0 and not job.events_named("actor_died") and job.missing == []


@pytest.mark.parametrize("actors", [1, 2])
def test_an_actor_that_hangs_while_it_measures_a_direction_is_replaced(
    job: Job, undisturbed: Responses, actors: int
) -> None:
    outcome = job.run(actor=HangsMeasuring, actors=actors, deadline_floor=1.0)
    assert (outcome.restarts, outcome.failures) == (1, [])
    assert "deadline" in job.events_named("actor_died")[0]["why"] and not job.events_named("actor_died")[0]["blamed"]
    assert job.responses() == undisturbed


def test_an_actor_that_hangs_while_it_loads_or_at_its_first_visit_is_replaced(job: Job, undisturbed: Responses) -> None:
    limits = {"load_limit": 6.0, "deadline_floor": 6.0, "first_deadline_floor": 6.0, "min_tokens_per_second": 1e9}
    outcome = job.run(actor=HangsAtFirst, actors=1, max_failed_starts=8, **limits)
    assert job.events_named("actor_failed_to_start")[0]["why"] == "has not loaded within 6 s (cluster.load_limit)"
    assert "past its deadline of 6 s for one of the first visits" in job.events_named("actor_died")[0]["why"]
    assert outcome.restarts >= 1 and not outcome.failures
    assert job.responses() == undisturbed


def test_an_actor_that_hangs_in_its_constructor_is_replaced(job: Job, undisturbed: Responses) -> None:
    outcome = job.run(actor=HangsInConstructor, actors=1, max_failed_starts=8, load_limit=4.0)
    assert job.events_named("actor_failed_to_start")[0]["why"] == "has not loaded within 4 s (cluster.load_limit)"
    assert not outcome.failures and not outcome.interrupted and job.responses() == undisturbed
    hung = int((job.study.out / "hanging").read_text())
    assert wait_for(lambda: not is_alive(hung)), "a constructor that hangs must not keep its memory"


class _Occupant:
    """Takes CPU cores of the session, as an actor of someone else does."""


@pytest.fixture
def occupant(ray_session: None) -> Iterator[Any]:
    """An actor of someone else, without which one actor of a test's job fits into the session, and with which none."""
    cores = int(ray.cluster_resources()["CPU"])
    handle: Any = ray.remote(num_cpus=cores)(_Occupant).remote()  # type: ignore[attr-defined]
    ray.get(handle.__ray_ready__.remote())
    yield handle
    ray.kill(handle)


def test_a_run_waits_for_the_clusters_resources_and_says_so(
    job: Job, undisturbed: Responses, occupant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "FIRST_NOTICE", 1.0)
    cores = ray.cluster_resources()["CPU"]

    def release(event: Event) -> None:
        if event["event"] == "actors_waiting":
            ray.kill(occupant)

    outcome = job.run(actors=2, cpus_per_actor=cores, on_event=release, wait_limit=60.0)
    first, *_ = job.events_named("actors_waiting")
    assert (first["pending"], first["placed"]) == (2, 0) and first["seconds"] >= 1
    assert (first["needed"], first["free"], first["total"]) == ({"CPU": cores}, {"CPU": 0}, {"CPU": cores})
    assert outcome.actors == 1 and not outcome.interrupted, "one actor has to be enough"
    assert job.responses() == undisturbed


def test_a_run_that_gets_no_resources_ends_within_its_limit_and_resumes(
    job: Job, undisturbed: Responses, occupant: Any
) -> None:
    outcome = job.run(cpus_per_actor=1, wait_limit=1.5)
    assert outcome.interrupted and not outcome.failures and not outcome.actors
    (ended,) = job.events_named("wait_ended")
    assert re.match(
        r"cluster\.wait_limit=1\.5: no actor has started for .* s: each needs 1 CPU, and the cluster has free: "
        r"0 of \d+ CPU; stored results are kept, and the same command resumes$",
        ended["why"],
    )
    ray.kill(occupant)
    job.run(cpus_per_actor=1)
    assert job.responses() == undisturbed


def test_no_short_deadline_before_enough_visits_are_done(job: Job) -> None:
    job.run(only=job.missing[:1])  # measures the directions, which have deadlines of their own
    outcome = job.run(seconds=0.3, deadline_floor=0.0, deadline_factor=0.1, deadline_after=1000, only=job.missing[:4])
    assert outcome.restarts == 0


def test_the_first_interrupt_lets_running_visits_finish(job: Job, undisturbed: Responses) -> None:
    def interrupt(event: Event) -> None:
        if event["event"] == "visit_done" and len(job.events_named("visit_done")) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    outcome = job.run(seconds=0.2, on_event=interrupt)
    assert outcome.interrupted and not outcome.failures
    assert signal.getsignal(signal.SIGINT) is handler
    done = [e["visit"] for e in job.events_named("visit_done")]
    assert 5 <= len(done) <= 7  # the two that ran when the signal arrived, and one that may have started just then
    assert [e["signal"] for e in job.events_named("stopping")] == ["SIGINT"]
    assert len(job.missing) <= len(job.sweep.grid.points()) - len(done)
    assert not job.run(actors=3).interrupted
    assert job.responses() == undisturbed


def test_the_second_interrupt_stops_at_once(job: Job) -> None:
    def interrupt(event: Event) -> None:
        if event["event"] == "visit_given":
            threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()
        if event["event"] == "stopping":
            threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()

    outcome = job.run(seconds=300, on_event=interrupt, only=job.missing[:1], actors=1, grace=1000)
    assert outcome.interrupted and not job.events_named("visit_done")


def test_the_grace_period_limits_the_wait_for_running_visits(job: Job) -> None:
    def interrupt(event: Event) -> None:
        if event["event"] == "visit_given":
            threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGTERM]).start()

    outcome = job.run(seconds=300, on_event=interrupt, only=job.missing[:1], actors=1, grace=1)
    assert outcome.interrupted and not job.events_named("visit_done")


def test_an_actor_that_loses_its_gpu_is_replaced_and_nothing_wrong_is_stored(job: Job, undisturbed: Responses) -> None:
    for visit in job.missing[2:17:7]:  # an actor holds two visits, and loses its engine with the first
        instruct(job, visit.point.id, "before lose once")
    outcome = job.run(actor=Scripted)
    assert outcome.restarts == 3 and not outcome.failures and job.missing == []
    assert job.responses() == undisturbed, "the visit that waited in the actor's queue must not run on a broken engine"
    assert {e["why"] for e in job.events_named("actor_died")} == {
        "the GPU or a rank was lost (CUDA error: uncorrectable ECC error encountered)"
    }


def test_a_visit_that_exhausts_memory_is_tried_again_and_given_up_in_the_end(job: Job, undisturbed: Responses) -> None:
    points = job.sweep.grid.points()
    instruct(job, points[3].id, "before exhaust once")
    instruct(job, points[8].id, "before exhaust")
    outcome = job.run(actor=Scripted, seconds=0.1, max_attempts=2)
    (failure,) = outcome.failures
    assert failure.visit.point == points[8] and len(failure.errors) == 2 and "memory ran out" in failure.errors[0]
    assert outcome.restarts == 3 and [visit.point for visit in job.missing] == [points[8]]
    assert job.responses() == {key: text for key, text in undisturbed.items() if key[0] != points[8].id}


def test_a_bad_gpu_loses_its_slot_and_no_visit(job: Job, undisturbed: Responses) -> None:
    job.hold(until=lambda: bool(job.events_named("actor_abandoned")))
    outcome = job.run(actor=OneOnGoodGpu, max_failed_starts=2)
    assert not outcome.failures and job.missing == [] and job.responses() == undisturbed
    (abandoned,) = job.events_named("actor_abandoned")
    assert [e["slot"] for e in job.events_named("actor_died")] == [abandoned["slot"]] * 2


def test_a_run_whose_only_gpu_is_bad_ends_with_the_reason(job: Job) -> None:
    with pytest.raises(UserError, match=r"no actor could be started that completes a visit.*illegal memory access"):
        job.run(actor=OnBadGpu, actors=1, max_failed_starts=2)


def test_a_user_error_in_an_actor_reaches_the_driver_unchanged(job: Job) -> None:
    with pytest.raises(UserError, match="the weights are quantized") as refused:
        job.run(actor=Refused)
    assert (refused.value.field, refused.value.value) == ("model.path", "there")
    points = job.sweep.grid.points()
    instruct(job, points[-1].id, "before refuse")
    with pytest.raises(UserError, match=r"^model.max_model_len=12: raise it$"):
        job.run(actor=Scripted)
    assert type(refused.value) is UserError
    # The totals up to the error are kept for the run's record.
    totals = job.dispatcher.outcome.to_json()
    assert totals["visits"] == len(job.events_named("visit_done")) >= len(points) - 3
    assert totals["actors"] == len(job.events_named("actor_ready")) >= 1  # a slow machine may start only one in time


def test_an_actor_that_is_not_admitted_ends_the_run(job: Job) -> None:
    def check_actor(description: Mapping[str, Any]) -> None:
        raise UserError("engine.mix", "false", description["engine"]["engine"])

    with pytest.raises(UserError, match="dummy"):
        job.run(check_actor=check_actor)
    assert job.study.generations.stored() == {}


def test_machines_with_other_versions_are_refused_with_the_list_of_versions(job: Job) -> None:
    job.hold(until=lambda: bool(job.events_named("actor_failed_to_start")))
    outcome = job.run(actor=OtherVersions, actors=2)
    (refused,) = job.events_named("actor_failed_to_start")  # exactly one: that machine is not tried again
    assert re.search(r"has other versions than .*: .*vllm 0\.1 instead of", refused["why"])
    assert outcome.actors == 1 and outcome.restarts == 0 and job.missing == []


def test_actors_that_differ_in_measured_kv_blocks_work_side_by_side(job: Job) -> None:
    job.hold(until=lambda: job.slots("visit_given") == {0, 1})
    outcome = job.run(actor=MeasuresBlocks, actors=2, check_actor=admission(job))
    assert outcome.actors_at_once == 2 and not job.events_named("actor_failed_to_start") and job.missing == []
    blocks = {part.meta["engine"]["kv_blocks"] for part in job.study.generations.parts()}
    assert blocks == {e["pid"] for e in job.events_named("actor_ready")}
    (run,) = (json.loads(path.read_text()) for path in job.study.root.glob("sweeps/test/runs/*.json"))
    assert len(run["engines"]) == 2 and run["notes"][0].endswith("were not compared in: kv_blocks")


def test_an_actor_with_other_settings_is_given_up_and_its_neighbor_works(job: Job) -> None:
    job.hold(until=lambda: bool(job.events_named("actor_abandoned")))
    outcome = job.run(actor=OtherSettings, actors=2, check_actor=admission(job), max_failed_starts=2)
    refused = job.events_named("actor_failed_to_start")
    (abandoned,) = job.events_named("actor_abandoned")
    assert [e["slot"] for e in refused] == [abandoned["slot"]] * 2
    assert "max_num_seqs 128 before and 64 now" in refused[0]["why"]
    assert outcome.actors == 1 and outcome.restarts == 0 and job.missing == []


def test_a_run_ends_if_all_its_actors_are_refused_and_waits_for_those_that_load(job: Job) -> None:
    """The actor that loads first is refused while its neighbor still loads; then the neighbor is refused too."""
    check = Admission([{"engine": "dummy", "version": 2}], False, admission(job)._recorder)
    with pytest.raises(UserError, match="version 2 before and 1 now"):
        job.run(actors=2, check_actor=check)
    assert len(job.events_named("actor_failed_to_start")) == 1 and not job.events_named("actor_ready")


def test_other_versions_end_the_run_if_no_other_actor_is_ready(job: Job) -> None:
    def kill(event: Event) -> None:
        if event["event"] == "visit_done":
            os.kill(job.pid(event["slot"]), signal.SIGKILL)

    with pytest.raises(UserError, match="has other versions than"):
        job.run(actor=OtherVersions, actors=1, seconds=0.2, on_event=kill)


def test_a_user_error_on_one_machine_does_not_stop_the_others(job: Job) -> None:
    job.hold(until=lambda: bool(job.events_named("actor_failed_to_start")))
    outcome = job.run(actor=WithoutModel, actors=2)
    assert outcome.actors == 1 and job.missing == []
    assert {e["why"] for e in job.events_named("actor_failed_to_start")} == {"model.path=there: is not on this machine"}
    assert len(job.events_named("actor_failed_to_start")) <= 3


def test_a_machine_on_which_no_engine_runs_is_asked_once(job: Job) -> None:
    job.hold(until=lambda: bool(job.events_named("actor_failed_to_start")))
    outcome = job.run(actor=OldDriver, actors=2)
    (refused,) = job.events_named("actor_failed_to_start")
    assert refused["why"] == "cluster=elsewhere: the driver is too old"
    assert outcome.actors == 1 and job.missing == [] and not job.events_named("actor_abandoned")


def test_slots_whose_actors_never_start_are_abandoned(job: Job) -> None:
    with pytest.raises(UserError, match="no actor could be started"):
        job.run(actor=DiesLoading, actors=1, max_failed_starts=2)
    assert len(job.events_named("actor_failed_to_start")) == 2 and job.events_named("actor_abandoned")


def test_a_request_larger_than_the_cluster_is_refused_at_once(job: Job) -> None:
    with pytest.raises(UserError, match="no node of the cluster has room") as refused:
        job.run(gpus_per_actor=64)
    assert refused.value.value == "64 GPU"


def test_actors_without_the_disk_return_their_rows_through_ray(job: Job, undisturbed: Responses) -> None:
    outcome = job.run(actor=WithoutDisk)
    assert not outcome.failures and job.missing == []
    assert job.responses() == undisturbed
    assert not Path("/nowhere").exists()
    assert {part.meta["engine"]["engine"] for part in job.study.generations.parts()} == {"dummy"}


def test_the_memory_of_the_driver_does_not_grow_over_two_thousand_tasks(tmp_path: Path, ray_session: None) -> None:
    job = Job(tmp_path / "studies", steps=500, directions=2)
    resident: list[int] = []

    def watch(event: Event) -> None:
        if event["event"] == "visit_done":
            resident.append(psutil.Process().memory_info().rss)
            job.events.clear()

    outcome = job.run(actors=4, on_event=watch)
    assert outcome.visits == len(resident) == 1001 and job.missing == []
    assert len(job.study.generations.stored()) == 2002 and len(job.responses()) == 10010
    assert max(resident) - resident[200] < 32 << 20


def test_no_actor_starts_without_visits(job: Job) -> None:
    assert job.run(only=[]).visits == 0 and job.events == []


def test_the_last_event_has_the_totals(job: Job) -> None:
    outcome = job.run()
    (totals,) = job.events_named("dispatch_finished")
    done = job.events_named("visit_done")
    assert totals["visits"] == outcome.visits == len(done)
    assert totals["tokens"] == outcome.tokens == sum(e["tokens"] for e in done)


def test_a_driver_needs_neither_torch_nor_an_engine() -> None:
    heavy = ("torch", "vllm", "transformers", "numba", "triton", "pandas")
    code = f"import sys, orchestrator.execution.dispatch; print([m for m in {heavy!r} if m in sys.modules])"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "[]"


def batches(*texts: str) -> list[ContinuationBatch]:
    """Return one batch for each text, with a second text of its own."""
    pairs = ((Continuation(context_id([1]), "p", (1,), each) for each in (text, f"{text} again")) for text in texts)
    return [ContinuationBatch(tuple(pair)) for pair in pairs]


def test_actors_share_what_is_read_after_the_last_visit(job: Job, undisturbed: Responses) -> None:
    follow_up = batches(*map(str, range(8)))
    job.hold(until=lambda: job.slots("visit_given") == {0, 1})
    outcome = job.run(follow_up=follow_up)
    assert job.responses() == undisturbed and not outcome.failures
    done = job.events_named("continuations_done")
    assert {e["batch"] for e in done} == {batch.id for batch in follow_up} and {e["slot"] for e in done} == {0, 1}
    names = [e["event"] for e in job.events]
    assert max(i for i, name in enumerate(names) if name == "visit_done") < names.index("continuations_queued")
    assert len(job.study.log_probabilities.read()) == 16
    assert outcome.actors == 2, "the actors that made the visits read too"


def test_a_batch_that_cannot_be_read_is_given_up_and_nothing_else_is_lost(job: Job, undisturbed: Responses) -> None:
    outcome = job.run(actor=FailsReading, follow_up=batches("a", "poison", "b"), max_attempts=2)
    assert job.responses() == undisturbed and not outcome.failures and not outcome.interrupted
    (given_up,) = job.events_named("continuations_given_up")
    assert len(given_up["story"]) == 2 and "beyond me" in given_up["story"][0]
    assert len(job.events_named("continuations_failed")) == 2 and outcome.restarts == 0
    assert len(job.study.log_probabilities.read()) == 4


def test_an_actor_that_hangs_while_it_reads_is_replaced(job: Job) -> None:
    outcome = job.run(actor=FailsReading, actors=1, follow_up=batches("a", "trap", "b"), deadline_floor=2.0)
    assert outcome.restarts == 1 and "deadline" in job.events_named("actor_died")[0]["why"]
    assert len(job.study.log_probabilities.read()) == 6 and job.missing == []


def test_no_actor_starts_if_there_is_nothing_to_read(job: Job) -> None:
    job.run(only=[], follow_up=[])
    assert job.events == []
    job.run(only=[], follow_up=batches("a"))
    assert len(job.events_named("continuations_done")) == 1 and job.responses() == {}
