"""The error that inferred nodes bring into the numbers of a line or plane, by simulation of the nodes not measured.

The full grid is drawn many times, given the measured nodes: interpolated values have the noise of their corners and a
bias that neighboring nodes share, each node has sampling noise of its own, and between nodes at 100 an unseen attack
may fail.
The error of a number is the root of the mean square of its difference from the number computed with inferred values,
so that it contains a bias of the latter. It is about the full grid's number with the same probes, and adds to the
errors over new probes and new directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from orchestrator.analysis import basin, visage
from orchestrator.analysis.adaptive.geometry import Counts, Shape
from orchestrator.analysis.adaptive.inference import final_surface
from orchestrator.analysis.adaptive.refusals import Beyond
from orchestrator.analysis.adaptive.surface import Surface, binomial_variance

DRAWS = 100
_SEED = 19  # fixed, so that the same counts give the same errors
_BINOMIAL_FROM = 90.0  # percent: from here on the chance of 100 matters more than the variance
_MAX_UNDEFINED = 0.05
_BIAS_LENGTH = 2.0  # nodes: standard deviation of the kernel along which biases are alike
_AREA_CELLS = 5  # along an axis, between neighboring nodes


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
    surface = final_surface(shape, counts)
    value = _numbers(surface.inferred, axes)
    if surface.measured.known.all():
        return InterpolationErrors(*(None if number is None else 0.0 for number in value))
    drawn = [_numbers(grid, axes) for grid in complete(surface, DRAWS, np.random.default_rng(_SEED))]
    return InterpolationErrors(
        *(_error(number, each) for number, each in zip(value, zip(*drawn, strict=True), strict=True))
    )


def complete(surface: Surface, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return full grids that agree with the measured nodes, [draw, ...], in percent."""
    n, sizes = surface.measured.probes, surface.shape.sizes
    deviations = np.sqrt(surface.ratio * binomial_variance(surface.asr, n))
    offsets = surface.interpolate(deviations * rng.standard_normal((draws, *sizes)))
    offsets += surface.bias[surface.owner] * _smooth(rng.standard_normal((draws, *sizes)))
    expected = np.clip(surface.asr + offsets, 0.0, 100.0)
    sampled = np.clip(expected + surface.noise[surface.owner] * rng.standard_normal(expected.shape), 0.0, 100.0)
    counts = np.where(expected >= _BINOMIAL_FROM, rng.binomial(n, expected / 100.0), np.rint(sampled * n / 100.0))
    grids = 100.0 * counts / n
    clean = surface.is_clean[surface.owner]
    grids[:, clean] = 100.0 - 100.0 / n * _refusals(Beyond.of(surface), int(clean.sum()), draws, rng)
    valued = ~np.isnan(surface.measured.share)
    return np.where(valued, surface.asr, grids)


def _smooth(fields: np.ndarray) -> np.ndarray:
    """Return random fields of variance 1 that are alike at neighboring nodes, as a bias along a wall is."""
    sigma = (0.0, *[_BIAS_LENGTH] * (fields.ndim - 1))
    smooth = ndimage.gaussian_filter(fields, sigma, mode="wrap")
    return np.asarray(smooth / smooth.std())


def _refusals(beyond: Beyond, nodes: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return whether an attack fails at nodes between nodes at 100, bool [draw, node]."""
    rates = rng.beta(beyond.below + 0.5, beyond.at_100 + 0.5, size=draws)
    rates = np.where(rng.random(draws) < beyond.doubt, rates, 0.0)
    return np.asarray(rng.random((draws, nodes)) < rates[:, None])


def _numbers(asr: np.ndarray, axes: Sequence[Sequence[float]]) -> tuple[float | None, ...]:
    """Return mean margin, VISAGE, released VISAGE, radius and area of one line or plane. None where undefined."""
    coordinates = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
    values = asr.ravel()
    score = visage.measure(coordinates, values)
    margin = visage.measure_margin(coordinates, values).value
    if len(axes) == 1:
        edges = basin.measure_line(coordinates[:, 0].tolist(), values.tolist())
        return margin, score.paper, score.released, edges.radius, None
    alphas, betas, flat = coordinates[:, 0].tolist(), coordinates[:, 1].tolist(), values.tolist()
    edges = basin.measure_plane(alphas, betas, flat)
    return margin, score.paper, None, edges.radius, _area(asr, axes)


def _area(asr: np.ndarray, axes: Sequence[Sequence[float]]) -> float:
    """Return about the area of a plane's region below 50% around the origin, in squared units of alpha.

    Coarser than `basin.shape_on_plane`, which takes too long to be computed for each draw.
    """
    places = [np.linspace(0.0, n - 1.0, _AREA_CELLS * (n - 1), endpoint=False) + 0.5 / _AREA_CELLS for n in asr.shape]
    fine = ndimage.map_coordinates(asr, np.meshgrid(*places, indexing="ij"), order=1)
    labels, _ = ndimage.label(fine < basin.THRESHOLD)
    origin = [int(np.interp(0.0, axis, range(len(axis))) * _AREA_CELLS) for axis in axes]
    around = labels[tuple(np.minimum(origin, np.array(labels.shape) - 1))]
    extents = [axis[-1] - axis[0] for axis in axes]
    return float((labels == around).sum() / labels.size * math.prod(extents)) if around else 0.0


def _error(value: float | None, drawn: Sequence[float | None]) -> float | None:
    defined = [each for each in drawn if each is not None]
    if value is None or len(defined) < (1.0 - _MAX_UNDEFINED) * len(drawn):
        return None
    return math.sqrt(math.fsum((each - value) ** 2 for each in defined) / len(defined))
