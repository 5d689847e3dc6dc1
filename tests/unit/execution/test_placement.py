"""Test what is told of actors that wait for the cluster's resources, and when a run without any actor ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.execution import placement
from orchestrator.execution.placement import NoActorPlacedError, PlacementWait, describe_wait
from orchestrator.execution.policy import DispatchPolicy

Node = tuple[Mapping[str, float], Mapping[str, float]]


class Clock:
    """A wait whose time is set by the test. `told` has the times at which the user was told, with the fields."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nodes: list[Node], **policy: float) -> None:
        self.now = 1000.0
        self.told: list[tuple[float, dict[str, Any]]] = []
        monkeypatch.setattr(placement.time, "monotonic", lambda: self.now)
        self.wait = PlacementWait(DispatchPolicy(cpus_per_actor=0, **policy), lambda: nodes, self._observe)

    def _observe(self, event: str, **fields: Any) -> None:
        assert event == "actors_waiting"
        self.told.append((self.now - 1000.0, fields))

    def run(self, until: float, pending: int, placed: int) -> None:
        """Check every second until this time."""
        while self.now - 1000.0 < until:
            self.wait.check(pending, placed)
            self.now += 1.0

    @property
    def times(self) -> list[float]:
        return [time for time, _ in self.told]


BUSY: list[Node] = [({"CPU": 8.0}, {"CPU": 8.0, "GPU": 4.0}), ({"GPU": 1.0}, {"GPU": 4.0})]


def test_a_wait_is_told_after_seconds_and_then_ever_less_often_until_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, BUSY, gpus_per_actor=2, wait_limit=600)
    with pytest.raises(NoActorPlacedError) as ended:
        clock.run(1000, pending=3, placed=0)
    assert clock.times == [5, 60, 120, 240, 480] and clock.now == 1601
    assert str(ended.value) == (
        "cluster.wait_limit=600: no actor has started for 10 min 1 s: each needs 2 GPU, and the cluster has free: "
        "1 of 8 GPU; stored results are kept, and the same command resumes"
    )
    assert describe_wait(clock.told[2][1]) == (
        "no actor has started for 2 min 0 s: each needs 2 GPU, and the cluster has free: 1 of 8 GPU; waiting for at "
        "most 10 min 0 s (cluster.wait_limit)"
    )


def test_a_run_with_an_actor_goes_on_without_limit_and_is_told_once_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch, [({}, {"GPU": 8.0})], gpus_per_actor=1, wait_limit=60)
    clock.run(500, pending=3, placed=5)
    ((_, fields),) = clock.told
    assert describe_wait(fields) == (
        "3 more actors wait, each for 1 GPU, and the cluster has free: 0 of 8 GPU; the run goes on with 5"
    )


def test_the_limit_counts_from_when_the_run_lost_its_last_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, BUSY, gpus_per_actor=2, wait_limit=60)
    clock.run(50, pending=1, placed=0)
    clock.run(100, pending=1, placed=1)
    clock.run(150, pending=1, placed=0)
    clock.run(151, pending=0, placed=1)
    clock.run(200, pending=1, placed=0)
    with pytest.raises(NoActorPlacedError):
        clock.run(300, pending=1, placed=0)
    assert clock.now - 1000 == 212


def test_free_resources_that_no_single_node_has_are_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: list[Node] = [({"GPU": 2.0}, {"GPU": 4.0}), ({"GPU": 3.0}, {"GPU": 4.0})]
    clock = Clock(monkeypatch, nodes, gpus_per_actor=4)
    clock.run(10, pending=1, placed=0)
    assert "the cluster has free: 5 of 8 GPU (at most 3 on one node)" in describe_wait(clock.told[0][1])


def test_a_cluster_without_nodes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Clock(monkeypatch, [], gpus_per_actor=0.5)
    gone.run(10, pending=1, placed=0)
    assert "each needs 0.5 GPU, and the cluster has free: 0 of 0 GPU" in describe_wait(gone.told[0][1])


def test_a_process_that_starts_slowly_is_told_later_than_a_lack_of_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    none, free = Clock(monkeypatch, BUSY), Clock(monkeypatch, BUSY, gpus_per_actor=1)
    for clock in (none, free):
        monkeypatch.setattr(placement.time, "monotonic", lambda clock=clock: clock.now)
        clock.run(100, pending=1, placed=0)
        assert clock.times == [60]
    assert "no actor has started for 1 min 0 s: each needs no GPU or CPU of its own" in describe_wait(none.told[0][1])
