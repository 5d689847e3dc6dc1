"""The surface through the measured nodes: inferred ASR, and how far the cells may be from it.

A cell's nodes are inferred from its corners, linearly (bilinearly on a plane). The full grid's value at a node differs
from that for three reasons, which have a standard deviation each:

* noise: a node's own responses are a sample. Its variance is `ratio` times that of a binomial; the ratio is below 1
  because the same probes are asked at all nodes, so that a hard probe moves all nodes alike;
* the corners' own noise, which all nodes of the cell share;
* bias: the curve between the corners is not a line. Between two values that differ by D, a monotone curve whose
  steps are Dirichlet distributed with concentration 1 has a mean with standard deviation D / sqrt(24), and one that
  jumps once at a uniform place D / sqrt(12). `BIAS` is between the two. D is freed of the corners' noise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from orchestrator.analysis.adaptive.geometry import Cell, Counts, Node, Shape, corners, volume

BIAS = 0.25
"""Standard deviation of a cell's mean ASR, as a share of the difference between its corners."""
FIRST_RATIO = 0.6
"""Variance of a node's noise relative to a binomial's, before any has been seen."""
_PRIOR = 20.0  # binomial variances that FIRST_RATIO counts for
_MAX_RATIO = 1.2
_MAX_SLOPE = 20.0  # percent: cells with larger differences say more about the curve than about noise


@dataclass(frozen=True)
class Measured:
    """The measured nodes of a line or plane, as arrays of its shape.

    Attributes:
        share: Share of unsafe responses, 0 to 1. NaN if not measured or without a verdict.
        judged: Number of judged responses, 0 if not measured.
        known: Whether the node was measured, even if it has no verdict.
    """

    share: np.ndarray
    judged: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, shape: Shape, counts: Counts, nodes: Iterable[Node]) -> Measured:
        """Return the counts of these nodes, all of which must be in `counts`."""
        share, judged = np.full(shape.sizes, math.nan), np.zeros(shape.sizes, dtype=int)
        known = np.zeros(shape.sizes, dtype=bool)
        for node in nodes:
            unsafe, total = counts[node]
            known[node], judged[node] = True, total
            if total > 0:
                share[node] = unsafe / total
        return cls(share, judged, known)

    @property
    def probes(self) -> int:
        """The usual number of judged responses at a node; 1 if no node has any."""
        judged = self.judged[self.judged > 0]
        return int(np.median(judged)) if judged.size else 1

    def filled(self) -> np.ndarray:
        """Return the ASR in percent. A node without one has that of the nearest node that has one; 50 if none has."""
        unknown = np.isnan(self.share)
        if unknown.all():
            return np.full(self.share.shape, 50.0)
        nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
        return np.asarray(100.0 * self.share[tuple(nearest)])


@dataclass(frozen=True)
class Surface:
    """The measured nodes, the cells between them, and what follows for the other nodes.

    Attributes:
        shape: The line or plane.
        measured: The measured nodes.
        cells: Cells that cover it, whose corners are measured.
        ratio: Variance of a node's noise relative to a binomial's.
    """

    shape: Shape
    measured: Measured
    cells: Sequence[Cell]
    ratio: float = FIRST_RATIO

    @functools.cached_property
    def corner_asr(self) -> list[np.ndarray]:
        """ASR in percent at the corners of each cell, as an array with an axis of length 2 (1 if flat) each."""
        values = self.measured.filled()
        return [values[np.ix_(*[sorted({low, high}) for low, high in cell])] for cell in self.cells]

    @functools.cached_property
    def _order(self) -> list[int]:
        """Indices of the cells, larger ones first, so that nodes on an edge belong to the smallest of its cells."""
        return sorted(range(len(self.cells)), key=lambda i: -volume(self.cells[i]))

    @functools.cached_property
    def owner(self) -> np.ndarray:
        """Index of the cell from which each node is inferred: the smallest one that contains it."""
        owner = np.zeros(self.shape.sizes, dtype=int)
        for i in self._order:
            owner[_slices(self.cells[i])] = i
        return owner

    @functools.cached_property
    def asr(self) -> np.ndarray:
        """ASR in percent: measured, or interpolated from the corners of the node's cell."""
        asr = np.zeros(self.shape.sizes)
        for i in self._order:
            asr[_slices(self.cells[i])] = _interpolated(self.cells[i], self.corner_asr[i])
        valued = ~np.isnan(self.measured.share)
        return np.where(valued, 100.0 * np.nan_to_num(self.measured.share), asr)

    @functools.cached_property
    def unknown(self) -> np.ndarray:
        """Number of nodes that were not measured and are inferred from each cell."""
        return np.bincount(self.owner[~self.measured.known], minlength=len(self.cells))

    @functools.cached_property
    def low(self) -> np.ndarray:
        """Smallest ASR at the corners of each cell, percent."""
        return np.array([float(values.min()) for values in self.corner_asr])

    @functools.cached_property
    def high(self) -> np.ndarray:
        """Largest ASR at the corners of each cell, percent."""
        return np.array([float(values.max()) for values in self.corner_asr])

    @functools.cached_property
    def noise(self) -> np.ndarray:
        """Standard deviation of a node's own sample in each cell, percent. 0 where all corners are at 100."""
        means = np.array([float(values.mean()) for values in self.corner_asr])
        noise = np.sqrt(self.ratio * binomial_variance(means, self.measured.probes))
        return np.where(self.is_clean, 0.0, noise)

    @functools.cached_property
    def bias(self) -> np.ndarray:
        """Standard deviation of the mean ASR of each cell's nodes about the interpolated one, percent."""
        rise = (self.high - self.low) ** 2 - 2.0 * self.noise**2
        return np.asarray(BIAS * np.sqrt(np.maximum(rise, 0.0)))

    @functools.cached_property
    def is_clean(self) -> np.ndarray:
        """Whether every attack succeeds at all corners of each cell."""
        return self.low >= 100.0

    @functools.cached_property
    def cell_error(self) -> np.ndarray:
        """Standard deviation of the sum over each cell's inferred nodes of full grid minus inferred, percent."""
        corner_noise = self.noise * 0.5 ** (len(self.shape.sizes) / 2)
        shared = np.hypot(self.bias, corner_noise) * self.unknown
        return np.hypot(shared, self.noise * np.sqrt(self.unknown))


def binomial_variance(asr: np.ndarray, probes: int) -> np.ndarray:
    """Return the variance of an ASR in percent over this many independent probes; never 0 (Jeffreys' estimate)."""
    p = (asr * probes / 100.0 + 0.5) / (probes + 1.0)
    return np.asarray(1e4 * p * (1.0 - p) / probes)


class NoiseRatio:
    """Running estimate of the variance of a node's noise relative to a binomial's.

    Each newly measured node in a cell whose corners are alike is compared with what was inferred there. The expected
    square of the difference is the node's variance plus that of the interpolated corners.
    """

    def __init__(self, shape: Shape) -> None:
        self._factor = 1.0 + 0.5 ** len(shape.sizes)
        self._squares, self._variances = _PRIOR * FIRST_RATIO, _PRIOR

    @property
    def value(self) -> float:
        """The ratio."""
        return min(self._squares / self._variances, _MAX_RATIO)

    def add(self, before: Surface, after: Measured) -> None:
        """Add the nodes that were measured since `before`."""
        new = ~before.measured.known & ~np.isnan(after.share)
        for node in zip(*np.nonzero(new), strict=True):
            cell = before.owner[node]
            share = float(after.share[node])
            if (before.is_clean[cell] and share >= 1.0) or before.high[cell] - before.low[cell] > _MAX_SLOPE:
                continue
            variance = float(binomial_variance(before.asr[node], int(after.judged[node])))
            self._squares += min((100.0 * share - before.asr[node]) ** 2 / (self._factor * variance), 9.0)
            self._variances += 1.0


def _slices(cell: Cell) -> tuple[slice, ...]:
    return tuple(slice(low, high + 1) for low, high in cell)


def _interpolated(cell: Cell, values: np.ndarray) -> np.ndarray:
    """Return the values at all nodes of a cell, interpolated (bi)linearly between those at its corners."""
    for axis, (low, high) in enumerate(cell):
        if high == low:
            continue
        t = np.linspace(0.0, 1.0, high - low + 1)
        first, last = (np.take(values, [i], axis=axis) for i in (0, 1))
        t = t.reshape([-1 if a == axis else 1 for a in range(len(cell))])
        values = first * (1.0 - t) + last * t
    return values


def corner_nodes(cells: Iterable[Cell]) -> list[Node]:
    """Return the corners of cells, each once, in order of first occurrence."""
    return list(dict.fromkeys(node for cell in cells for node in corners(cell)))
