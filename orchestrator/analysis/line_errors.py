"""Errors of a mean over lines or planes, over new directions and over new probes, from landscape rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from orchestrator.analysis import intervals, resampling, visage
from orchestrator.analysis.inferred import interpolation_error, through_all_points
from orchestrator.analysis.intervals import Error
from orchestrator.analysis.landscape import Lines, coordinates
from orchestrator.scoring.counts import OUTCOME, ProbeVerdicts

_NO_VERDICTS = "the verdicts on single probes are not at hand"
CHOSEN = "directions toward checkpoints are chosen, not drawn: nothing can be inferred about new ones"


def error_over_directions(lines: Lines, values: Sequence[float], step: float = 0.0, noise: float = 0.0) -> Error:
    """Return the error, over new directions, of the mean of these lines' values.

    It is unknown if the lines go toward checkpoints, which are chosen and not drawn. For `step` and `noise` see
    `intervals.error_over_directions`.
    """
    if len(values) > 1 and are_chosen([part for _, part in lines]):
        return Error(None, None, CHOSEN)
    return intervals.error_over_directions(values, step, noise)


def are_chosen(parts: Sequence[pd.DataFrame]) -> bool:
    """Return whether the directions of all these rows lead to checkpoints."""
    return all(part[["seed_x", "seed_y"]].isna().all(axis=None) for part in parts)


def probe_arrays(
    lines: Sequence[pd.DataFrame], verdicts: ProbeVerdicts, prompts: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the verdicts and coordinates of the points that count for VISAGE.

    Args:
        lines: Rows of each line or plane.
        verdicts: Verdicts by point and probe.
        prompts: Ids of the prompts to take, in this order. None: all.

    Returns:
        refused: [line, point, prompt], 1 refused, 0 not, NaN without a verdict.
        coordinates: [line, point, axis]. Shorter lines are padded with NaN in both.
    """
    selected = list(verdicts.prompts if prompts is None else prompts)
    kept = []
    for part in lines:
        positions = coordinates(part)
        used = part["on_grid"].to_numpy(dtype=bool) & (part["n"].to_numpy() > 0) & visage.in_range(positions)
        kept.append((part["point_id"].to_numpy()[used], positions[used]))
    longest = max(len(points) for points, _ in kept)
    padded = np.full((len(kept), longest, kept[0][1].shape[1]), np.nan)
    for k, (points, positions) in enumerate(kept):
        padded[k, : len(points)] = positions
    if len(kept) == 1:  # this array may be large: it is not copied
        return verdicts.at(kept[0][0], selected)[None], padded
    refused = np.full((len(kept), longest, len(selected)), np.nan, dtype=OUTCOME)
    for k, (points, _) in enumerate(kept):
        refused[k, : len(points)] = verdicts.at(points, selected)
    return refused, padded


def error_over_probes(score: visage.Score, lines: Sequence[pd.DataFrame], verdicts: ProbeVerdicts | None) -> Error:
    """Return the error, over new probes, of a score's mean over these lines, on each of which it must be defined.

    If points are inferred, it is the error over new probes at the measured points and of the interpolation together.
    """
    if not lines:
        return Error(None, None, f"{score.name} is undefined on every line")
    if verdicts is None:
        return Error(None, None, _NO_VERDICTS)
    refused, positions = probe_arrays(lines, verdicts)
    of_all = through_all_points(score.from_margins, lines)
    error = resampling.error_over_probes(refused, positions, score=of_all, labels=verdicts.labels())
    added = interpolation_error(score, lines)
    if error.se is None or added == 0.0:
        return error
    if added is None:
        return Error(None, None, f"{score.name} is undefined for much of what the inferred points may be")
    return dataclasses.replace(error, se=math.hypot(error.se, added))
