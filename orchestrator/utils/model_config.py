"""Types of the fields of a model's config.json and generation_config.json. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.utils.parsing import check_kinds

HIDDEN_SIZE_FIELDS = ("hidden_size", "n_embd")
"""Names of the hidden size in config.json."""

_WHOLE, _TRUTH = ("a whole number", (int, list)), ("true or false", (bool,))  # a list: one number for each layer
CONFIG_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    **dict.fromkeys(
        (
            *HIDDEN_SIZE_FIELDS,
            *("num_hidden_layers", "n_layer", "num_attention_heads", "n_head", "num_key_value_heads", "head_dim"),
            *("vocab_size", "max_position_embeddings", "eos_token_id", "num_kv_shared_layers"),
        ),
        _WHOLE,
    ),
    **dict.fromkeys(("tie_word_embeddings", "is_encoder_decoder"), _TRUTH),
    **dict.fromkeys(("text_config", "rope_parameters", "rope_scaling"), ("an object", (dict,))),
    "model_type": ("a name", (str,)),
}
"""The types of the fields of config.json and generation_config.json that this program reads; see `check_kinds`."""


def check_config_kinds(config: Mapping[str, Any]) -> None:
    """Check the types of the fields of config.json that this program reads, those of a nested text_config included.

    Raises:
        FormatError: A field has another type than transformers gives it. The message names it.
    """
    check_kinds(config, CONFIG_KINDS)
    check_kinds(config.get("text_config") or {}, CONFIG_KINDS)
