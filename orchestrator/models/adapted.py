"""The resident model of `model.adapter`: a base with a LoRA adapter added in float32, kept in the user's cache."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from orchestrator.models.checkpoint import CheckpointInfo, checkpoints_of_trainer, read_tensor_headers
from orchestrator.models.compatibility import check_same_tokenizer
from orchestrator.models.embedded import renamed_when_complete
from orchestrator.models.fingerprint import fingerprint
from orchestrator.sweep.target_geometry import ADAPTER_VERSION
from orchestrator.utils.cache import cache_dir
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id
from orchestrator.utils.paths import expanded
from orchestrator.utils.private import locked, make_private
from orchestrator.utils.subprocesses import run_python
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.lora_config import ADAPTER_CONFIG, TOWARDS_FIELD
from workers.weights.targets import ADAPTER_WEIGHTS, Target, read_adapter, sample_id

logger = logging.getLogger(__name__)

ADAPTER_FIELD = "model.adapter"
ADAPTED_VERSION = 1
"""Version of the sum in workers/weights/adapted.py; part of the model's fingerprint."""


@dataclasses.dataclass(frozen=True)
class AdaptedModel:
    """A base with an adapter.

    Attributes:
        folder: Folder of the sum, which may not exist yet.
        fingerprint: Content hash of the base's fingerprint, the adapter's factors and ADAPTED_VERSION.
        adapter: The adapter.
    """

    folder: Path
    fingerprint: str
    adapter: Target


def resolve_adapter(folder: Path, base: CheckpointInfo) -> Target:
    """Read an adapter and check that it fits a base.

    Raises:
        UserError: (grid.towards) It is damaged, is not plain LoRA, does not fit the base, or adds nothing.
    """
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(TOWARDS_FIELD, folder, f"has no {ADAPTER_WEIGHTS}: save the adapter as safetensors")
    read_tensor_headers(folder / ADAPTER_WEIGHTS)  # checks that the file is complete
    factors = read_adapter(folder, MappedCheckpoint(base.path, TOWARDS_FIELD))
    if not any(f.scale and f.b.any() and f.a.any() for f in factors.values()):
        remedy = "adds nothing to the base, so the direction has length 0: give a trained adapter"
        raise UserError(TOWARDS_FIELD, folder, remedy)
    check_same_tokenizer(base.path, folder)
    content = [
        [name, f.scale, list(f.b.shape), hashlib.blake2b(f.a.tobytes() + f.b.tobytes()).hexdigest()]
        for name, f in sorted(factors.items())
    ]
    identity, former = (content_id([version, content]) for version in (ADAPTER_VERSION, 1))
    return Target(identity, "adapter", str(folder), folder.name, sample_id(folder), former)


def locate_adapted(base: CheckpointInfo, adapter: str) -> AdaptedModel:
    """Return the model that an adapter makes of a base, without making it.

    Args:
        base: The base.
        adapter: The adapter's folder, as the user wrote it.

    Raises:
        UserError: (model.adapter) There is no adapter, or it does not fit the base.
    """
    folder = expanded(adapter).absolute()
    if not (folder / ADAPTER_CONFIG).is_file():
        raise UserError(ADAPTER_FIELD, folder, _no_adapter(folder, checkpoints_of_trainer(folder)))
    try:
        target = resolve_adapter(folder, base)
    except UserError as error:
        raise UserError(ADAPTER_FIELD, error.value, error.remedy) from None
    identity = content_id(["adapted", ADAPTED_VERSION, fingerprint(base), target.fingerprint])
    return AdaptedModel(cache_dir() / f"adapted-{identity}", identity, target)


def _no_adapter(folder: Path, checkpoints: Sequence[Path]) -> str:
    if not folder.is_dir():
        return f"there is no such folder: give one with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}"
    if checkpoints:
        return f"is the output of a trainer: give one of its checkpoints, such as {ADAPTER_FIELD}={checkpoints[-1]}"
    return f"has no {ADAPTER_CONFIG}: give a LoRA adapter as PEFT saves it, or a whole model with model.path"


def make_adapted(base: CheckpointInfo, adapter: str) -> AdaptedModel:
    """Return the model that an adapter makes of a base, making it the first time.

    Raises:
        UserError: (model.adapter) See `locate_adapted`. (SAFETY_LANDSCAPE_CACHE) It cannot be written.
    """
    model = locate_adapted(base, adapter)
    if model.folder.is_dir():
        return model
    try:
        make_private(model.folder.parent)
        with locked(model.folder.with_suffix(".lock")):
            if not model.folder.is_dir():
                _make(base, model)
    except OSError as error:
        remedy = f"the base with its adapter could not be kept there ({error.strerror or error}): name another folder"
        raise UserError("SAFETY_LANDSCAPE_CACHE", cache_dir(), remedy) from error
    return model


def _make(base: CheckpointInfo, model: AdaptedModel) -> None:
    """Write the model's folder. The caller holds its lock."""
    needed, free = 4 * base.n_parameters, shutil.disk_usage(model.folder.parent).free
    if free < needed:
        remedy = f"the base with its adapter takes up to {needed / 1e9:.1f} GB there and {free / 1e9:.1f} are free: "
        raise UserError("SAFETY_LANDSCAPE_CACHE", cache_dir(), f"{remedy}make room, or name another folder")
    logger.info("adding the adapter %s to %s in float32 (once)", model.adapter.label, base.path.name)
    with renamed_when_complete(model.folder) as temporary:
        run_python("workers.weights.adapted", [base.path, model.adapter.path, temporary])
