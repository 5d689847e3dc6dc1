"""Responses to logits that are not finite end there, and are marked, in both engines."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from orchestrator.sweep.continuations import Continuation
from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import ORIGIN, Point
from orchestrator.sweep.tasks import NONFINITE, Prompt, PromptSet, Sampling
from workers.engines.base import Engine, EngineSpec
from workers.engines.factory import open_engine

pytestmark = pytest.mark.engine

SPEC = EngineSpec(max_model_len=64, max_num_seqs=8, max_num_batched_tokens=64, kv_cache_gib=0.02, write="inplace")
TOKENS = 12
FAR = RandomDirection(seed=3, norm="sigma", exclude=("norm", "embed"))
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
PROMPTS = ((5, 9, 17, 40), (6, 8, 30), (11, 12, 13, 14, 15))


def prompt_set(prompts: Sequence[Sequence[int]], sampling: Sampling | None = None) -> PromptSet:
    texts = tuple(f"prompt {i}" for i in range(len(prompts)))
    ids = tuple(map(tuple, prompts))
    return PromptSet("harmful", tuple(map(Prompt, texts)), texts, ids, sampling or Sampling(TOKENS))


def with_rows(model: Path, folder: Path, name: str, rows: Sequence[int], value: float | torch.Tensor) -> Path:
    """Copy a model, with other values in these rows of a tensor."""
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name][list(rows)] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def greedy(model: Path, prompt: Sequence[int]) -> list[int]:
    """Return what the model generates greedily, from its logits in single passes without a cache."""
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(TOKENS):
            ids.append(int(loaded(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def text_of(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Decode tokens as a stream does: without the bytes of a character whose end is missing."""
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).rstrip("\ufffd")


@pytest.fixture(params=["transformers", "vllm"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(kind: str, model: Path) -> Engine:
    return open_engine(dataclasses.replace(SPEC, kind=kind, model_dir=str(model)))


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_mistral"])
def test_a_response_ends_before_the_first_token_without_a_finite_choice(
    kind: str, family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The embedding of one generated token is infinite: the logits after this token are NaN.

    Other responses in the batch, and later ones in the same cache, are those of the model as it was.
    """
    tiny: Path = request.getfixturevalue(family)
    expected = [greedy(tiny, prompt) for prompt in PROMPTS]
    elsewhere = {*PROMPTS[0], *(t for ids in (*PROMPTS[1:], *expected[1:]) for t in ids)}
    position, token = next((i + 1, t) for i, t in enumerate(expected[0]) if t not in elsewhere)
    model = with_rows(tiny, tmp_path / "model", EMBEDDING, [token], math.inf)
    engine = opened(kind, model)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        for _ in range(2):
            first, *others = engine.generate([prompt_set(PROMPTS)])[0]
            assert (first.finish_reason, first.n_tokens) == (NONFINITE, position)
            assert first.response == text_of(tokenizer, expected[0][:position])
            for other, tokens in zip(others, expected[1:], strict=True):
                assert other.finish_reason != NONFINITE
                assert other.response == text_of(tokenizer, tokens[: other.n_tokens])
    finally:
        engine.close()


def test_a_point_without_finite_logits_leaves_no_trace(kind: str, tiny_llama: Path) -> None:
    """At 1e20 random steps attention overflows; back at the origin every response is as before."""
    engine = opened(kind, tiny_llama)
    try:
        sets = [prompt_set(PROMPTS), prompt_set(PROMPTS[:1], Sampling(1, letters=("A", "B"), letter_tokens=(3, 4)))]
        before = engine.generate(sets)
        far = Point.from_coefficients([(FAR, 1e20)])
        engine.apply_point(far, {FAR.id: engine.measure(FAR)})
        for responses in engine.generate(sets):
            assert {(r.finish_reason, r.n_tokens, r.response) for r in responses} == {(NONFINITE, 0, "")}
        (measured,) = engine.log_probabilities([Continuation("c", "p", PROMPTS[0], "Sure, here is")])
        assert measured.mean is None and measured.n_tokens > 0
        engine.apply_point(ORIGIN, {})
        assert engine.generate(sets) == before
        assert all(r.finish_reason != NONFINITE for responses in before for r in responses)
    finally:
        engine.close()


def test_infinite_logits_are_no_choice_even_without_a_nan(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    """Two tokens have a logit of plus infinity, as if they had overflowed."""
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    with torch.inference_mode():
        state = loaded.model(torch.tensor([PROMPTS[0]])).last_hidden_state[0, -1]
    row = torch.zeros_like(state)
    row[0] = math.copysign(math.inf, state[0].item())
    model = with_rows(tiny_llama, tmp_path / "model", OUTPUT, [20, 21], row)
    engine = opened(kind, model)
    try:
        (response,) = engine.generate([prompt_set(PROMPTS[:1], Sampling(1))])[0]
        assert (response.finish_reason, response.n_tokens, response.response) == (NONFINITE, 0, "")
    finally:
        engine.close()
