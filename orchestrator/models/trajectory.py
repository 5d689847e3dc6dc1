"""The checkpoints of a finetuning trajectory, and its principal axes as adapters."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config
from orchestrator.models import finetune
from orchestrator.models.checkpoint import CheckpointInfo, checkpoints_of_trainer
from orchestrator.models.fingerprint import fingerprint
from orchestrator.models.targets import is_recipe, read_target
from orchestrator.utils.cache import cache_dir
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id
from orchestrator.utils.paths import expanded
from orchestrator.utils.private import make_private
from workers.weights import adapters
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.lora_config import TOWARDS_FIELD
from workers.weights.targets import Target

TRAJECTORY_FIELD = "grid.trajectory"
PRINCIPAL_VERSION = 3
"""Version of the adapters that are principal axes. Version 2 took the axes of rounded displacements."""


def resolve_trajectory(config: Config, base: CheckpointInfo, presets: Presets) -> list[Target]:
    """Resolve grid.trajectory, a folder or a recipe that is trained once: its checkpoints in order.

    Raises:
        UserError: (grid.trajectory) See `epoch_folders` and `resolve_target`.
    """
    name = config.grid.trajectory
    assert name is not None
    folder = expanded(name)
    if is_recipe(name, presets):
        folder = finetune.finetuned_folder(name, base, config.model.template, presets)
    return [read_target(path, base, TRAJECTORY_FIELD) for path in epoch_folders(folder)]


def epoch_folders(folder: Path) -> list[Path]:
    """Return the checkpoints epoch-1, epoch-2, ... in a folder, or in the folder `checkpoints` in it, in order.

    If there are none, return the checkpoints checkpoint-N of a transformers Trainer, whose steps may have gaps.

    Raises:
        UserError: (grid.trajectory) There are no such checkpoints, or the numbers have a gap.
    """
    checkpoints = folder / finetune.CHECKPOINTS if (folder / finetune.CHECKPOINTS).is_dir() else folder
    if not checkpoints.is_dir():
        raise UserError(TRAJECTORY_FIELD, folder, "there is no such folder, nor a recipe of that name: name either")
    epochs = {
        int(match[1]): path for path in checkpoints.iterdir() if (match := re.fullmatch(r"epoch-(\d+)", path.name))
    }
    if not epochs:
        if of_trainer := checkpoints_of_trainer(checkpoints):
            return of_trainer
        remedy = "holds no checkpoints epoch-1, epoch-2, ... or checkpoint-N: train with checkpoints=epoch"
        raise UserError(TRAJECTORY_FIELD, folder, remedy)
    missing = [f"epoch-{i}" for i in range(1, max(epochs)) if i not in epochs]
    if missing:
        remedy = f"has epoch-{max(epochs)} but not {', '.join(missing)}: put back what is missing, or renumber the rest"
        raise UserError(TRAJECTORY_FIELD, folder, remedy)
    return [epochs[i] for i in sorted(epochs)]


def principal_axis_adapters(
    base: CheckpointInfo, trajectory: Sequence[Target], weights: Sequence[Sequence[float]]
) -> list[Path]:
    """Return the folders of two adapters that are the principal axes of a trajectory of adapters.

    Each is a weighted sum of the trajectory's adapters: a sum of low-rank products is a low-rank product whose rank is
    the sum of theirs. Its factors are rounded to float32. The folders are kept in the user's cache.

    Args:
        base: The model that the adapters belong to.
        trajectory: The adapters.
        weights: float[2, n], row k of axis k, as `Geometry.principal_axes` gives them.

    Raises:
        UserError: (grid.trajectory) The trajectory is one of full checkpoints.
    """
    if any(target.kind != "adapter" for target in trajectory):
        remedy = "is one of whole checkpoints, and a principal plane is made of adapters: use grid=interpolate_1d"
        raise UserError(TRAJECTORY_FIELD, Path(trajectory[0].path).parent, remedy)
    name = content_id([PRINCIPAL_VERSION, fingerprint(base), [target.fingerprint for target in trajectory]])
    folder = cache_dir() / "principal" / name
    axes = [folder / "axis-1", folder / "axis-2"]
    for axis, row in zip(axes, weights, strict=True):
        if axis.is_dir():
            continue
        make_private(folder)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            new = Path(temporary) / axis.name
            mapped = MappedCheckpoint(base.path, TOWARDS_FIELD)
            adapters.write_adapter_sum(
                mapped, [Path(target.path) for target in trajectory], [float(w) for w in row], new
            )
            with contextlib.suppress(OSError):  # another process has written the folder first
                os.rename(new, axis)
    return axes
