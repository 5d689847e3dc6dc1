"""Resolve names in grid.towards, grid.beside and grid.match to checkpoints and adapters that fit the base model.

A name is a folder, a model preset, `pair` (the model's counterpart before or after its alignment), or a recipe
(`affirmative samples=50`), which is trained the first time that it is requested.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config
from orchestrator.models import finetune
from orchestrator.models.adapted import resolve_adapter
from orchestrator.models.checkpoint import CheckpointInfo, read_checkpoint
from orchestrator.models.compatibility import check_same_settings, check_same_tokenizer, check_weights_differ
from orchestrator.models.fingerprint import fingerprint
from orchestrator.models.finite import check_finite
from orchestrator.models.resolve import locate_model, resolve_model
from orchestrator.utils.choices import EngineKind
from orchestrator.utils.console import Progress, file_progress, ignore_progress
from orchestrator.utils.errors import UserError
from orchestrator.utils.paths import expanded
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.lora_config import ADAPTER_CONFIG, TOWARDS_FIELD
from workers.weights.targets import (
    Target,
    check_same_shapes,
    sample_id,
)

BESIDE_FIELD = "grid.beside"
MATCH_FIELD = "grid.match"
PAIR = "pair"


# Names.


def resolve_targets(field: str, config: Config, base: CheckpointInfo, presets: Presets) -> list[Target]:
    """Resolve the names in a field (grid.towards, grid.beside or grid.match), in order.

    Raises:
        UserError: (that field) See `resolve_target`; or a preset's weights cannot be downloaded.
    """
    targets = []
    for name in _names_by_field(config)[field]:
        folder, label = _folder_and_label(name, config, base, presets)
        targets.append(dataclasses.replace(read_target(folder, base, field, label), label=label))
    return targets


def read_target(folder: Path, base: CheckpointInfo, field: str, label: str = "") -> Target:
    """Call `resolve_target` and show its progress under the label (or the folder's name)."""
    with file_progress(f"the weights of {label or folder.name}") as progress:
        return resolve_target(folder, base, progress, field)


def _folder_and_label(name: str, config: Config, base: CheckpointInfo, presets: Presets) -> tuple[Path, str]:
    """Return the folder of a named target, trained or downloaded if necessary, and its label for users."""
    folder = expanded(name)
    if folder.exists():
        return folder, folder.name
    if name == PAIR:
        name = paired_preset(config)
    if name in presets.options("model"):
        return resolve_model(compose([f"model={name}"], presets.user_folder).model).path, name
    if is_recipe(name, presets):
        trained = finetune.finetuned_folder(name, base, config.model.template, presets)
        adapter = trained / finetune.ADAPTER
        return adapter if adapter.is_dir() else trained / finetune.MODEL, name
    return folder, folder.name


def paired_preset(config: Config) -> str:
    """Return the preset that `pair` means for this model. Raises UserError if it has none."""
    if config.model.pair is None:
        field = next((field for field, names in _names_by_field(config).items() if PAIR in names), TOWARDS_FIELD)
        remedy = f"{config.model.name} has no counterpart preset: name where to go, {field}=[PATH]"
        raise UserError(field, f"[{PAIR}]", remedy)
    return config.model.pair


def is_recipe(name: str, presets: Presets) -> bool:
    """Return whether a name is a recipe with overrides (`affirmative samples=50`) and not a folder."""
    return name.partition(" ")[0] in presets.options("recipe") and not expanded(name).exists()


def recipes_in(config: Config, presets: Presets) -> list[str]:
    """Return the recipes among the names in grid.trajectory, grid.towards, grid.beside and grid.match."""
    return [name for name in _target_names(config) if is_recipe(name, presets)]


def all_on_this_machine(config: Config, presets: Presets) -> bool:
    """Return whether this machine has the model and every target of the grid: nothing must be downloaded or trained.

    The dummy engine needs neither.
    """
    if config.engine.kind == EngineKind.dummy:
        return True
    folder = locate_model(config.model)
    if folder is None:
        return False
    return all(_is_on_this_machine(name, folder, config, presets) for name in _target_names(config))


def _is_on_this_machine(name: str, base: Path, config: Config, presets: Presets) -> bool:
    if expanded(name).exists():
        return True
    preset = paired_preset(config) if name == PAIR else name
    if preset in presets.options("model"):
        return locate_model(compose([f"model={preset}"], presets.user_folder).model) is not None
    if is_recipe(name, presets):
        folder, _ = finetune.cache_folder(name, read_checkpoint(base), config.model.template, presets)
        return folder.is_dir()
    return True  # an invalid configuration is reported when the name is resolved


def _target_names(config: Config) -> list[str]:
    """Return all names in grid.trajectory, grid.towards, grid.beside and grid.match."""
    trajectory = [config.grid.trajectory] if config.grid.trajectory else []
    return [*trajectory, *(name for names in _names_by_field(config).values() for name in names)]


def _names_by_field(config: Config) -> dict[str, list[str]]:
    """Return option -> the names of checkpoints in it."""
    grid = config.grid
    return {TOWARDS_FIELD: grid.towards, BESIDE_FIELD: grid.beside, MATCH_FIELD: [grid.match] if grid.match else []}


# Folders.


def resolve_target(
    path: str | os.PathLike[str],
    base: CheckpointInfo,
    progress: Progress = ignore_progress,
    field: str = TOWARDS_FIELD,
) -> Target:
    """Read the checkpoint or adapter in a folder and check that `base` can be moved toward it.

    Every byte is read twice, for the fingerprint and to find NaN; both results are cached.

    Args:
        path: The folder.
        base: The model that is moved.
        progress: Called with the fraction of the work that is done.
        field: The option that an error names.

    Raises:
        UserError: The folder is missing or incomplete; has other tensors, shapes, settings or another tokenizer than
            the base; holds NaN or infinity; or is the base itself.
    """
    folder = expanded(path).absolute()
    try:
        if (folder / ADAPTER_CONFIG).is_file():
            return resolve_adapter(folder, base)
        return _resolve_checkpoint(folder, base, progress)
    except UserError as error:
        raise UserError(field, error.value, error.remedy) from None
    except OSError as error:
        raise UserError(field, folder, f"could not be read ({error.strerror or error}): give a readable one") from None


def _resolve_checkpoint(folder: Path, base: CheckpointInfo, progress: Progress) -> Target:
    checkpoint = read_checkpoint(folder)
    identity = fingerprint(checkpoint, lambda fraction: progress(fraction / 2))
    if identity == fingerprint(base):
        remedy = "is the base itself, so the direction has length 0: give another checkpoint"
        raise UserError(TOWARDS_FIELD, folder, remedy)
    ours, theirs = MappedCheckpoint(base.path, TOWARDS_FIELD), MappedCheckpoint(folder, TOWARDS_FIELD)
    check_same_shapes(ours, theirs)
    check_same_settings(base, checkpoint)
    check_same_tokenizer(base.path, folder)
    check_finite(checkpoint, TOWARDS_FIELD, lambda fraction: progress((1 + fraction) / 2))
    check_weights_differ(ours, theirs)
    return Target(identity, "checkpoint", str(folder), folder.name, sample_id(folder))


def check_no_duplicates(targets: Sequence[Target], fields: Sequence[str] | None = None) -> None:
    """Check that no two targets have the same weights; such targets do not span a plane.

    Args:
        targets: The targets of a grid.
        fields: The option that named each of them. None: grid.towards.

    Raises:
        UserError: (the option that named the second one) Two targets have the same weights.
    """
    first_of: dict[str, Target] = {}
    for target, field in zip(targets, fields or [TOWARDS_FIELD] * len(targets), strict=True):
        first = first_of.setdefault(target.fingerprint, target)
        if first is not target:
            raise UserError(field, f"[{first.path}, {target.path}]", "are the same weights: give two that differ")
