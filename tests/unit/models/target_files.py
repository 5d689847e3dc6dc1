"""A small base model, and checkpoints and adapters of the same shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "rope_parameters": {"rope_theta": 1e4},
    "vocab_size": 5,
}
SHAPES = {
    "model.embed_tokens.weight": (5, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.norm.weight": (8,),
}
Q = "model.layers.0.self_attn.q_proj"


def weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def model(folder: Path, tensors: dict[str, np.ndarray], vocabulary: str = "abcde", **config: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    tokenizer = {"model": {"vocab": {t: i for i, t in enumerate(vocabulary)}}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def adapter(folder: Path, factors: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(9)
    shapes = {"A": (2, 8), "B": (8, 2)}
    random_factors = {
        f"base_model.model.{Q}.lora_{k}.weight": rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()
    }
    save_file(random_factors if factors is None else factors, folder / "adapter_model.safetensors")
    defaults = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(defaults | config))
    return folder


def half(letter: str, *shape: int, fill: float = 1.0, module: str = Q) -> dict[str, np.ndarray]:
    return {f"base_model.model.{module}.lora_{letter}.weight": np.full(shape, fill, np.float32)}


def trajectory(folder: Path, numbers: tuple[int, ...], save: Callable[..., Path] = adapter) -> Path:
    """Write adapters epoch-N that differ in strength and direction, or other checkpoints if `save` is given."""
    folder.mkdir()
    for i in numbers:
        rng = np.random.default_rng(i)
        factors = {
            f"base_model.model.{Q}.lora_{k}.weight": rng.standard_normal(shape).astype(np.float32) * np.float32(0.1 * i)
            for k, shape in {"A": (2, 8), "B": (8, 2)}.items()
        }
        save(folder / f"epoch-{i}", factors if save is adapter else weights(i))
    return folder
