"""The transformers engine marks responses to logits that overflow float16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import ORIGIN, Point
from orchestrator.sweep.tasks import NONFINITE, Prompt, PromptSet, Sampling
from workers.engines.base import EngineSpec
from workers.engines.hf import TransformersEngine

LINE = RandomDirection(seed=1)


def test_responses_to_logits_that_overflow_float16_are_marked(make_tiny: Callable[..., Path]) -> None:
    spec = EngineSpec(
        kind="transformers", model_dir=str(make_tiny("llama", dtype="float16")), dtype="float16", max_model_len=64
    )
    engine = TransformersEngine(spec)
    ids = ((7, 8, 9), (10, 11, 12, 13))
    prompts = PromptSet("harmful", (Prompt("a"), Prompt("b")), ("a", "b"), ids, Sampling(6))
    scalars = {LINE.id: engine.measure(LINE)}
    for alpha in (0.0, 0.5, 3000.0):
        engine.apply_point(Point.from_coefficients([(LINE, alpha)]) if alpha else ORIGIN, scalars)
        largest = [engine.logits(prompt)[-1].max() for prompt in ids]
        responses = engine.generate([prompts])[0]
        assert [r.finish_reason == NONFINITE for r in responses] == [not torch.isfinite(x) for x in largest]
        assert [r.finish_reason == NONFINITE for r in responses] == [alpha == 3000.0] * 2
        assert all((r.n_tokens, r.response) == (0, "") for r in responses if r.finish_reason == NONFINITE)
    engine.close()
