"""Geometry of checkpoints and adapters around a base: distances, cosines, coordinates on a plane, principal plane.

Everything follows from the Gram matrix of the displacements d_i = W_i - W_0 over the whole model. One pass over the
mapped files gives its n x n dot products: every tensor is read once, block by block, in float64. The principal plane
of a trajectory therefore costs no more than the distances.

Displacements are those of the targets themselves, W_1 - W_0 of a checkpoint and s B A of an adapter, before an engine
rounds them to its dtype. What that rounding adds is measured beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.sweep.points import DECIMALS
from orchestrator.utils.errors import UserError
from workers.noise.definition import Array, DType, Slab
from workers.noise.reference import to_float32
from workers.weights.checkpoint import MappedCheckpoint, TensorInfo
from workers.weights.lora_config import TOWARDS_FIELD
from workers.weights.targets import Endpoint, Target, open_endpoint

BLOCK = 1 << 20  # elements per checkpoint that are in memory at once: 8 MiB of float64
COLLINEAR = 1e-6  # sin^2 of the angle below which two directions differ only by the rounding of stored weights

Matrix = npt.NDArray[np.float64]
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Geometry:
    """The displacements of n targets from the base, as their Gram matrix: gram[i, j] = <d_i, d_j>, float64[n, n].

    Coordinates on the plane of two targets are coefficients on their displacements: the targets are at (1, 0), (0, 1).

    Attributes:
        labels: Name of each target.
        gram: The Gram matrix.
        base: |W_0|.
        moved: |W_0| over the tensors that random directions move. A displacement of length l is as long as a random
            direction (norm: layer) at coefficient alpha = l / moved.
        rounding: What an engine's rounding adds to each displacement, as a share of its length: |e_i| / |d_i|, where
            d_i + e_i is the displacement between the weights that the engine holds at target i and at the base. NaN
            for a displacement of length 0. Empty if it was not measured.
    """

    labels: tuple[str, ...]
    gram: Matrix
    base: float
    moved: float = math.nan
    rounding: tuple[float, ...] = ()

    @cached_property
    def lengths(self) -> Matrix:
        """Lengths |d_i|, float64[n]."""
        lengths: Matrix = np.sqrt(np.diag(self.gram))
        return lengths

    @cached_property
    def distances(self) -> Matrix:
        """Distances between all pairs, the base first: float64[n + 1, n + 1]."""
        gram = np.pad(self.gram, ((1, 0), (1, 0)))
        squared = np.diag(gram)
        return np.sqrt(np.maximum(squared[:, None] + squared[None, :] - 2 * gram, 0.0))

    @cached_property
    def cosines(self) -> Matrix:
        """Cosines of the angles between displacements: float64[n, n], NaN if one of the two has length 0."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.gram / np.outer(self.lengths, self.lengths)

    def eq4(self, i: int = 0, j: int = 1) -> tuple[float, float]:
        """Return (c, s) of Peng et al. 2024, Eq. 4: d_j' = s (d_j - c d_i) is orthogonal to d_i and of equal length.

        Both are rounded to 9 decimals, as a point's coefficients are.

        Raises:
            UserError: The two are on one line through the base, or one of them is the base (grid.towards).
        """
        first, cross, second = float(self.gram[i, i]), float(self.gram[i, j]), float(self.gram[j, j])
        named = f"[{self.labels[i]}, {self.labels[j]}]"
        if first == 0.0 or second == 0.0:
            raise UserError(
                TOWARDS_FIELD, named, "one of them is the base itself, so the direction has length 0: give another"
            )
        c = cross / first
        left = second - c * cross
        if left <= COLLINEAR * second:
            raise UserError(
                TOWARDS_FIELD, named, "lie on one line through the base and make no plane: give two that differ"
            )
        return round(c, DECIMALS), round(math.sqrt(first / left), DECIMALS)

    def coordinates(self, i: int = 0, j: int = 1) -> Matrix:
        """Return each target's projection on the plane of targets i and j, and its distance from the plane.

        Returns:
            float64[n, 3]: (a, b) for which a d_i + b d_j is nearest to d, and the remaining distance, in units of
            weights.

        Raises:
            UserError: Targets i and j span no plane (grid.towards).
        """
        self.eq4(i, j)
        pair = [i, j]
        solved = np.linalg.solve(self.gram[np.ix_(pair, pair)], self.gram[pair])
        along = np.einsum("kn,kn->n", solved, self.gram[pair])
        return np.column_stack([solved.T, np.sqrt(np.maximum(np.diag(self.gram) - along, 0.0))])

    def principal(self, rank: int = 2) -> tuple[Matrix, Matrix, Matrix]:
        """Return the principal components of a trajectory: the base, then targets 1, ..., n.

        Exact principal component analysis of the n + 1 models as points, from their Gram matrix.

        Returns:
            A tuple: coordinates[n + 1, rank] in units of weights; variance shares[rank]; weights[rank, n + 1]. Axis k
            is the vector sum_i weights[k, i] W_i, which has length one. Each row of weights sums to zero.
        """
        gram = np.pad(self.gram, ((1, 0), (1, 0)))
        n = len(gram)
        centering = np.eye(n) - np.full((n, n), 1 / n)
        values, vectors = np.linalg.eigh(centering @ gram @ centering)
        order = np.argsort(values)[::-1][:rank]
        kept, vectors = np.maximum(values[order], 0.0), vectors[:, order]
        vectors = vectors * np.where(vectors[np.argmax(np.abs(vectors), axis=0), range(len(order))] < 0, -1.0, 1.0)
        roots = np.sqrt(kept)
        total = max(float(np.trace(centering @ gram @ centering)), np.finfo(np.float64).tiny)
        weights = np.divide(vectors, roots, out=np.zeros_like(vectors), where=roots > 0).T
        return vectors * roots, kept / total, weights

    def principal_axes(self) -> tuple[Matrix, Matrix, float]:
        """Return the plane through the base that is nearest, in least squares, to targets 1, ..., n.

        Its axes are the first two principal components of the displacements, as in Li et al. 2018 (arXiv 1712.09913,
        section 7). They are not centered, so that the base is on the plane, at (0, 0).

        Returns:
            A tuple: coordinates[n, 2]; weights[2, n]; the share of the sum of squared displacements that lies in the
            plane. Axis k is the vector sum_i weights[k, i] d_i, orthogonal to the other axis and as long as the last
            displacement.

        Raises:
            UserError: The displacements span no plane (grid.trajectory).
        """
        values, vectors = np.linalg.eigh(self.gram)
        values, vectors = values[::-1], vectors[:, ::-1]
        if len(values) < 2 or values[1] <= COLLINEAR * values[0]:
            named = f"[{', '.join(self.labels)}]"
            raise UserError("grid.trajectory", named, "lies on one line and spans no plane: use grid=interpolate_1d")
        length, pair = float(self.lengths[-1]), vectors[:, :2]
        signs = np.where(pair[-1] < 0, -1.0, 1.0)  # the last target is in the upper right quadrant
        roots = np.sqrt(values[:2])
        return pair * signs * roots / length, (pair * signs / roots).T * length, float(values[:2].sum() / values.sum())


def measure(
    base: MappedCheckpoint,
    targets: Sequence[Target],
    progress: Progress = lambda share: None,
    dtype: DType = "float32",
    block: int = BLOCK,
    exclude: Sequence[str] = ("norm",),
) -> Geometry:
    """Measure the geometry in one pass over the base and all targets.

    Args:
        base: The base.
        targets: The targets.
        progress: Called with the fraction that has been read.
        dtype: The engine's dtype, for `Geometry.rounding`.
        block: Elements per checkpoint that are in memory at once.
        exclude: Random directions do not move tensors whose name contains one of these.

    Raises:
        UserError: A target does not fit the base (grid.towards).
    """
    endpoints = [open_endpoint(target, base) for target in targets]
    infos = [info for info in base.tensors() if info.size]
    gram, errors = np.zeros((len(endpoints), len(endpoints))), np.zeros(len(endpoints))
    squared, moving, done = 0.0, 0.0, 0
    total = sum(info.size for info in infos)
    for info in infos:
        width = info.shape[1] if len(info.shape) == 2 else 1  # whole rows of a matrix, which an adapter can compute
        step = max(1, block // width) * width
        for first in range(0, info.size, step):
            part = _Block(base.base(info.name)[first : first + step], info, first, dtype)
            squared += part.squared
            moving += 0.0 if any(pattern in info.name for pattern in exclude) else part.squared
            if endpoints:
                displacements, added = zip(*(part.displacement(endpoint) for endpoint in endpoints), strict=True)
                stacked = np.stack(displacements)
                gram += stacked @ stacked.T
                errors += added
            done += part.size
            progress(done / total)
        base.release(info.name)
        for endpoint in endpoints:
            endpoint.release(info)
    labels = tuple(t.label or Path(t.path).name for t in targets)
    with np.errstate(invalid="ignore", divide="ignore"):
        rounding = tuple(np.sqrt(errors / np.diag(gram)).tolist())
    return Geometry(labels, gram, math.sqrt(squared), math.sqrt(moving), rounding)


class _Block:
    """Consecutive elements of one tensor of the base: whole rows if it is a matrix."""

    def __init__(self, base: Array, info: TensorInfo, first: int, dtype: DType) -> None:
        self._base, self._info, self._dtype = base, info, dtype
        self._first, self.size = first, len(base)
        self._exact = to_float32(base, info.dtype).astype(np.float64)
        self._held = self._as_held([(1.0, base, info.dtype)])
        self.squared = float(self._exact @ self._exact)

    def displacement(self, endpoint: Endpoint) -> tuple[Matrix, float]:
        """Return (the endpoint minus the base, float64; the squared length of what the engine's rounding adds)."""
        kind = endpoint.dtype(self._info)
        if kind is None:
            return np.zeros_like(self._exact), 0.0
        values = endpoint.values(self._info, self._first, self._first + self.size)
        factor, replaced = endpoint.weigh(self._info, 1.0)
        displacement = factor * to_float32(values, kind).astype(np.float64) - replaced * self._exact
        held = self._as_held([(1.0 - replaced, self._base, self._info.dtype), (factor, values, kind)])
        error = held - self._held - displacement
        return displacement, float(error @ error)

    def _as_held(self, blend: Sequence[tuple[float, Array, DType]]) -> Matrix:
        """Return the weights that the engine holds for a blend, float64."""
        from workers.noise.cpu import write_slab  # numba is slow to import

        held = np.empty(self.size, np.float32 if self._dtype == "float32" else np.uint16)
        write_slab(held, self._base, Slab.whole(self.size), self._info.name, (), self._dtype, self._info.dtype, blend)
        return to_float32(held, self._dtype).astype(np.float64)
