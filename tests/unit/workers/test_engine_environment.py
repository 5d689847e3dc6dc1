"""The environment that an actor gives vLLM, NCCL and gloo."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

import pytest

from workers.engines.base import EngineSpec
from workers.engines.vllm import set_environment

SOCKETS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Undo what a test sets, and begin without settings of this machine."""
    with mock.patch.dict(os.environ):
        for name in SOCKETS:
            os.environ.pop(name, None)
        yield


@pytest.mark.parametrize("ranks", [1, 4])
def test_the_sockets_of_an_engines_ranks_are_on_loopback(ranks: int) -> None:
    set_environment(EngineSpec(tensor_parallel=ranks, threads=4))
    assert [os.environ[name] for name in SOCKETS] == ["lo", "=lo"]
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_the_users_own_interfaces_are_kept() -> None:
    os.environ |= {"GLOO_SOCKET_IFNAME": "eth7", "NCCL_SOCKET_IFNAME": "ib0", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    set_environment(EngineSpec(threads=1))
    assert [os.environ[name] for name in SOCKETS] == ["eth7", "ib0"]
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0", "the engine does not work without"
