"""The error that inferred nodes bring into the numbers of a line or plane.

Full grids are drawn that agree with the measured nodes (`posterior`). The error of a number is the root of the mean
square of its difference from the number computed with inferred values, so that it contains a bias of the latter. It is
about the full grid's number with the same probes, and adds to the errors over new probes and new directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.analysis import visage
from orchestrator.analysis.adaptive import numbers
from orchestrator.analysis.adaptive.geometry import Counts, Shape
from orchestrator.analysis.adaptive.posterior import Posterior

WIDER = 1.5
"""By how much errors exceed those of the draws: the process is approximate, and levels end when errors look small.
Simulations chose it (docs/adaptive.md)."""
_MAX_UNDEFINED = 0.05


@dataclass(frozen=True)
class InterpolationErrors:
    """Standard errors of a line's or plane's numbers because of the nodes that were not measured.

    None if the number is undefined, or undefined in more than 5% of the draws.

    Attributes:
        margin: Of the mean margin, percent.
        visage: Of VISAGE, percent.
        released: Of VISAGE as the published code computes it, percent. None on planes.
        radius: Of the radius, in units of alpha.
        area: Of the area, in squared units of alpha. None on lines.
    """

    margin: float | None
    visage: float | None
    released: float | None
    radius: float | None
    area: float | None


def interpolation_errors(shape: Shape, counts: Counts, axes: Sequence[Sequence[float]]) -> InterpolationErrors:
    """Return the errors of all numbers of one line or plane.

    Args:
        shape: The line or plane.
        counts: Verdict counts of its measured nodes.
        axes: The coordinates of the nodes on each axis, ascending.
    """
    posterior = Posterior.of(shape, counts)
    inferred, drawn = (_numbers(grids, shape, axes) for grids in (posterior.inferred[None], posterior.drawn))
    errors = [_error(one, of_draws) for one, of_draws in zip(inferred, drawn, strict=True)]
    return InterpolationErrors(*(None if error is None else WIDER * error for error in errors))


def _numbers(grids: np.ndarray, shape: Shape, axes: Sequence[Sequence[float]]) -> tuple[np.ndarray, ...]:
    """Return mean margin, VISAGE, released VISAGE, radius and area of each grid, [draw]. NaN where undefined."""
    nothing = np.full(len(grids), np.nan)
    places = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
    margin, score, released, radius, area = (nothing,) * 5
    if visage.measure_margin(places, grids[0].ravel()).value is not None:
        within = grids.reshape(len(grids), -1)[:, visage.in_range(places)]
        margin, score = visage.mean_from_margins(100.0 - within), visage.paper_from_margins(100.0 - within)
        released = numbers.released(within) if shape.is_line else nothing
    extents = [axis[-1] - axis[0] for axis in axes]
    if shape.origin is not None:
        steps = [extent / max(len(axis) - 1, 1) for extent, axis in zip(extents, axes, strict=True)]
        radius = numbers.radii(grids, shape.origin, steps)
    if not shape.is_line:
        area = numbers.areas(grids, shape.center) / 100.0 * math.prod(extents)
    return margin, score, released, radius, area


def _error(value: np.ndarray, drawn: np.ndarray) -> float | None:
    defined = drawn[~np.isnan(drawn)]
    if np.isnan(value[0]) or len(defined) < (1.0 - _MAX_UNDEFINED) * len(drawn):
        return None
    return float(np.sqrt(np.mean((defined - value[0]) ** 2)))
