"""Tags of thoughts that are special tokens stay in responses, in both engines, and no other special token does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.sweep.thoughts import without_thought
from workers.engines.base import Engine, EngineSpec
from workers.engines.factory import open_engine

pytestmark = pytest.mark.engine

TOKENS = 12
PROMPT = (5, 9, 17, 40)


def opened(kind: str, model: Path) -> Engine:
    return open_engine(
        EngineSpec(
            kind=kind,  # type: ignore[arg-type]
            model_dir=str(model),
            max_model_len=64,
            max_num_seqs=8,
            max_num_batched_tokens=64,
            kv_cache_gib=0.02,
            write="inplace",  # type: ignore[arg-type]
        )
    )


def prompt_set(*kept: str) -> PromptSet:
    return PromptSet("harmful", (Prompt("p"),), ("p",), (PROMPT,), Sampling(TOKENS, kept=kept))


def generated_tokens(model: Path) -> list[int]:
    """Return what the model generates greedily, from single passes without a cache."""
    import torch
    import transformers

    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = list(PROMPT)
    with torch.inference_mode():
        for _ in range(TOKENS):
            ids.append(int(loaded(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(PROMPT) :]


def with_special_tokens(model: Path, folder: Path, names: dict[int, str]) -> Path:
    """Copy a model whose tokens have other names, and are special."""
    shutil.copytree(model, folder)
    document = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    for name in [name for name, token in vocabulary.items() if token in names]:
        del vocabulary[name]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for token, name in names.items():
        vocabulary[name] = token
        document["added_tokens"].append({"id": token, "content": name, **flags})
    document["added_tokens"].sort(key=lambda added: added["id"])
    merges = document["model"].get("merges", [])
    document["model"]["merges"] = [merge for merge in merges if _is_possible(merge, vocabulary)]
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return folder


def _is_possible(merge: str | list[str], vocabulary: dict[str, int]) -> bool:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return {first, second, first + second} <= vocabulary.keys()


@pytest.mark.parametrize("kind", ["transformers", "vllm"])
def test_the_tags_of_a_thought_stay_in_the_response(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    """Three tokens that the model generates become <think>, another special token, and </think>."""
    import transformers

    tokens = generated_tokens(tiny_llama)
    opening, other, closing = dict.fromkeys(tokens[i] for i in (0, 3, 6))
    names = {opening: "<think>", other: "<|other|>", closing: "</think>"}
    model = with_special_tokens(tiny_llama, tmp_path / "model", names)
    engine = opened(kind, model)
    try:
        (hidden,), (kept,), (closing_only,) = engine.generate(
            [prompt_set(), prompt_set("<think>", "</think>"), prompt_set("</think>")]
        )
    finally:
        engine.close()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    assert hidden.response == tokenizer.decode(tokens, skip_special_tokens=True).rstrip("\ufffd")
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    left = [token for token in tokens if token in (opening, closing) or token not in special]
    assert other in tokens and other not in left
    expected = tokenizer.decode(left, skip_special_tokens=False)
    assert kept.response == expected.rstrip("\ufffd")
    assert kept.response.startswith("<think>") and "</think>" in kept.response and "other" not in kept.response
    assert closing_only.response == kept.response.replace("<think>", "")
    assert {(r.n_tokens, r.finish_reason) for r in (hidden, kept, closing_only)} == {(TOKENS, "length")}
    answer = without_thought(kept.response, "</think>", None)
    assert answer == kept.response.split("</think>", 1)[1].lstrip() and answer in hidden.response
