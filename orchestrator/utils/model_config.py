"""A model's config.json and generation_config.json: types of their fields, and tied heads. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.utils.records import check_fields

HIDDEN_SIZE_FIELDS = ("hidden_size", "n_embd")
"""Names of the hidden size in config.json."""

CONFIG_TYPES: dict[str, Any] = {
    **dict.fromkeys(
        (
            *HIDDEN_SIZE_FIELDS,
            *("num_hidden_layers", "n_layer", "num_attention_heads", "n_head", "num_key_value_heads", "head_dim"),
            *("vocab_size", "max_position_embeddings", "eos_token_id", "num_kv_shared_layers"),
        ),
        int | list,  # a list: one number for each layer
    ),
    **dict.fromkeys(("tie_word_embeddings", "is_encoder_decoder"), bool),
    **dict.fromkeys(("text_config", "rope_parameters", "rope_scaling"), dict),
    "model_type": str,
}
"""The types of the fields of config.json and generation_config.json that this program reads; see `check_fields`."""


HEAD_TENSORS = ("lm_head.weight", "language_model.lm_head.weight")
"""Names of the output head in a checkpoint."""

TIED_MODEL_TYPES = frozenset(
    (  # noqa: SIM905
        "bloom cohere cohere2 cohere2_moe ernie4_5 ernie4_5_moe falcon gemma gemma2 gemma3 gemma3_text gemma3n "
        "gemma3n_text gemma4 gemma4_text gemma4_unified gemma4_unified_text gpt2 gpt_bigcode gpt_neo granite_swa "
        "jetmoe lfm2 lfm2_moe minicpm3 mpt opt smollm3 starcoder2 vaultgemma xglm youtu"
    ).split()
)
"""model_type of the decoders whose head is tied if config.json does not set tie_word_embeddings."""


def check_config_kinds(config: Mapping[str, Any]) -> None:
    """Check the types of the fields of config.json that this program reads, those of a nested text_config included.

    Raises:
        FormatError: A field has another type than transformers gives it. The message names it.
    """
    check_fields(config, CONFIG_TYPES)
    check_fields(config.get("text_config") or {}, CONFIG_TYPES)


def is_tied(config: Mapping[str, Any]) -> bool:
    """Return whether the output head shares the embedding's weights.

    config.json decides; if it does not set tie_word_embeddings, the default of transformers does.
    """
    configs = [config, config.get("text_config") or {}]
    values = [config["tie_word_embeddings"] for config in configs if config.get("tie_word_embeddings") is not None]
    if values:
        return any(values)
    return any(config.get("model_type") in TIED_MODEL_TYPES for config in configs)
