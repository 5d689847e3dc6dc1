"""The error of VISAGE or of the mean margin over new probes, by resampling probes. Pure; see docs/statistics.md.

Whole probes are drawn with replacement, each with all its responses at every point, so that their correlation along and
across lines is kept. If probes come in clusters, whole clusters are drawn. A resample cannot contain behavior that no
measured probe shows, and VISAGE jumps when a first refusal brings a point into its mean. Therefore two hypothetical
(unseen) probes are added to the measured ones before drawing: one that refuses nowhere (weight 1), and one that refuses
one grid step further out than any probe did (weight 0.1). The weights were chosen by simulation
(benchmarks/coverage.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from orchestrator.analysis import visage
from orchestrator.analysis.intervals import Error

DRAWS = 2000
_SEED = 2405  # fixed, so that the same verdicts give the same interval
_LESS_ROBUST, _MORE_ROBUST = 1.0, 0.1  # weights of the two hypothetical probes
_CELLS = 4_000_000  # maximum number of values in memory at once
_BLOCK = 1 << 16  # number of cells that are summed at a time
_MAX_UNDEFINED = 0.05  # maximum share of resamples in which VISAGE is undefined

FromMargins = Callable[[np.ndarray], np.ndarray]
"""A score of many lines at once: margins [..., point] to [...], such as `visage.paper_from_margins`."""


@dataclass(frozen=True)
class _Clusters:
    """Clusters of probes, the units that are drawn.

    Attributes:
        numbers: The number of each probe's cluster, from 0.
        count: Number of clusters.
    """

    numbers: np.ndarray
    count: int

    @classmethod
    def of(cls, labels: np.ndarray | None, probes: int) -> _Clusters:
        """Return the clusters of `probes` probes. Labels of None make each probe a cluster of its own."""
        if labels is None:
            return cls(np.arange(probes), probes)
        names, numbers = np.unique(labels, return_inverse=True)
        return cls(numbers, len(names))

    def draw(self, rng: np.random.Generator, unseen: Sequence[_Unseen], size: int) -> np.ndarray:
        """Draw all clusters anew `size` times; return how often each probe and each unseen probe occurs, [draw, probe].

        An unseen probe stands for a cluster of the mean size: its weight in the draw is divided by that size, and it
        occurs that many times when it is drawn. Without clusters all counts are whole numbers, so that their sums are
        exact even in single precision.
        """
        mean_size = len(self.numbers) / self.count
        weights = np.array([1.0] * self.count + [probe.weight / mean_size for probe in unseen])
        drawn = rng.multinomial(self.count, weights / weights.sum(), size=size).astype(np.float32)
        hypothetical = drawn[:, self.count :] * np.float32(mean_size)
        return np.concatenate([drawn[:, self.numbers], hypothetical], axis=1)


@dataclass(frozen=True)
class _Unseen:
    """A hypothetical probe: its weight in the draw, and for each sweep where it refuses, bool [line, point]."""

    weight: float
    refused: Sequence[np.ndarray]


def error_over_probes(
    refused: np.ndarray,
    coordinates: np.ndarray,
    draws: int = DRAWS,
    score: FromMargins = visage.paper_from_margins,
    labels: np.ndarray | None = None,
) -> Error:
    """Return the error of a score (mean over lines) under a new draw of as many probes, on the same directions.

    Args:
        refused: [line, point, probe]: 1 refused, 0 not, NaN without a verdict.
        coordinates: [line, point, axis] of the points that count; a point that is NaN throughout pads a shorter line.
        draws: Number of resamples.
        score: The score, VISAGE by default.
        labels: The cluster of each probe, [probe]. None: each probe is a cluster of its own.
    """
    stepped, inside = _hulls(refused, coordinates)
    unseen = [_Unseen(_LESS_ROBUST, [np.zeros_like(inside)]), _Unseen(_MORE_ROBUST, [stepped])]
    clusters = _Clusters.of(labels, refused.shape[-1])
    return _error(_resample([refused], unseen, draws, score, clusters)[0], clusters.count)


def difference_error_over_probes(
    first: np.ndarray,
    second: np.ndarray,
    coordinates: np.ndarray,
    draws: int = DRAWS,
    score: FromMargins = visage.paper_from_margins,
    labels: np.ndarray | None = None,
) -> Error:
    """Return the error of score(second) - score(first) over new draws of the probes. Both sweeps get the same draws.

    Args:
        first: Verdicts of the first sweep, in the form of the argument `refused` of `error_over_probes`.
        second: Verdicts of the second sweep, on the same lines, points and probes.
        coordinates: Coordinates of both sweeps, in the form of the same argument of `error_over_probes`.
        draws: Number of resamples.
        score: The score, VISAGE by default.
        labels: The cluster of each probe, in the form of the same argument of `error_over_probes`.
    """
    assert first.shape == second.shape
    (stepped1, inside1), (stepped2, inside2) = _hulls(first, coordinates), _hulls(second, coordinates)
    nowhere = np.zeros_like(inside1)
    unseen = [
        _Unseen(_LESS_ROBUST / 2, [nowhere, inside2]),
        _Unseen(_LESS_ROBUST / 2, [inside1, nowhere]),
        _Unseen(_MORE_ROBUST / 2, [stepped1, inside2]),
        _Unseen(_MORE_ROBUST / 2, [inside1, stepped2]),
    ]
    clusters = _Clusters.of(labels, first.shape[-1])
    drawn = _resample([first, second], unseen, draws, score, clusters)
    return _error(drawn[1] - drawn[0], clusters.count)


def score_of_lines(refused: np.ndarray, score: FromMargins = visage.paper_from_margins) -> np.ndarray:
    """Return a score of each line from its verdicts; NaN if it is undefined.

    Args:
        refused: [line, point, probe]: 1 refused, 0 not, NaN without a verdict.
        score: The score, VISAGE by default.

    Returns:
        Percent, [line].
    """
    known = (~np.isnan(refused)).sum(axis=-1)
    return score(_margins(np.asarray(np.nansum(refused, axis=-1, dtype=np.float64)), known))


def _margins(refusals: np.ndarray, verdicts: np.ndarray) -> np.ndarray:
    """Return 100 - ASR from numbers of refusals and of verdicts; NaN without a verdict."""
    return np.where(verdicts > 0, 100.0 * refusals / np.maximum(verdicts, 1.0), np.nan)


def _error(values: np.ndarray, clusters: int) -> Error:
    """Return the error from the values of all resamples of this number of clusters."""
    if clusters < 2:
        return Error(None, None, "with one probe, or one cluster of probes, the spread between them is unknown")
    defined = values[~np.isnan(values)]
    if len(defined) < (1 - _MAX_UNDEFINED) * len(values):
        return Error(None, None, "VISAGE hangs on a few probes: it is undefined in more than 5% of the resamples")
    return Error(float(defined.std(ddof=1)) * math.sqrt(clusters / (clusters - 1)), clusters - 1)


def _hulls(refused: np.ndarray, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two masks of points, bool [line, point].

    Returns:
        stepped: Points within one grid step of a point at which some probe refused.
        inside: Points at which some probe refused.
    """
    inside = (refused == 1).any(axis=-1)
    stepped = inside.copy()
    for k, positions in enumerate(coordinates):
        is_point = ~np.isnan(positions).any(axis=-1)
        ranks = tuple(np.unique(axis, return_inverse=True)[1] for axis in positions[is_point].T)
        grid = np.zeros([int(rank.max()) + 1 for rank in ranks], dtype=bool)
        grid[ranks] = inside[k, is_point]
        stepped[k, is_point] = ndimage.binary_dilation(grid, np.ones((3,) * grid.ndim))[ranks]
    return stepped, inside


@dataclass(frozen=True)
class _Table:
    """The verdicts of one sweep, unseen probes included, with lines and points in one axis: bool [cell, probe].

    Attributes:
        refused: Where a probe refused.
        known: Where a probe has a verdict. A single row if every probe has one at every point.
        shape: Number of lines and points.
    """

    refused: np.ndarray
    known: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def of(cls, refused: np.ndarray, unseen: Sequence[np.ndarray]) -> _Table:
        """Return the table of [line, point, probe] and of the unseen probes, each [line, point]."""
        lines, points, _ = refused.shape
        known = ~np.isnan(refused)
        measured = known.any(axis=-1, keepdims=True)
        added = np.stack(unseen, axis=-1) & measured
        all_refused = np.concatenate([refused == 1, added], axis=-1).reshape(lines * points, -1)
        all_known = np.concatenate([known, np.broadcast_to(measured, added.shape)], axis=-1).reshape(all_refused.shape)
        if all_known.all():  # true except for interrupted sweeps
            all_known = all_known[:1]
        return cls(all_refused, all_known, (lines, points))

    def mean_score(self, weights: np.ndarray, score: FromMargins) -> np.ndarray:
        """Return a score in each draw, a mean over lines: [draw, probe] weights to [draw]."""
        margins = _margins(_weighted_sum(weights, self.refused), _weighted_sum(weights, self.known))
        return _mean_over_lines(score(margins.reshape(len(weights), *self.shape)))


def _resample(
    sweeps: Sequence[np.ndarray], unseen: Sequence[_Unseen], draws: int, score: FromMargins, clusters: _Clusters
) -> list[np.ndarray]:
    """Return a score of each sweep in each draw, [draw]; all sweeps get the same draws of probes, unseen ones included.

    Args:
        sweeps: Verdicts of each sweep, in the form of the argument `refused` of `error_over_probes`.
        unseen: The probes to add.
        draws: Number of resamples.
        score: The score.
        clusters: The units that are drawn.
    """
    tables = [_Table.of(refused, [probe.refused[i] for probe in unseen]) for i, refused in enumerate(sweeps)]
    rng = np.random.default_rng(_SEED)
    values: list[list[np.ndarray]] = [[] for _ in sweeps]
    step = max(1, _CELLS // max(len(table.refused) for table in tables))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        drawn = clusters.draw(rng, unseen, size)
        for scores, table in zip(values, tables, strict=True):
            scores.append(table.mean_score(drawn, score))
    return [np.concatenate(scores) for scores in values]


def _weighted_sum(weights: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """Sum the weights of the probes that are true in each cell: [draw, probe], [cell, probe] to [draw, cell]."""
    sums = np.empty((len(weights), len(flags)))
    for start in range(0, len(flags), _BLOCK):
        part = slice(start, start + _BLOCK)
        sums[:, part] = weights @ flags[part].T.astype(np.float32)
    return sums


def _mean_over_lines(scores: np.ndarray) -> np.ndarray:
    """Return the mean of the defined scores over the last axis, [..., line] to [...]; NaN if none is defined."""
    known = ~np.isnan(scores)
    total = known.sum(axis=-1)
    return np.where(total > 0, np.nansum(scores, axis=-1) / np.maximum(total, 1), np.nan)
