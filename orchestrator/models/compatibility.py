"""Check that a grid can go from a base model toward a checkpoint: same settings and tokenizer, different weights.

Weights interpolated between two models that compute differently are meaningless. Tensors and their shapes are compared
by `workers.weights.targets.check_same_shapes`, which actors call too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.models.checkpoint import CheckpointInfo
from orchestrator.models.fingerprint import identity_fields
from orchestrator.utils.errors import UserError
from workers.noise.reference import to_float32
from workers.weights.checkpoint import MappedCheckpoint, read_json
from workers.weights.lora_config import TOWARDS_FIELD

BLOCK = 1 << 20
"""Number of elements that are compared at once."""

# Settings that are off if null. If one is missing, it is off or has the value below, the default of some class.
SWITCHES = {"sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "clip_qkv": None}
ROPE_NAMES = {"su": "longrope", "mrope": "default"}
"""Older names of rotary embeddings' types -> those of later versions of transformers."""

TOKENIZER, SENTENCEPIECE = "tokenizer.json", "tokenizer.model"
SAMPLE_TEXT = "Hello  World 1234, DON'T\n\n\tÄé e\u0301 \ufb01 \u00a0中文 🙂 <b>x_y</b> "
"""Text that different normalizers and pre-tokenizers split differently."""

# Fields of config.json that may differ from the base's without changing what the same weights compute.
FREE_FIELDS = frozenset(
    "eos_token_id max_position_embeddings architectures vocab_size model_max_length tokenizer_class".split()  # noqa: SIM905
)


def check_same_settings(base: CheckpointInfo, other: CheckpointInfo) -> None:
    """Check that a checkpoint has the base's architecture and the same settings that affect outputs in config.json.

    Raises:
        UserError: (grid.towards) Names the first field that differs.
    """
    if base.architecture != other.architecture:
        remedy = f"is a {other.architecture}, and the base a {base.architecture}: give a checkpoint of the same"
        raise UserError(TOWARDS_FIELD, other.path, remedy)
    for key, ours, theirs in _differences(_settings(base), _settings(other)):
        if key not in FREE_FIELDS:
            remedy = f"its config.json has {key}={theirs}, the base's {key}={ours}: the same weights would compute "
            remedy += "differently; give a checkpoint finetuned from the same base"
            raise UserError(TOWARDS_FIELD, other.path, remedy)


def _settings(checkpoint: CheckpointInfo) -> dict[str, Any]:
    """Return the settings of config.json that change outputs, in the form of `_normalized`."""
    nulls = {key: None for key in SWITCHES if key in checkpoint.config and checkpoint.config[key] is None}
    settings = _normalized(identity_fields(checkpoint) | nulls)
    if isinstance(text_config := settings.get("text_config"), Mapping):
        settings["text_config"] = _normalized(text_config)
    return settings


def _normalized(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config in one form, whichever version of transformers wrote it.

    Settings of the rotary embedding are collected in `rope_parameters`, with a type. An unused window is None.
    """
    fields = dict(config)
    rope: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(value := fields.pop(key, None), Mapping):
            rope |= value
    if not any(isinstance(inner, Mapping) for inner in rope.values()):  # else each kind of layer has its own settings
        older = rope.pop("type", None)
        kind = str(rope.get("rope_type") or older or "default")
        rope["rope_type"] = ROPE_NAMES.get(kind, kind)
        if "rope_theta" in fields:
            rope.setdefault("rope_theta", fields.pop("rope_theta"))
    if fields.get("use_sliding_window") is False:
        fields["sliding_window"] = None
    return fields | {"rope_parameters": rope}


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (field, value of ours, value of theirs) for fields that differ.

    Fields that only one of the two has are not compared, because versions of a library write different sets of
    defaults, except for SWITCHES that are on.
    """
    for key in sorted(ours.keys() & theirs.keys()):
        a, b = ours[key], theirs[key]
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from ((f"{key}.{inner}", x, y) for inner, x, y in _differences(a, b))
        elif a != b:
            yield key, a, b
    for key in sorted(SWITCHES.keys() & (ours.keys() ^ theirs.keys())):
        if {**ours, **theirs}[key] not in (None, False, SWITCHES[key]):
            yield key, ours.get(key), theirs.get(key)


def check_same_tokenizer(base: Path, other: Path) -> None:
    """Check that a checkpoint's tokenizer splits text into the same tokens as the base's.

    A checkpoint without a tokenizer is accepted: it is prompted with the base's tokenizer, as an adapter is.

    Raises:
        UserError: (grid.towards) Names the token or the part of the tokenizer that differs.
    """
    remedy = "give a checkpoint finetuned from the same base"
    if all((folder / TOKENIZER).is_file() for folder in (base, other)):
        if difference := _tokenizer_difference(base, other):
            raise UserError(TOWARDS_FIELD, other, f"has another tokenizer ({difference}): {remedy}")
        return
    files = [folder / SENTENCEPIECE for folder in (base, other)]
    if all(file.is_file() for file in files) and files[0].read_bytes() != files[1].read_bytes():
        remedy = f"has another tokenizer (its {SENTENCEPIECE} is not the base's): {remedy}"
        raise UserError(TOWARDS_FIELD, other, remedy)


def _tokenizer_difference(base: Path, other: Path) -> str | None:
    """Return a description of a difference between two folders' tokenizer.json; None if they make the same tokens."""
    our_json, their_json = read_json(base / TOKENIZER, TOWARDS_FIELD), read_json(other / TOKENIZER, TOWARDS_FIELD)
    ours, theirs = _vocabulary(base, our_json), _vocabulary(other, their_json)
    for token in sorted(ours.keys() & theirs.keys()):
        if ours[token] != theirs[token]:
            return f"token {token} is {theirs[token]!r}, and {ours[token]!r} in the base"
    differing = [part for part in ("normalizer", "pre_tokenizer") if our_json.get(part) != their_json.get(part)]
    if _merges(our_json) != _merges(their_json):
        part = "merges"
    elif differing and _sample_tokens(base) != _sample_tokens(other):
        # versions of the libraries write the same splitting in several ways: only its result counts
        part = differing[0]
    else:
        return None
    return f"of its {TOKENIZER}, {part} is not the base's, and makes other tokens of the same text"


def _merges(tokenizer: Mapping[str, Any]) -> list[Any]:
    """Return the merges of a tokenizer.json as pairs, the newer of the two formats."""
    merges = tokenizer["model"].get("merges")
    if not isinstance(merges, list):
        return []
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]


def _vocabulary(folder: Path, tokenizer: Mapping[str, Any]) -> dict[int, str]:
    """Return token id -> text of a tokenizer.json, added tokens included."""
    try:
        vocabulary = tokenizer["model"]["vocab"]
        if isinstance(vocabulary, dict):
            texts = {int(i): str(text) for text, i in vocabulary.items()}
        else:
            texts = {i: str(entry[0]) for i, entry in enumerate(vocabulary)}
        added = {int(token["id"]): str(token["content"]) for token in tokenizer.get("added_tokens") or ()}
    except (ValueError, KeyError, TypeError, IndexError):
        remedy = "holds no vocabulary that can be read: fetch it again"
        raise UserError(TOWARDS_FIELD, folder / TOKENIZER, remedy) from None
    return texts | added


def _sample_tokens(folder: Path) -> list[int]:
    """Return the token ids of SAMPLE_TEXT."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the library raises no more specific exception
        remedy = f"does not load ({error}): fetch it again"
        raise UserError(TOWARDS_FIELD, folder / TOKENIZER, remedy) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids: list[int] = tokenizer.encode(SAMPLE_TEXT, add_special_tokens=False).ids
    return ids


def check_weights_differ(base: MappedCheckpoint, other: MappedCheckpoint) -> None:
    """Check that a checkpoint's weights differ from the base's; otherwise the direction to it would have length 0.

    Fingerprints do not show this, because they also depend on the config and the dtypes. Reading stops at the first
    difference.

    Raises:
        UserError: (grid.towards) All values are equal.
    """
    for info in base.tensors():
        ours, theirs, dtype = base.base(info.name), other.base(info.name), other[info.name].dtype
        for start in range(0, info.size, BLOCK):
            block = slice(start, start + BLOCK)
            if not np.array_equal(to_float32(ours[block], info.dtype), to_float32(theirs[block], dtype)):
                return
    remedy = "has the base's weights, so the direction has length 0: give another checkpoint"
    raise UserError(TOWARDS_FIELD, other.folder, remedy)
