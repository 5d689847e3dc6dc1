"""Versions that the actors of a run must share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.execution.actor_pool import ActorPool
from orchestrator.execution.policy import DispatchPolicy
from orchestrator.utils.errors import NodeError


def description(node: str, **versions: str) -> dict[str, Any]:
    return {
        "host": f"host-{node}",
        "node": node,
        "versions": {name.replace("_", "-"): v for name, v in versions.items()},
    }


def test_actors_share_versions_and_the_branch_of_the_driver() -> None:
    pool = ActorPool(SimpleNamespace(study=None, policy=DispatchPolicy(), observe=None), None)  # type: ignore[arg-type]
    first = description("a", ray="2.60", nvidia_driver="580.65.06", platform="Linux-6.8")
    pool._check_versions(first)
    pool._first_description = first
    pool._check_versions(description("b", ray="2.60", nvidia_driver="580.82.07", platform="Linux-5.15"))
    for other in (
        description("c", ray="2.60", nvidia_driver="590.1", platform="Linux-6.8"),
        description("c", ray="2.61", nvidia_driver="580.65.06"),
        description("c", ray="2.60"),
    ):
        with pytest.raises(NodeError, match="has other versions than host-a") as refused:
            pool._check_versions(other)
        assert refused.value.node == "c" and refused.value.value == "host-c"
