"""Errors that end an engine, told apart from those that concern one visit only."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.sweep.points import Point
from orchestrator.sweep.tasks import Visit
from orchestrator.utils.errors import UserError
from workers.actor import Actor
from workers.engines.base import CanaryError, EngineSpec
from workers.failures import EngineLostError, describe_loss


class EngineDeadError(Exception):
    """Stand-in for vLLM's error, which takes long to import."""


class EngineGenerateError(Exception):
    """Likewise."""


def test_vllm_still_has_these_errors() -> None:
    (folder,) = importlib.util.find_spec("vllm").submodule_search_locations  # type: ignore[union-attr,misc]
    source = (Path(folder) / "v1" / "engine" / "exceptions.py").read_text()
    assert "class EngineDeadError(" in source and "class EngineGenerateError(" in source


def chained() -> Exception:
    """Return an error without marks of its own that another one has led to."""
    try:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")
        except RuntimeError as cause:
            raise RuntimeError("the step failed") from cause
    except RuntimeError as error:
        return error


LOST = [
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
    torch.AcceleratorError(
        "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress`"
    ),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA driver error: unknown error"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"),
    RuntimeError("Triton Error [CUDA]: device-side assert triggered"),
    RuntimeError("NCCL error: unhandled cuda error (run with NCCL_DEBUG=INFO for details)"),
    RuntimeError("Worker failed with error 'CUDA error: device-side assert triggered', please check the stack trace"),
    RuntimeError("Executor failed."),
    EngineDeadError(),
]
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.65 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("Worker failed with error 'CUDA out of memory. Tried to allocate 20.00 MiB.', please check"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
    chained(),
]
OF_A_VISIT = [
    RuntimeError("vLLM refused to reset its prefix cache"),
    ValueError("no single token spells 'A'"),
    KeyError("cuda"),
    CanaryError("a write did not reach the weights"),
    EngineGenerateError("a request failed"),
]


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_lost_gpu_ends_the_engine(error: Exception) -> None:
    assert (describe_loss(error) or "").startswith("the GPU or a rank was lost (")


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_memory_that_ran_out_ends_the_engine_with_a_remedy(error: Exception) -> None:
    assert (describe_loss(error) or "").startswith("memory ran out, if it happens again, lower engine.max_num_seqs")


@pytest.mark.parametrize("error", OF_A_VISIT, ids=repr)
def test_other_errors_concern_the_visit_only(error: Exception) -> None:
    assert describe_loss(error) is None


def test_an_actor_refuses_everything_after_its_engine_was_lost(tmp_path: Path, monkeypatch: Any) -> None:
    """The visit that waits in the actor's queue must not run on what is left of the engine."""
    actor = Actor(EngineSpec(kind="dummy"), str(tmp_path), "study")
    actor.load()
    errors: list[Exception] = [UserError("a", 1, "out of memory"), ValueError("of this visit"), OUT_OF_MEMORY[0]]

    def fail(prompt_sets: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return []

    monkeypatch.setattr(actor.engine, "generate", fail)
    visit = Visit(Point(), ())
    with pytest.raises(UserError):
        actor.visit(visit)
    with pytest.raises(ValueError, match="of this visit"):
        actor.visit(visit)
    for _ in range(2):
        with pytest.raises(EngineLostError, match=r"memory ran out.*Tried to allocate") as lost:
            actor.visit(visit)
    sent = copy.copy(lost.value)  # as pickle does
    assert (type(sent), str(sent)) == (EngineLostError, str(lost.value)), "the driver reads it without torch"
