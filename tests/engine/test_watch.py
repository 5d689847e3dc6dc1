"""The canary's watch on a mixture of experts that vLLM calls by an opaque operation, as it does on a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.engines import vllm_watch
from workers.engines.base import CanaryError, EngineSpec
from workers.engines.factory import open_engine
from workers.engines.vllm import VllmEngine

pytestmark = pytest.mark.engine

SPEC = EngineSpec(max_model_len=64, max_num_seqs=8, max_num_batched_tokens=256, kv_cache_gib=0.05)


@pytest.fixture(scope="module")
def opaque(make_tiny: Callable[..., Path]) -> Iterator[tuple[VllmEngine, list[Any]]]:
    """Open a mixture of experts whose layers are called as on a GPU: by an operation that takes the layer's name."""
    engine = open_engine(dataclasses.replace(SPEC, model_dir=str(make_tiny("mixtral"))))
    assert isinstance(engine, VllmEngine)
    model = engine._llm.collective_rpc(lambda worker: worker.model_runner.get_model())[0]
    runners = [module for module in model.modules() if hasattr(module, "_forward_entry")]
    assert len(runners) == 2, "one for each layer"
    for runner in runners:
        runner._forward_entry = torch.ops.vllm.moe_forward
    yield engine, runners
    engine.close()


def test_the_canary_sees_the_experts_inside_an_opaque_operation(opaque: tuple[VllmEngine, list[Any]]) -> None:
    engine, runners = opaque
    engine.verify_writes()
    assert all(runner._forward_entry == torch.ops.vllm.moe_forward for runner in runners), "generation uses it again"


def test_without_the_plain_function_the_experts_have_no_reader(
    opaque: tuple[VllmEngine, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault that the watch had: a dispatch mode is off inside the handler of its own operation."""
    engine, _ = opaque
    monkeypatch.setattr(vllm_watch, "_plain_experts", lambda runner: runner._forward_entry)
    with pytest.raises(CanaryError, match=r"experts.*no operation reads"):
        engine.verify_writes()


def test_experts_that_are_written_but_not_used_are_found(opaque: tuple[VllmEngine, list[Any]]) -> None:
    engine, runners = opaque
    experts = runners[1].routed_experts
    weights = experts.w2_weight
    experts.w2_weight = torch.nn.Parameter(weights.detach().clone(), requires_grad=False)
    try:
        with pytest.raises(CanaryError, match=r"layers\.1\.\S*experts.*no operation reads"):
            engine.verify_writes()
    finally:
        experts.w2_weight = weights
    engine.verify_writes()


@pytest.mark.slow
def test_the_canary_sees_reads_of_a_model_that_is_compiled(
    make_tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `engine.eager=false` on a CPU, vLLM compiles the model; while reads are watched it runs uncompiled."""
    spec = dataclasses.replace(SPEC, model_dir=str(make_tiny("llama")), eager=False, write="inplace")  # type: ignore[arg-type]
    engine = open_engine(spec)
    try:
        engine.verify_writes()
        monkeypatch.setattr(vllm_watch.ReadWatch, "_set", lambda *_: None)
        with pytest.raises(CanaryError, match="no operation reads"):
            engine.verify_writes()
    finally:
        engine.close()
