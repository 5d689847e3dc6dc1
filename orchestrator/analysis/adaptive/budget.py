"""The error budget: which cells to halve so that no number is further from the full grid's than a point.

For each number, every cell has an error: the standard deviation of what its inferred nodes may change in the number.
The errors of different cells are independent. Cells are halved, those with the largest errors first, until the root of
the sum of the squares of the errors that remain is at most half a point, so that about 95% are within a point.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from orchestrator.analysis import basin
from orchestrator.analysis.adaptive import audit
from orchestrator.analysis.adaptive.geometry import Node, is_smallest
from orchestrator.analysis.adaptive.surface import Surface

TOLERANCE = 1.0
"""Distance from the full grid's number that is aimed at, in percent, in 95 of 100 lines or planes."""
DEVIATIONS = 1.645
"""Standard deviations of an error that the tolerance is: at the limit, 90% are within it.

A level ends below its limit more often than at it, because nodes are whole; in simulations at least 95% are within it.
"""
_EDGE = 0.3  # standard deviation of the share of a cell's nodes that are at 100, where one corner is and one is not
_PLACE = 0.25  # more than a standard deviation of the place of a crossing in a cell, as a share of the cell
_NEARLY = 1.5  # standard deviations below 50% from which on a cell is taken not to cross it
_SAME = 0.5  # steps
_CROSSING = 0.2  # standard deviation of a cell's area below 50%, as a share of its area, if 50% is crossed there


def cells_to_split(surface: Surface) -> list[int]:
    """Return the indices of the cells to halve. Empty if the budget of every number is kept."""
    chosen = set(_cells_at_radius(surface))
    for now, halved in _variances(surface):
        chosen |= set(_largest(now * _unaudited(surface), halved))
    return sorted(i for i in chosen if not is_smallest(surface.cells[i]))


def _unaudited(surface: Surface) -> float:
    """Return the share of the inferred nodes that the audit will leave inferred."""
    inferred = int(surface.unknown.sum())
    return 1.0 - audit.size(inferred) / max(inferred, 1)


def _variances(surface: Surface) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the squared error of each cell in each number, now and when it has been halved, in squared percent.

    The numbers are the mean margin, VISAGE and, of a plane, the area.
    """
    count = max(int((surface.inferred < 100.0).sum()), 1)
    visage = float((100.0 - surface.asr).sum()) / count
    with_edge = ~surface.is_clean & (surface.high >= 100.0)
    edge = np.where(with_edge, _EDGE * surface.unknown * visage, 0.0) ** 2
    now, halved = surface.cell_variance, surface.halved_variance
    numbers = [(now / surface.shape.size**2, halved / surface.shape.size**2)]
    if surface.shape.is_line or not _refuses_beyond(surface):
        numbers.append(((now + edge) / count**2, (halved + edge / 4.0) / count**2))
    return numbers if surface.shape.is_line else [*numbers, _area_variances(surface)]


def _refuses_beyond(surface: Surface) -> bool:
    """Return whether an attack failed at a measured node outside the region around the origin where any attack fails.

    Then VISAGE hangs on single refusals far out, which only the full grid would find: its interval covers them.
    """
    inside = surface.inferred < 100.0
    labels, _ = ndimage.label(inside)
    around = labels[surface.shape.center]
    return bool((inside & surface.measured.known & (labels != around)).any())


def _area_variances(surface: Surface) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared errors of each cell in the area below 50%, in percent of the plane's area."""
    steps = max(math.prod(n - 1 for n in surface.shape.sizes), 1)
    sizes = 100.0 * surface.volumes / steps
    crossed = (surface.low < basin.THRESHOLD) & (surface.high >= basin.THRESHOLD)
    distance = np.abs(surface.corner_asr - basin.THRESHOLD).min(axis=-1)
    near = ~crossed & (distance < 2.0 * surface.noise)
    share = np.where(crossed, _CROSSING, np.where(near, _CROSSING / 4.0, 0.0))
    now = np.where(surface.unknown > 0, share * sizes, 0.0) ** 2
    return now, now / 8.0  # a contour passes half of the quarters


def _largest(now: np.ndarray, halved: np.ndarray) -> list[int]:
    """Return the fewest cells whose halving is expected to keep the budget, those that gain most first.

    Args:
        now: Squared error of each cell, in squared percent.
        halved: Squared error that is expected to remain when the cell has been halved.
    """
    excess = float(now.sum()) - (TOLERANCE / DEVIATIONS) ** 2
    if excess <= 0.0:
        return []
    gain = np.maximum(now - halved, 0.0)
    order = np.argsort(-gain, kind="stable")
    gained = np.cumsum(gain[order])
    enough = int(np.searchsorted(gained, min(excess, float(gained[-1])))) + 1
    return [int(i) for i in order[:enough] if gain[i] > 0.0]


def _cells_at_radius(surface: Surface) -> list[int]:
    """Return the cells that may contain a crossing of 50% nearer to the origin than the nearest one that is known.

    In a cell that crosses 50%, the crossing is taken to be where the corners' ASR puts it, give or take `_PLACE` of
    the cell; a cell that may cross it by noise or bias alone may do so anywhere. Half a step is no difference.
    """
    origin = surface.shape.origin
    if origin is None:
        return []
    low, high = surface.low, surface.high
    near, far = _distances(surface, origin)
    crosses = (low < basin.THRESHOLD) & (high >= basin.THRESHOLD)
    place = np.where(crosses, (basin.THRESHOLD - low) / np.maximum(high - low, 1e-9), 0.0)
    first = near + (far - near) * np.clip(place - _PLACE, 0.0, 1.0)
    last = near + (far - near) * np.clip(place + _PLACE, 0.0, 1.0)
    doubt = _NEARLY * np.maximum(surface.noise, surface.bias)
    may_cross = crosses | ((high < basin.THRESHOLD) & (high + doubt >= basin.THRESHOLD))
    nearest = last[crosses].min(initial=math.inf)
    return [int(i) for i in np.flatnonzero(may_cross & (first < nearest - _SAME))]


def _distances(surface: Surface, origin: Node) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest distance of each cell's points from the origin, in steps, each [cell]."""
    low, high = surface.bounds[..., 0] - origin, surface.bounds[..., 1] - origin
    near = np.maximum(np.maximum(low, -high), 0)
    return np.linalg.norm(near, axis=-1), np.linalg.norm(np.maximum(np.abs(low), np.abs(high)), axis=-1)
