"""The fingerprint of a checkpoint: a content hash of its tensors and of the config fields that change outputs."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from orchestrator.models.checkpoint import (
    GENERATION_CONFIG_FILE,
    MODEL_FIELD,
    CheckpointInfo,
    read_checkpoint,
    read_json_object,
)
from orchestrator.utils import parsing
from orchestrator.utils.cache import cache_dir, write_json
from orchestrator.utils.console import Progress, ignore_progress
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id
from orchestrator.utils.safetensors_header import TensorHeader

FINGERPRINT_VERSION = 1
FINGERPRINT_FILE = ".safety-landscape.json"
"""Name of the file in which the hash of the weights is cached, in the folder of the weights."""

CLOCK_TICK_NS = 2_000_000_000
"""The longest tick of a file system's clock: an edit within one tick keeps the modification time."""

# Fields of config.json that do not change any output: notes on origin and saving, training-only settings, and the
# dtype, which the preset decides. All other fields, unknown ones too, are part of the model's identity.
COSMETIC = frozenset(
    (  # noqa: SIM905
        "_name_or_path _model_name_or_path _commit_hash transformers_version is_local dtype torch_dtype use_cache "
        "return_dict output_attentions output_hidden_states initializer_range attention_dropout attn_pdrop "
        "embd_pdrop resid_pdrop embedding_dropout hidden_dropout residual_dropout resid_dropout "
        "router_aux_loss_coef output_router_logits gradient_checkpointing bos_token_id pad_token_id unk_token_id "
        "finetuning_task task_specific_params id2label label2id problem_type quantization_config"
    ).split()
)


def fingerprint(path: str | os.PathLike[str] | CheckpointInfo, progress: Progress = ignore_progress) -> str:
    """Return the 16 hexadecimal digits that identify a model.

    They depend on the names, dtypes, shapes and bytes of all its tensors, and on the config fields that change outputs
    (`identity_fields`). They do not depend on the folder, the division into files, metadata in headers, or the
    tokenizer (the ids of prompt sets depend on the token ids instead).

    The hash of the tensors is cached in the folder of the weights, or in the user's cache, and is valid while size,
    inode, modification time and change time of every file stay the same.

    Args:
        path: A checkpoint folder, or one that was read already.
        progress: Called with the fraction of the weights that is read.

    Raises:
        UserError: `path` is not a readable checkpoint; see `read_checkpoint`.
    """
    checkpoint = path if isinstance(path, CheckpointInfo) else read_checkpoint(path)
    fields = json.dumps(identity_fields(checkpoint), sort_keys=True, ensure_ascii=False)
    try:
        return content_id([FINGERPRINT_VERSION, fields, _weights_id(checkpoint, progress)])
    except OSError as error:
        raise UserError(MODEL_FIELD, checkpoint.path, f"could not be read ({error.strerror or error})") from error


def identity_fields(checkpoint: CheckpointInfo) -> dict[str, Any]:
    """Return the fields of config.json that change outputs (all but COSMETIC ones and nulls).

    `eos_token_id` is that of generation_config.json if it has one.
    """
    fields = {key: value for key, value in checkpoint.config.items() if key not in COSMETIC and value is not None}
    if (checkpoint.path / GENERATION_CONFIG_FILE).is_file():
        stops = read_json_object(checkpoint.path, GENERATION_CONFIG_FILE).get("eos_token_id")
        fields["eos_token_id"] = fields.get("eos_token_id") if stops is None else stops
    return fields


def _weights_id(checkpoint: CheckpointInfo, progress: Progress) -> str:
    """Return the hash of all tensors, from the cache if possible. A new hash is written to the cache."""
    beside_weights = checkpoint.path / FINGERPRINT_FILE
    in_cache = cache_dir() / "fingerprints" / f"{content_id(str(checkpoint.path.resolve()))}.json"
    state = _file_state(checkpoint.files)
    for path in (beside_weights, in_cache):
        try:
            record = parsing.read_json_object(path)
            if record["version"] == FINGERPRINT_VERSION and record["files"] == state:
                return str(record["weights"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    started = time.time_ns()
    weights = _hash_tensors(checkpoint.tensors.values(), progress)
    settled = max(max(numbers[2:]) for numbers in state.values()) < started - CLOCK_TICK_NS
    if settled and _file_state(checkpoint.files) == state:
        record = {"version": FINGERPRINT_VERSION, "files": state, "weights": weights}
        if not write_json(beside_weights, record):
            write_json(in_cache, record)
    return weights


def _file_state(files: Iterable[Path]) -> dict[str, list[int]]:
    """Return size, inode, modification time and change time (in ns) of each file, by name."""
    stats = {file.name: file.stat() for file in files}
    return {name: [s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns] for name, s in stats.items()}


def _hash_tensors(tensors: Iterable[TensorHeader], progress: Progress) -> str:
    """Return the content id of (name, dtype, shape, hash of the bytes) of all tensors, sorted by name.

    Tensors are hashed in parallel threads: BLAKE2b releases the interpreter's lock.
    """
    ordered = sorted(tensors, key=lambda tensor: tensor.name)
    total, done, entries = sum(tensor.size for tensor in ordered), 0, []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for tensor, digest in zip(ordered, pool.map(_hash_tensor, ordered), strict=True):
            entries.append([tensor.name, tensor.dtype, list(tensor.shape), digest])
            done += tensor.size
            progress(done / max(1, total))
    return content_id(entries)


def _hash_tensor(tensor: TensorHeader) -> str:
    """Return the BLAKE2b-256 of a tensor's bytes as hexadecimal digits."""
    digest, left = hashlib.blake2b(digest_size=32), tensor.stop - tensor.start
    with open(tensor.file, "rb", buffering=0) as file:
        file.seek(tensor.start)
        while left:
            block = file.read(min(left, 1 << 22))
            if not block:
                remedy = "was cut short while it was read: is something writing to it?"
                raise UserError(MODEL_FIELD, tensor.file, remedy)
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
