"""Resolve a model's name to checked, fingerprinted weights: a folder, the embedded model, or a hub's snapshot.

`embedded` makes the embedded model, `hub` downloads, `checkpoint` and `fingerprint` read what is in a folder.
"""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.schema import ModelConfig
from orchestrator.models.checkpoint import MODEL_FIELD, CheckpointInfo, read_checkpoint
from orchestrator.models.embedded import (
    ADAPTER_OF_PRESET,
    PACKAGE_VERSION,
    embedded_folder,
    embedded_model,
    is_installed,
)
from orchestrator.models.fingerprint import fingerprint
from orchestrator.models.hub import cached_snapshot, download_snapshot
from orchestrator.prompts.chat_templates import TOKENIZER_FILES
from orchestrator.utils.console import file_progress
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id
from orchestrator.utils.paths import expanded

logger = logging.getLogger(__name__)

DUMMY = "dummy"
"""The preset without weights."""


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose weights are on this machine and passed all checks.

    Attributes:
        name: The preset's name, with that of the adapter if there is one.
        path: The folder of the weights.
        fingerprint: Content hash of the weights, see `fingerprint`.
        source: "embedded", "path", "hub:ID" or "dummy"; with an adapter, its name follows.
        revision: The hub's commit, or the version of the embedded model's package. None for a folder.
        dtype: The dtype to load the weights in.
        architecture: The class that config.json names.
        n_parameters: Number of elements of all tensors.
        bytes: Bytes of all tensors on disk.
    """

    name: str
    path: Path
    fingerprint: str
    source: str
    revision: str | None
    dtype: str
    architecture: str
    n_parameters: int
    bytes: int


def resolve_model(model: ModelConfig) -> ResolvedModel:
    """Find the model's weights, downloading them if necessary, then check and fingerprint them.

    Raises:
        UserError: (model.path) The weights are missing, unusable, of another architecture than the preset's, or cannot
            be downloaded; the message names remedies.
    """
    if model.path:
        path, source, revision = expanded(model.path).absolute(), "path", None
    elif model.name == DUMMY:
        return ResolvedModel(DUMMY, Path(), content_id([DUMMY, 1]), DUMMY, None, model.dtype, DUMMY, 0, 0)
    elif model.embedded:
        path, source, revision = embedded_model(ADAPTER_OF_PRESET[model.name]), "embedded", PACKAGE_VERSION
    elif model.hub:
        path = download_snapshot(model)
        source, revision = f"hub:{model.hub}", path.name  # the commit, even if the preset's revision is a branch
        if model.revision != revision:
            logger.warning(
                "%s is at commit %s now. Add model.revision=%s, so that the same command measures the same weights "
                "after its authors change it.",
                model.hub,
                revision,
                revision,
            )
    else:
        remedy = f"{model.name} has neither a folder nor a hub id: name a folder, {MODEL_FIELD}=DIR"
        raise UserError(MODEL_FIELD, "null", remedy)
    checkpoint = read_checkpoint(path)
    _check_matches_preset(checkpoint, model)
    with file_progress(f"the weights of {model.name}") as progress:
        identity = fingerprint(checkpoint, progress)
    name = model.name
    if model.adapter is not None:
        from orchestrator.models.adapted import make_adapted  # it needs numpy, which `doctor` does without

        adapted = make_adapted(checkpoint, model.adapter)
        path, identity = adapted.folder, adapted.fingerprint
        name, source = f"{name}-{adapted.adapter.label}", f"{source} with the adapter {adapted.adapter.label}"
        checkpoint = read_checkpoint(path)
    return ResolvedModel(
        name=name,
        path=path,
        fingerprint=identity,
        source=source,
        revision=revision,
        dtype=model.dtype,
        architecture=checkpoint.architecture,
        n_parameters=checkpoint.n_parameters,
        bytes=checkpoint.bytes,
    )


def _check_matches_preset(checkpoint: CheckpointInfo, model: ModelConfig) -> None:
    """Raise UserError for another architecture than the preset's, and for a folder without a tokenizer."""
    if model.architecture and checkpoint.architecture != model.architecture:
        remedy = f"holds a {checkpoint.architecture} where model={model.name} is a {model.architecture}: "
        remedy += "name the preset of that architecture, or another folder"
        raise UserError(MODEL_FIELD, checkpoint.path, remedy)
    if not any((checkpoint.path / name).is_file() for name in TOKENIZER_FILES):
        remedy = f"has no tokenizer ({', '.join(TOKENIZER_FILES)}): copy it there"
        if (checkpoint.path / "tekken.json").is_file():
            remedy = "has tekken.json as its only tokenizer, which has no chat template: copy tokenizer.json and "
            remedy += "tokenizer_config.json of the same model there"
        raise UserError(MODEL_FIELD, checkpoint.path, remedy)


def ensure_on_this_machine(model: ModelConfig, path: Path) -> None:
    """Make sure that this machine, too, has the model in the folder `path`, downloading it if necessary.

    Raises:
        UserError: It cannot be downloaded, or is in another folder on this machine.
    """
    if path.is_dir():
        return
    resolved = resolve_model(model).path
    if resolved != path:
        remedy = f"is {resolved} on {socket.gethostname()}: let HF_HOME and SAFETY_LANDSCAPE_CACHE be the same on "
        raise UserError(MODEL_FIELD, path, f"{remedy}every node")


def locate_model(model: ModelConfig) -> Path | None:
    """Return the folder of the model's weights on this machine, or None. Downloads and makes nothing.

    Raises:
        UserError: (model.adapter) The adapter does not fit the weights.
    """
    folder = locate_base(model)
    if folder is None or model.adapter is None:
        return folder
    from orchestrator.models.adapted import locate_adapted

    adapted = locate_adapted(read_checkpoint(folder), model.adapter).folder
    return adapted if adapted.is_dir() else None


def locate_base(model: ModelConfig) -> Path | None:
    """Return the folder of the weights without an adapter, or None. Downloads nothing and checks nothing."""
    if model.path:
        path = expanded(model.path).absolute()
        return path if path.exists() else None  # a file, too, which is then refused
    if model.embedded:
        adapter = ADAPTER_OF_PRESET[model.name]
        if not is_installed(adapter):
            return None
        path = embedded_folder(adapter)
        return path if path.is_dir() else None
    return cached_snapshot(model) if model.hub else None
