"""Prompts of one visit share system prompts: each shared prefix is computed once, whatever the order of prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from workers.engines.base import EngineSpec
from workers.engines.factory import open_engine
from workers.engines.vllm import VllmEngine

pytestmark = pytest.mark.engine

# Fewer sequences than prompts run at a time, in a cache that holds little more than these.
SPEC = EngineSpec(max_model_len=384, max_num_seqs=4, max_num_batched_tokens=512, kv_cache_gib=0.002)
PROMPTS = 12


def prompt_set(system: list[int], probes: int) -> PromptSet:
    prompts = tuple(Prompt(f"{probes} {i}") for i in range(PROMPTS))
    ids = tuple((*system, probes, 50 + i, 60 + 2 * i) for i in range(PROMPTS))
    return PromptSet("harmful", prompts, tuple(p.text for p in prompts), ids, Sampling(max_tokens=3))


def test_the_prefix_of_each_system_prompt_is_computed_once_a_visit(
    make_tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(dataclasses.replace(SPEC, model_dir=str(make_tiny("llama"))))
    assert isinstance(engine, VllmEngine)
    outputs: list[Any] = []
    generate = engine._llm.generate

    def recorded(*args: Any, **kwargs: Any) -> Any:
        outputs[:] = generate(*args, **kwargs)
        return outputs

    monkeypatch.setattr(engine._llm, "generate", recorded)
    try:
        block = engine.identity["kv_block_size"]
        one, other = [40 + i % 50 for i in range(2 * block + 7)], [41 + i % 45 for i in range(block + 3)]
        # two probe sets under two system prompts, in the order in which a visit has them
        visit = [prompt_set(one, 7), prompt_set(other, 7), prompt_set(one, 8), prompt_set(other, 8)]
        engine.generate(visit)
        total = sum(len(ids) for prompts in visit for ids in prompts.token_ids)
        computed = total - sum(output.num_cached_tokens for output in outputs)
        once = 2 * block + block
        assert computed == once + total - 2 * PROMPTS * (2 * block + block)
    finally:
        engine.close()
