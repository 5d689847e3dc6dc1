"""The points that an adaptive grid leaves out: their inferred percentages, and the error that these add to a score."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import sparse, spatial

from orchestrator.analysis.adaptive.errors import InterpolationErrors, interpolation_errors
from orchestrator.analysis.adaptive.geometry import Node, Shape
from orchestrator.analysis.adaptive.inference import infer
from orchestrator.analysis.landscape import coordinates, is_inferred, responses
from orchestrator.analysis.requested import AdaptiveGrid, AdaptiveLine
from orchestrator.analysis.resampling import FromMargins
from orchestrator.analysis.results.keys import RESULT_KEY
from orchestrator.analysis.visage import VISAGE, Score, in_range
from orchestrator.store.parts import TaskKey
from orchestrator.sweep.grid import Grid


def add_inferred(
    landscape: pd.DataFrame,
    grid: Grid,
    set_ids: Mapping[tuple[str, str, str], str],
    known: Collection[TaskKey],
) -> pd.DataFrame:
    """Return the landscape of an adaptive grid with the points that it leaves out marked and inferred.

    Args:
        landscape: As `build_landscape` returns it.
        grid: The adaptive grid.
        set_ids: (probe set, group, system prompt) -> prompt set id.
        known: The tasks that are stored or still to run: their points are not inferred.
    """
    lines = AdaptiveGrid(grid).lines
    landscape = landscape.copy()
    prompts = zip(landscape["probe_set"], landscape["group"], landscape["system_prompt"], strict=True)
    tasks = zip(landscape["point_id"], map(set_ids.__getitem__, prompts), strict=True)
    is_known = np.array([task in known for task in tasks], dtype=bool)
    landscape["inferred"] = ~is_known & landscape["on_grid"].to_numpy(dtype=bool)
    values, errors = np.full(len(landscape), np.nan), np.full(len(landscape), np.nan)
    for rows in landscape.groupby([*RESULT_KEY, "line"], sort=False).indices.values():
        part = landscape.iloc[rows]
        values[rows], errors[rows] = _infer_line(lines[int(part["line"].iloc[0])], part)
    return landscape.assign(asr_inferred=values, asr_inferred_error=errors)


def _infer_line(line: AdaptiveLine, part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentages and errors of the inferred points of one line of one result; NaN at others, [row]."""
    inferred = is_inferred(part)
    values, errors = np.full(len(part), np.nan), np.full(len(part), np.nan)
    judged = part[part["n"] > 0]
    unsafe = judged["n"] - judged["n_refused"]
    counts = line.counts(dict(zip(judged["point_id"], zip(unsafe, judged["n"], strict=True), strict=True)))
    if not counts or not inferred.any():
        return values, errors
    found = infer(line.shape, {node: (int(k), int(n)) for node, (k, n) in counts.items()})
    by_point = {line.points[node].id: value for node, value in found.items()}
    for row in np.flatnonzero(inferred):
        value = by_point.get(part["point_id"].iloc[row])
        if value is not None:
            values[row], errors[row] = value.asr, value.standard_error
    return values, errors


# The error of a score.


def line_errors(part: pd.DataFrame) -> InterpolationErrors | None:
    """Return the errors that inferred points add to the numbers of one line or plane. None if none is inferred.

    Args:
        part: Its rows, as `with_inferred` returns them.
    """
    if not is_inferred(part).any():
        return None
    grid = part[part["on_grid"].astype(bool)]
    places = coordinates(grid)
    axes = [np.unique(axis) for axis in places.T]
    nodes = [tuple(map(int, node)) for node in zip(*map(np.searchsorted, axes, places.T), strict=True)]
    measured = ~is_inferred(grid) & (responses(grid).to_numpy() > 0)
    unsafe = (grid["n"] - grid["n_refused"]).to_numpy()
    counts = [
        (node, int(k), int(n)) for node, k, n, known in zip(nodes, unsafe, grid["n"], measured, strict=True) if known
    ]
    return _line_errors(tuple(tuple(axis.tolist()) for axis in axes), tuple(counts))


@functools.lru_cache(maxsize=256)
def _line_errors(axes: tuple[tuple[float, ...], ...], counts: tuple[tuple[Node, int, int], ...]) -> InterpolationErrors:
    return interpolation_errors(Shape.of_axes(axes), {node: (k, n) for node, k, n in counts}, axes)


def interpolation_error(score: Score, lines: Sequence[pd.DataFrame]) -> float | None:
    """Return the standard error that inferred points add to the mean of a score over lines, in percent.

    The errors of different lines are independent. None if that of a line is unknown.

    Args:
        score: The score.
        lines: Rows of each line or plane, as `with_inferred` returns them.
    """
    variance = 0.0
    for part in lines:
        errors = line_errors(part)
        if errors is None:
            continue
        error = errors.visage if score is VISAGE else errors.margin
        if error is None:
            return None
        variance += error**2
    return math.sqrt(variance) / max(len(lines), 1)


def through_all_points(score: FromMargins, lines: Sequence[pd.DataFrame]) -> FromMargins:
    """Return a score that interpolates the margins of measured points to all points, and is `score` of those.

    Resampled probes then give what they would give with the inferred points, which have no responses of their own.

    Args:
        score: Function of margins [..., line, point].
        lines: Rows of each line or plane, as `with_inferred` returns them; the score is given the margins of their
            measured points within the range, in order of the rows.
    """
    if not any(is_inferred(part).any() for part in lines):
        return score
    weights = [_interpolation_weights(part) for part in lines]
    longest = max(matrix.shape[0] for matrix in weights)

    def score_of_all(margins: np.ndarray) -> np.ndarray:
        filled = np.full((*margins.shape[:-2], len(weights), longest), np.nan)
        for k, matrix in enumerate(weights):
            measured = np.nan_to_num(margins[..., k, : matrix.shape[1]]).reshape(-1, matrix.shape[1])
            filled[..., k, : matrix.shape[0]] = (matrix @ measured.T).T.reshape(*margins.shape[:-2], -1)
        return score(filled)

    return score_of_all


def _interpolation_weights(part: pd.DataFrame) -> sparse.csr_matrix:
    """Return the weights of linear interpolation from the measured points to all points in the range, [all, measured].

    On a plane it is linear on the triangles of Delaunay between measured points.
    """
    places = coordinates(part)
    used = part["on_grid"].to_numpy(dtype=bool) & in_range(places) & part["asr"].notna().to_numpy()
    measured = places[used & (part["n"].to_numpy() > 0)]
    targets = places[used]
    if places.shape[1] == 1:
        order = np.argsort(measured[:, 0])
        axis = measured[order, 0]
        above = np.clip(np.searchsorted(axis, targets[:, 0]), 1, max(len(axis) - 1, 1))
        below = above - 1
        above = np.minimum(above, len(axis) - 1)
        width = np.where(axis[above] > axis[below], axis[above] - axis[below], 1.0)
        share = np.clip((targets[:, 0] - axis[below]) / width, 0.0, 1.0)
        columns, values = np.stack([order[below], order[above]], 1), np.stack([1 - share, share], 1)
    else:
        triangles = spatial.Delaunay(measured)
        simplex = triangles.find_simplex(targets, tol=1e-9)
        transform = triangles.transform[simplex]
        partial = np.einsum("ijk,ik->ij", transform[:, :2], targets - transform[:, 2])
        values = np.clip(np.column_stack([partial, 1 - partial.sum(axis=1)]), 0.0, 1.0)
        columns = triangles.simplices[simplex]
    rows = np.repeat(np.arange(len(targets)), columns.shape[1])
    return sparse.csr_matrix((values.ravel(), (rows, columns.ravel())), shape=(len(targets), len(measured)))
