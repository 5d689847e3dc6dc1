"""Test nodes that join and leave while a sweep runs, and the check for the model on each machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.schema import ModelConfig
from orchestrator.execution import cluster
from orchestrator.models.resolve import ensure_on_this_machine
from orchestrator.utils.errors import UserError
from tests.cluster.actors import OtherDevice, OtherVersions
from tests.cluster.conftest import Event, Job, admission, prepare_environment, run_alone

NODE_RESOURCES = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture
def nodes() -> Iterator[Any]:
    """Start a cluster of one node, with its own raylet, to which tests add nodes."""
    from ray.cluster_utils import Cluster

    prepare_environment()
    ray_cluster = Cluster(initialize_head=True, head_node_args={**NODE_RESOURCES, "include_dashboard": False})
    try:
        with cluster.session(cluster.ClusterSpec("ray", ray_cluster.address)):
            yield ray_cluster
    finally:
        ray_cluster.shutdown()


def test_actors_start_on_nodes_that_join_and_nothing_is_lost_when_one_leaves(nodes: Any, tmp_path: Path) -> None:
    expected = run_alone(Job(tmp_path / "alone", steps=60))
    job = Job(tmp_path / "studies", steps=60)
    joined: list[Any] = []

    def add_and_remove_node(event: Event) -> None:
        done = job.events_named("visit_done")
        if event["event"] == "visit_done" and len(done) == 4:
            job.hold(until=lambda: 1 in job.slots("visit_given"))
            joined.append(nodes.add_node(**NODE_RESOURCES))
        if event["event"] == "visit_done" and event["slot"] == 1 and sum(e["slot"] == 1 for e in done) == 3:
            nodes.remove_node(joined.pop(), allow_graceful=False)

    outcome = job.run(seconds=0.05, on_event=add_and_remove_node, actors=None, cpus_per_actor=1)
    first, second = job.events_named("actor_ready")[:2]
    assert first["node"] != second["node"] and not joined
    assert [e["slot"] for e in job.events_named("visit_done")].count(1) >= 3, "the node that joined must run visits"
    (death,) = job.events_named("actor_died")
    assert death["slot"] == 1 and not death["blamed"], "no visit may be blamed for the loss of its node"
    assert outcome.restarts == 1 and not outcome.failures and job.missing == [] and not job.events_named("visit_failed")
    assert job.responses() == expected


def test_a_node_that_joins_with_other_versions_is_refused(nodes: Any, tmp_path: Path) -> None:
    job = Job(tmp_path / "studies", steps=20)

    def add_node(event: Event) -> None:
        if event["event"] == "visit_done" and len(job.events_named("visit_done")) == 4:
            job.hold(until=lambda: bool(job.events_named("actor_failed_to_start")))
            nodes.add_node(**NODE_RESOURCES)

    outcome = job.run(actor=OtherVersions, on_event=add_node, actors=None, cpus_per_actor=1)
    (refused,) = job.events_named("actor_failed_to_start")
    assert "has other versions than" in refused["why"] and len(job.events_named("actor_starting")) == 2
    assert outcome.actors == 1 and not outcome.failures and job.missing == []


def test_a_node_that_joins_with_another_device_is_asked_once(nodes: Any, tmp_path: Path) -> None:
    job = Job(tmp_path / "studies", steps=20)

    def add_node(event: Event) -> None:
        if event["event"] == "visit_done" and len(job.events_named("visit_done")) == 4:
            job.hold(until=lambda: bool(job.events_named("actor_failed_to_start")))
            nodes.add_node(**NODE_RESOURCES | {"num_cpus": 2})

    check = admission(job)
    outcome = job.run(actor=OtherDevice, on_event=add_node, actors=None, cpus_per_actor=1, check_actor=check)
    refused = job.events_named("actor_failed_to_start")
    assert "device NVIDIA H100 before and NVIDIA L4 now" in refused[0]["why"]
    assert len(job.events_named("actor_starting")) <= 3, "once for each of its two places, if the run lasts that long"
    assert not job.events_named("actor_abandoned"), "no slot has failed to start"
    assert outcome.actors == 1 and not outcome.failures and job.missing == []


def test_a_model_on_this_machine_is_not_downloaded_and_a_missing_one_is_refused(tmp_path: Path) -> None:
    ensure_on_this_machine(ModelConfig(path="/nowhere"), tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        ensure_on_this_machine(ModelConfig(path=str(tmp_path / "none")), tmp_path / "none")
