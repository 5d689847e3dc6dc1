"""Distances and angles between a model and the checkpoints that a grid names. The verb `geometry` prints them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config
from orchestrator.models.checkpoint import CheckpointInfo, read_checkpoint
from orchestrator.models.fingerprint import fingerprint
from orchestrator.models.resolve import resolve_model
from orchestrator.models.targets import BESIDE_FIELD, check_no_duplicates, resolve_targets
from orchestrator.models.trajectory import TRAJECTORY_FIELD, resolve_trajectory
from orchestrator.utils.cache import cache_dir, write_json
from orchestrator.utils.choices import Dtype
from orchestrator.utils.console import file_progress
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id
from orchestrator.utils.parsing import read_json_object
from workers.weights import geometry
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.lora_config import TOWARDS_FIELD
from workers.weights.targets import Target

logger = logging.getLogger(__name__)

GEOMETRY_VERSION = 2
"""Version of the measurements in the cache. Version 1 measured adapters rounded to the base's stored dtype."""

MAX_ROUNDING = 0.01
"""Share of a displacement's length that an engine's rounding may add without a warning."""


def measure_targets(
    base: CheckpointInfo, targets: Sequence[Target], exclude: Sequence[str], dtype: Dtype
) -> geometry.Geometry:
    """Measure the displacements of the targets from the base, in one pass over all weights. The result is cached.

    Args:
        base: The model.
        targets: The checkpoints and adapters.
        exclude: Parts of names of tensors that random directions leave unchanged.
        dtype: The engine's dtype, whose rounding is measured too.
    """
    names = [target.fingerprint for target in targets]
    key = content_id([GEOMETRY_VERSION, fingerprint(base), names, list(exclude), dtype.value])
    cache_file = cache_dir() / "geometry" / f"{key}.json"
    labels = tuple(target.label for target in targets)
    try:
        value = read_json_object(cache_file)
        gram, rounding = np.array(value["gram"]), tuple(value["rounding"])
        return geometry.Geometry(labels, gram, value["base"], value["moved"], rounding)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not measured yet, or damaged
    with file_progress("the distances of the weights from the model") as progress:
        mapped = MappedCheckpoint(base.path, TOWARDS_FIELD)
        measured = geometry.measure(mapped, targets, progress, dtype.value, exclude=exclude)
    numbers = {"gram": measured.gram.tolist(), "base": measured.base, "moved": measured.moved}
    write_json(cache_file, numbers | {"rounding": measured.rounding})
    return measured


def check_nonzero_lengths(measured: geometry.Geometry, targets: Sequence[Target], fields: Sequence[str]) -> None:
    """Check that no target has the base's weights, as an adapter has whose product is zero.

    Raises:
        UserError: (the option in `fields` that named the target) Its displacement has length 0.
    """
    for target, field, length in zip(targets, fields, measured.lengths, strict=True):
        if length == 0:
            raise UserError(field, target.path, "has the base's weights, so the direction has length 0: give another")


def warn_of_rounding(measured: geometry.Geometry, dtype: Dtype) -> None:
    """Log a warning that names the targets whose displacement changes by more than 1% when the engine rounds it."""
    coarse = [
        f"{label} ({100 * share:.2g}%)"
        for label, share in zip(measured.labels, measured.rounding, strict=True)
        if share > MAX_ROUNDING
    ]
    if coarse:
        logger.warning(
            "model.dtype=%s: the engine's rounding changes the displacement from the model by more than 1%% of its "
            "length for %s: model.dtype=float32 measures these targets themselves",
            dtype.value,
            ", ".join(coarse),
        )


def describe(config: Config, presets: Presets) -> dict[str, Any]:
    """Measure the model and everything that the grid names. One pass over the files, in bounded memory.

    Returns:
        A JSON object: `model`, its name; `norm` of its weights; `distances` between all pairs (the model is the first
        of them), in units of weights; `cosines` of the angles between displacements from the model; `principal`, the
        plane of all of them: `places` (coordinates in units of weights) and `shares` of the variance on each axis; and
        `checkpoints`, each with name, path, `distance` from the model in units of alpha (a random direction of that
        alpha moves the weights as far), its `share` of the model's norm, and `rounding`, the share of its distance that
        the engine's rounding to `dtype` adds.

    Raises:
        UserError: The grid names no checkpoint, one that does not fit the model, or all tensors are excluded.
    """
    grid = config.grid
    base = read_checkpoint(resolve_model(config.model).path)
    trajectory = resolve_trajectory(config, base, presets) if grid.trajectory else []
    targets = [*trajectory, *resolve_targets(TOWARDS_FIELD, config, base, presets)]
    fields = [TRAJECTORY_FIELD if trajectory else TOWARDS_FIELD] * len(targets)
    beside = resolve_targets(BESIDE_FIELD, config, base, presets)
    targets += beside
    fields += [BESIDE_FIELD] * len(beside)
    if not targets:
        remedy = "name checkpoints: grid.towards=[A,B], grid.trajectory=FOLDER or +experiment=drag"
        raise UserError(TOWARDS_FIELD, "[]", remedy)
    check_no_duplicates(targets, fields)
    measured = measure_targets(base, targets, grid.exclude, config.model.dtype)
    check_nonzero_lengths(measured, targets, fields)
    warn_of_rounding(measured, config.model.dtype)
    if not measured.moved:
        remedy = "leaves no weight for a random direction to move, and distances are given in its alpha: exclude fewer"
        raise UserError("grid.exclude", f"[{','.join(grid.exclude)}]", remedy)
    positions, shares, _ = measured.principal(min(2, len(targets)))
    return {
        "model": config.model.name,
        "dtype": config.model.dtype.value,
        "norm": measured.base,
        "checkpoints": [
            {
                "name": target.label,
                "path": str(target.path),
                "distance": float(length / measured.moved),
                "share": float(length / measured.base),
                "rounding": rounding,
            }
            for target, length, rounding in zip(targets, measured.lengths, measured.rounding, strict=True)
        ],
        "distances": measured.distances.tolist(),
        "cosines": measured.cosines.tolist(),
        "principal": {"places": positions.tolist(), "shares": shares.tolist()},
    }


def table(description: Mapping[str, Any]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return headings and rows of a table to print, from the result of `describe`.

    The model itself is the first row. Cosines are to the checkpoints in the rows above.
    """
    names = [checkpoint["name"] for checkpoint in description["checkpoints"]]
    rounding = f"{description['dtype']} adds"
    headings = ("", "checkpoint", "alpha", "of the norm", rounding, "on the principal plane", "cosines to those above")
    positions = [", ".join(f"{x:+.2f}" for x in position) for position in description["principal"]["places"]]
    rows: list[Sequence[str]] = [("0", description["model"], "0", "", "", positions[0], "")]
    for i, (name, checkpoint) in enumerate(zip(names, description["checkpoints"], strict=True)):
        cosines = " ".join(f"{cosine:+.2f}" for cosine in description["cosines"][i][:i])
        distance, share = f"{checkpoint['distance']:.2g}", f"{100 * checkpoint['share']:.2g}%"
        added = f"{100 * checkpoint['rounding']:.2g}%"
        rows.append((str(i + 1), name, distance, share, added, positions[i + 1], cosines))
    return headings, rows
