"""GPUs that CUDA_VISIBLE_DEVICES names, as Ray counts them and gives them to actors."""

from __future__ import annotations

import os

import pytest

from orchestrator.execution import cluster
from tests.cluster.conftest import prepare_environment


class _Worker:
    def visible(self) -> str:
        return os.environ["CUDA_VISIBLE_DEVICES"]


def test_a_local_session_counts_slices_of_gpus_and_gives_each_actor_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray counts whole GPUs, of which this machine has none, and one divided GPU is one."""
    import ray

    prepare_environment()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-c7384736-0001,MIG-GPU-22222222-bbbb/1/0")
    with cluster.session(cluster.ClusterSpec()):
        assert cluster.gpus() == 2 and cluster.device() == "cuda"
        workers = [ray.remote(num_cpus=0, num_gpus=1)(_Worker).remote() for _ in range(2)]  # type: ignore[attr-defined]
        names = ray.get([worker.visible.remote() for worker in workers])
    assert sorted(names) == ["MIG-GPU-22222222-bbbb/1/0", "MIG-c7384736-0001"]
