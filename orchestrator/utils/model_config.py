"""Types of the fields of a model's config.json and generation_config.json. Imports nothing heavy."""

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


def check_config_kinds(config: Mapping[str, Any]) -> None:
    """Check the types of the fields of config.json that this program reads, those of a nested text_config included.

    Raises:
        FormatError: A field has another type than transformers gives it. The message names it.
    """
    check_fields(config, CONFIG_TYPES)
    check_fields(config.get("text_config") or {}, CONFIG_TYPES)
