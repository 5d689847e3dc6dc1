"""The error budget: which cells to halve so that no number is further from the full grid's than a point.

For each number, every cell has an error: the standard deviation of what its inferred nodes may change in the number.
The errors of different cells are independent. Cells are halved, those with the largest errors first, until the root of
the sum of the squares of the errors that remain is at most half a point, so that about 95% are within a point.
"""

from __future__ import annotations

import math

import numpy as np

from orchestrator.analysis import basin
from orchestrator.analysis.adaptive.geometry import Cell, Node, is_smallest, volume
from orchestrator.analysis.adaptive.surface import Surface

TOLERANCE = 1.0
"""Distance from the full grid's number that is aimed at, in percent, in 95 of 100 lines or planes."""
_AFTER_SPLIT = 0.25  # share of a cell's squared error that is expected to remain when it has been halved
_EDGE = 0.3  # standard deviation of the share of a cell's nodes that are at 100, where one corner is and one is not
_CROSSING = 0.2  # standard deviation of a cell's area below 50%, as a share of its area, if 50% is crossed there


def cells_to_split(surface: Surface) -> list[int]:
    """Return the indices of the cells to halve. Empty if the budget of every number is kept."""
    chosen = set(_cells_at_radius(surface))
    for errors in _errors(surface):
        chosen |= set(_largest(errors, TOLERANCE / 2.0))
    return sorted(i for i in chosen if not is_smallest(surface.cells[i]))


def _errors(surface: Surface) -> list[np.ndarray]:
    """Return the error of each cell in the mean margin, in VISAGE, and in the area of a plane, each [cell], percent."""
    inside = surface.asr < 100.0
    count = max(int(inside.sum()), 1)
    margin = surface.cell_error
    visage = float((100.0 - surface.asr).sum()) / count
    with_edge = ~surface.is_clean & (surface.high >= 100.0)
    edge = np.where(with_edge, _EDGE * surface.unknown * visage, 0.0)
    errors = [margin / surface.shape.size, np.hypot(margin, edge) / count]
    return errors if surface.shape.is_line else [*errors, _area_errors(surface)]


def _area_errors(surface: Surface) -> np.ndarray:
    """Return the error of each cell in the area below 50%, in percent of the plane's area."""
    steps = max(math.prod(n - 1 for n in surface.shape.sizes), 1)
    sizes = 100.0 * np.array([volume(cell) for cell in surface.cells]) / steps
    crossed = (surface.low < basin.THRESHOLD) & (surface.high >= basin.THRESHOLD)
    distance = np.array([np.abs(values - basin.THRESHOLD).min() for values in surface.corner_asr])
    near = ~crossed & (distance < 2.0 * surface.noise)
    share = np.where(crossed, _CROSSING, np.where(near, _CROSSING / 4.0, 0.0))
    return np.where(surface.unknown > 0, share * sizes, 0.0)


def _largest(errors: np.ndarray, allowed: float) -> list[int]:
    """Return the fewest cells, largest errors first, whose halving is expected to keep the budget."""
    order = np.argsort(-errors, kind="stable")
    squares = errors[order] ** 2
    excess = float(squares.sum()) - allowed**2
    if excess <= 0.0:
        return []
    gained = (1.0 - _AFTER_SPLIT) * np.cumsum(squares)
    enough = int(np.searchsorted(gained, min(excess, float(gained[-1])))) + 1
    return [int(i) for i in order[:enough] if errors[i] > 0.0]


def _cells_at_radius(surface: Surface) -> list[int]:
    """Return the cells that may contain the crossing of 50% that is nearest to the origin.

    These are the cells that cross 50%, or may do so by their noise, and begin nearer to the origin than the nearest
    crossing that is known ends.
    """
    origin = surface.shape.origin
    if origin is None:
        return []
    found, nearest = [], math.inf
    for i, cell in enumerate(surface.cells):
        crosses = surface.low[i] < basin.THRESHOLD <= surface.high[i]
        near, far = _distances(cell, origin)
        if crosses:
            nearest = min(nearest, far)
        doubt = 1.5 * max(float(surface.noise[i]), float(surface.bias[i]))
        if crosses or (surface.high[i] < basin.THRESHOLD <= surface.high[i] + doubt):
            found.append((near, i))
    return [i for near, i in found if near < nearest]


def _distances(cell: Cell, origin: Node) -> tuple[float, float]:
    """Return the smallest and the largest distance of a cell's points from the origin, in steps of the grid."""
    near = math.hypot(*(max(low - o, o - high, 0) for (low, high), o in zip(cell, origin, strict=True)))
    far = math.hypot(*(max(abs(low - o), abs(high - o)) for (low, high), o in zip(cell, origin, strict=True)))
    return near, far
