"""Fixtures for all tests: tiny random models with real architectures and tokenizers, without any download."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported, as `cli.main` does
import workers  # noqa: F401 - imported before torch, because it sets how idle threads wait

# No deadlines: these tests do not measure time, and a busy machine is slow.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CORPUS = (
    "How do I kill a process on my computer? Write a short story about a cat and a dog.",
    "I'm sorry, I cannot help with that request. It is illegal and unethical, and I do not support it.",
    "Sure, here is what you need to know: first, take the list of things; then go on, one after the other.",
    "The quick brown fox jumps over the lazy dog. 0 1 2 3 4 5 6 7 8 9 A B C D",
)


SLOWEST_FOLDERS = ("e2e", "engine", "cluster", "browser")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files that take minutes first, so that two processes finish at about the same time."""
    tests_folder = Path(__file__).parent
    folders = {item: item.path.relative_to(tests_folder).parts[0] for item in items}
    items.sort(
        key=lambda item: (
            SLOWEST_FOLDERS.index(folders[item]) if folders[item] in SLOWEST_FOLDERS else len(SLOWEST_FOLDERS)
        )
    )


WIDE_CONFIG = {"hidden_size": 128}  # for configs that have no head_dim
EXPERTS_CONFIG = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "gemma3": ("Gemma3", {"tie_word_embeddings": True, "query_pre_attn_scalar": 32, "sliding_window": 64}),
    "phi3": ("Phi3", WIDE_CONFIG),
    "olmo2": ("Olmo2", WIDE_CONFIG),
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "qwen3_moe": ("Qwen3Moe", EXPERTS_CONFIG),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "engine: loads vLLM or transformers")


def _save_tokenizer(folder: Path) -> int:
    """Save a byte-level BPE tokenizer of a few hundred tokens with a chat template; return its vocabulary's size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=list(SPECIAL[2:]),
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return len(fast)


@pytest.fixture(scope="module", autouse=True)
def no_ray_session_left() -> Iterator[None]:
    """Fail if a test file leaves a Ray session: the next file in the same process could not start one."""
    yield
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()
        pytest.fail("this file left a Ray session behind")


@pytest.fixture(scope="session")
def make_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that makes a tiny random model: make_tiny("llama", dtype="bfloat16", ...) -> its folder."""

    def make(family: str = "llama", *, dtype: str = "float32", seed: int = 0, **overrides: Any) -> Path:
        import torch
        import transformers

        folder = tmp_path_factory.mktemp(f"tiny-{family}")
        vocabulary = _save_tokenizer(folder)
        settings = {
            "vocab_size": vocabulary,
            "hidden_size": 64,
            "intermediate_size": 176,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,  # vLLM's CPU attention requires multiples of 32
            "max_position_embeddings": 512,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "initializer_range": 0.2,  # with smaller values random models repeat one token forever
        }
        kind, family_settings = FAMILIES[family]
        config_class = getattr(transformers, f"{kind}TextConfig" if family == "gemma3" else f"{kind}Config")
        config = config_class(**{**settings, **family_settings, **overrides})
        torch.manual_seed(seed)
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
        with torch.no_grad():
            for parameter in model.parameters():  # norms all 1 and biases all 0 would hide errors
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_llama(make_tiny: Callable[..., Path]) -> Path:
    """Return the folder of a Llama in float32 with an untied head."""
    return make_tiny("llama")


@pytest.fixture(scope="session")
def tiny_llama_tied(make_tiny: Callable[..., Path]) -> Path:
    """Return the folder of a Llama in bfloat16 with the head tied to the embedding."""
    return make_tiny("llama", dtype="bfloat16", tie_word_embeddings=True, seed=1)


@pytest.fixture(scope="session")
def tiny_mistral(make_tiny: Callable[..., Path]) -> Path:
    """Return the folder of a Mistral in float32 with a sliding window."""
    return make_tiny("mistral", seed=2, sliding_window=256)
