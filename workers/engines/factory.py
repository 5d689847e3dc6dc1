"""Choose and open an engine; check that a model's weights can be written exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.utils.choices import EngineKind
from orchestrator.utils.errors import UserError
from workers.engines.base import Engine, EngineSpec
from workers.weights.checkpoint import read_json

STATE_SPACE_FIELDS = ("ssm_cfg", "mamba_d_state", "mamba_n_heads", "mamba_num_heads", "ssm_state_size", "state_size")


def open_engine(spec: EngineSpec) -> Engine:
    """Load the model into the engine that `spec.kind` names.

    Raises:
        UserError: The model cannot be loaded or written exactly. Most causes are found before the load.
        CanaryError: The loaded engine holds a weight in a form that cannot be written exactly.
    """
    if spec.kind == EngineKind.dummy:
        from workers.engines.dummy import DummyEngine

        return DummyEngine(spec)
    check_supported(read_json(Path(spec.model_dir) / "config.json"), spec.model_dir)
    if spec.kind == EngineKind.transformers:
        from workers.engines.hf import TransformersEngine

        return TransformersEngine(spec)
    from workers.engines.vllm import VllmEngine

    return VllmEngine(spec)


def check_supported(config: Mapping[str, Any], path: object = "") -> None:
    """Check that a model's weights can be written exactly.

    Args:
        config: The content of the model's config.json.
        path: The model's folder, for the message.

    Raises:
        UserError: The model is quantized or an encoder-decoder, or engines keep transformed copies of its weights
            (model.path).
    """
    text = {**config, **(config.get("text_config") or {})}
    for key in ("quantization_config", "compression_config"):
        if text.get(key):
            method = text[key].get("quant_method", "an unknown method") if isinstance(text[key], Mapping) else text[key]
            remedy = f"the weights are quantized ({method}) and cannot be perturbed exactly: use the unquantized model"
            raise UserError("model.path", path, remedy)
    if text.get("kv_lora_rank"):
        remedy = "multi-head latent attention keeps products of its weights, which cannot be written exactly"
        raise UserError("model.path", path, remedy)
    if any(text.get(key) for key in STATE_SPACE_FIELDS):
        remedy = "state-space layers keep transformed copies of their weights, which cannot be written exactly"
        raise UserError("model.path", path, remedy)
    if text.get("is_encoder_decoder"):
        raise UserError("model.path", path, "encoder-decoder models are not supported: use a causal language model")
