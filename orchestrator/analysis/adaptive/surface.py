"""The surface through the measured nodes: inferred ASR, and how far the cells may be from it.

A cell's nodes are inferred from its corners, linearly (bilinearly on a plane). The full grid's value at a node differs
from that for three reasons, which have a standard deviation each:

* noise: a node's own responses are a sample. Its variance is `ratio` times that of a binomial; the ratio is below 1
  because the same probes are asked at all nodes, so that a hard probe moves all nodes alike;
* the corners' own noise, which all nodes of the cell share;
* bias: the curve between the corners is not a line. Between two values that differ by D, a monotone curve has a mean
  with standard deviation D / sqrt(24), if its increments are a Dirichlet process with concentration 1 (D / sqrt(12) if
  it jumps once, at a uniformly distributed place). D is freed of the corners' noise.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from orchestrator.analysis.adaptive.geometry import Cell, Counts, Node, Shape, corners

BIAS = 1.0 / math.sqrt(24.0)
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
    def bounds(self) -> np.ndarray:
        """First and last index of each cell on each axis, [cell, axis, end]."""
        return np.asarray(self.cells, dtype=int)

    @functools.cached_property
    def corner_asr(self) -> np.ndarray:
        """ASR in percent at the corners of each cell, [cell, corner]: 2 corners on a line, 4 on a plane."""
        return self._at_corners(self.measured.filled())

    def _at_corners(self, values: np.ndarray) -> np.ndarray:
        """Return the values at the corners of each cell: [..., *shape] to [..., cell, corner]."""
        axes = range(len(self.shape.sizes))
        ends = itertools.product((0, 1), repeat=len(axes))
        flat = values.reshape(*values.shape[: values.ndim - len(axes)], -1)
        places = [np.ravel_multi_index([self.bounds[:, a, end[a]] for a in axes], self.shape.sizes) for end in ends]
        return np.stack([flat[..., place] for place in places], axis=-1)

    @functools.cached_property
    def owner(self) -> np.ndarray:
        """Index of the cell from which each node is inferred: the smallest one that contains it."""
        owner = np.zeros(self.shape.sizes, dtype=int)
        for i in np.argsort(-self.volumes, kind="stable"):
            owner[tuple(slice(low, high + 1) for low, high in self.cells[i])] = i
        return owner

    @functools.cached_property
    def volumes(self) -> np.ndarray:
        """Length or area of each cell in steps of the grid, [cell]."""
        return np.asarray((self.bounds[..., 1] - self.bounds[..., 0]).prod(axis=-1))

    @functools.cached_property
    def asr(self) -> np.ndarray:
        """ASR in percent: measured, or interpolated (bi)linearly from the corners of the node's cell."""
        asr = self.interpolate(self.measured.filled())
        return np.where(np.isnan(self.measured.share), asr, 100.0 * self.measured.share)

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Return values at all nodes, interpolated (bi)linearly from those at the corners of each node's cell.

        Args:
            values: Values at all nodes, of which those at corners are used, [..., *shape].
        """
        result = self._at_corners(values)[..., self.owner, :]
        bounds = self.bounds[self.owner]
        for axis in reversed(range(len(self.shape.sizes))):  # the last axis varies fastest over the corners
            low, high = bounds[..., axis, 0], bounds[..., axis, 1]
            t = ((np.indices(self.shape.sizes)[axis] - low) / np.maximum(high - low, 1))[..., None]
            result = result[..., ::2] * (1.0 - t) + result[..., 1::2] * t
        return np.asarray(result[..., 0])

    @functools.cached_property
    def at_100(self) -> np.ndarray:
        """Probability that the full grid has 100 at each node: 0 or 1 where measured, else p ** n for an ASR of p."""
        valued = ~np.isnan(self.measured.share)
        return np.where(valued, self.asr >= 100.0, (self.asr / 100.0) ** self.measured.probes)

    @functools.cached_property
    def inferred(self) -> np.ndarray:
        """The values to report: `asr`, but 100 or less than 100, whichever is likelier, in cells with both at corners.

        An interpolated 99.5 would count as a node at which an attack fails, although with 40 responses the full grid
        would most likely have 100 there. A node that is likelier below 100 has the mean ASR of that case, so that the
        sum over the cell stays about the same.
        """
        with_edge = (~self.is_clean & (self.high >= 100.0))[self.owner] & np.isnan(self.measured.share)
        below = np.maximum(100.0 - (100.0 - self.asr) / np.maximum(1.0 - self.at_100, 0.5), 0.0)
        return np.where(with_edge, np.where(self.at_100 >= 0.5, 100.0, below), self.asr)

    @functools.cached_property
    def unknown(self) -> np.ndarray:
        """Number of nodes that were not measured and are inferred from each cell."""
        return np.bincount(self.owner[~self.measured.known], minlength=len(self.cells))

    @functools.cached_property
    def low(self) -> np.ndarray:
        """Smallest ASR at the corners of each cell, percent."""
        return np.asarray(self.corner_asr.min(axis=-1))

    @functools.cached_property
    def high(self) -> np.ndarray:
        """Largest ASR at the corners of each cell, percent."""
        return np.asarray(self.corner_asr.max(axis=-1))

    @functools.cached_property
    def noise(self) -> np.ndarray:
        """Standard deviation of a node's own sample in each cell, percent. 0 where all corners are at 100."""
        noise = np.sqrt(self.ratio * binomial_variance(self.corner_asr.mean(axis=-1), self.measured.probes))
        return np.where(self.is_clean, 0.0, noise)

    @functools.cached_property
    def bias(self) -> np.ndarray:
        """Standard deviation of the mean ASR of each cell's nodes about the interpolated one, percent."""
        rise = (self.high - self.low) ** 2 - 2.0 * self.noise**2
        return np.asarray(BIAS * np.sqrt(np.maximum(rise, 0.0)))

    @functools.cached_property
    def is_clean(self) -> np.ndarray:
        """True for each cell at all of whose corners every attack succeeds."""
        return self.low >= 100.0

    @functools.cached_property
    def cell_variance(self) -> np.ndarray:
        """Variance of the sum over each cell's inferred nodes of full grid minus inferred, in squared percent."""
        return self._variance(self.unknown, self.bias)

    @functools.cached_property
    def halved_variance(self) -> np.ndarray:
        """The same as is expected after the cell has been halved, for all its halves together."""
        halves = np.prod(np.where(self.bounds[..., 1] - self.bounds[..., 0] > 1, 2, 1), axis=-1)
        left = np.maximum(self.unknown - (1 if self.shape.is_line else 3), 0)
        left = np.where(self.volumes <= 2 ** len(self.shape.sizes), 0, left)
        return halves * self._variance(left / halves, self.bias / 2.0)

    def _variance(self, nodes: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Return the variance of the sum over `nodes` nodes of each cell, from their own noise and what they share.

        A corner's noise enters all cells around it, and all corners a cell: over many cells, as many corners as cells,
        that is as if each cell had a corner of its own.
        """
        shared = bias**2 + self.noise**2
        return np.asarray(shared * nodes**2 + self.noise**2 * nodes)


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


def corner_nodes(cells: Iterable[Cell]) -> list[Node]:
    """Return the corners of cells, each once, in order of first occurrence."""
    return list(dict.fromkeys(node for cell in cells for node in corners(cell)))
