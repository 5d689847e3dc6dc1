"""Checkpoints, adapters and tokenizers of any content are read, or refused in one sentence."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from orchestrator.models.checkpoint import read_checkpoint
from orchestrator.models.compatibility import check_same_settings, check_same_tokenizer
from orchestrator.models.fingerprint import fingerprint
from orchestrator.utils.errors import UserError
from tests.fuzz.fuzzing import changed, damaged, fuzz
from tests.unit.models.target_files import adapter, model, weights
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.targets import read_adapter

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 1,
    "hidden_size": 8,
    "vocab_size": 5,
    "eos_token_id": [1, 2],
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
    "text_config": {"num_hidden_layers": 1},
    "quantization_config": None,
}
INDEX = {"metadata": {}, "weight_map": dict.fromkeys(weights(0), "model.safetensors")}
TOKENIZER = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    "added_tokens": [{"id": 3, "content": "<s>"}],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "ByteLevel"},
}
ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "use_rslora": False, "modules_to_save": None}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    return model(tmp_path / "base", weights(0))


def test_headers(base: Path) -> None:
    data = save(weights(0))

    @fuzz(100)
    @given(damaged(data))
    def attempt(content: bytes) -> None:
        (base / "model.safetensors").write_bytes(content)
        with contextlib.suppress(UserError):
            read_checkpoint(base)
            MappedCheckpoint(base).tensors()

    attempt()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors.index.json"])
def test_configs_and_indexes(base: Path, name: str) -> None:
    document: dict[str, Any] = INDEX if "index" in name else CONFIG
    original = read_checkpoint(base)

    @fuzz(60)
    @given(changed(document) | damaged(json.dumps(document).encode()))
    def attempt(content: Any) -> None:
        (base / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        with contextlib.suppress(UserError):
            checkpoint = read_checkpoint(base)
            assert len(fingerprint(checkpoint)) == 16
            check_same_settings(original, checkpoint)
        with contextlib.suppress(UserError):
            MappedCheckpoint(base)

    attempt()


def test_adapter_configs(base: Path) -> None:
    mapped = MappedCheckpoint(base)
    folder = adapter(base.parent / "adapter")

    @fuzz(100)
    @given(changed(ADAPTER) | damaged(json.dumps(ADAPTER).encode()))
    def attempt(content: Any) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / "adapter_config.json").write_bytes(data)
        with contextlib.suppress(UserError):
            for factors in read_adapter(folder, mapped).values():
                assert np.isfinite(factors.scale)

    attempt()


def test_adapter_weights(base: Path) -> None:
    mapped = MappedCheckpoint(base)
    folder = adapter(base.parent / "adapter")
    data = (folder / "adapter_model.safetensors").read_bytes()

    @fuzz(100)
    @given(damaged(data))
    def attempt(content: bytes) -> None:
        (folder / "adapter_model.safetensors").write_bytes(content)
        with contextlib.suppress(UserError):
            read_adapter(folder, mapped)

    attempt()


def test_tokenizers(base: Path) -> None:
    other = base.parent / "other"
    other.mkdir()
    (base / "tokenizer.json").write_text(json.dumps(TOKENIZER))

    @fuzz(100)
    @given(changed(TOKENIZER) | damaged(json.dumps(TOKENIZER).encode()))
    def attempt(content: Any) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (other / "tokenizer.json").write_bytes(data)
        with contextlib.suppress(UserError):
            check_same_tokenizer(base, other)

    attempt()


def test_names_of_any_text(base: Path) -> None:
    @fuzz(60)
    @given(st.dictionaries(st.text(max_size=30), st.lists(st.integers(0, 2), max_size=3), min_size=1, max_size=4))
    def attempt(shapes: dict[str, list[int]]) -> None:
        header, position = {}, 0
        for name, shape in shapes.items():
            stop = position + 4 * int(np.prod(shape, dtype=int))
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [position, stop]}
            position = stop
        text = json.dumps(header).encode()
        (base / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(position))
        with contextlib.suppress(UserError):
            read_checkpoint(base)
            MappedCheckpoint(base)

    attempt()
