"""Where checkpoints and adapters lie around a base: distances, cosines, coordinates on a plane, principal plane.

All of it follows from the Gram matrix of the displacements d_i = W_i - W_0 over the whole model, n x n dot products
that one pass over the files gives: every tensor is read once, a block of it at a time, from the mapped files, in
float64. So the exact principal plane of a trajectory costs no more than the distances do.
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
from workers.noise.definition import Array
from workers.noise.reference import to_float32
from workers.weights.checkpoint import Checkpoint, TensorInfo
from workers.weights.targets import FIELD, CheckpointEnd, End, Target, open_end

BLOCK = 1 << 20  # elements of each checkpoint in memory at once, in float64 (8 MiB each)
SAME_LINE = 1e-6  # sin^2 of the angle under which two directions are one, but for the rounding of stored weights

Matrix = npt.NDArray[np.float64]
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Geometry:
    """The displacements of n targets from the base, as their Gram matrix: gram[i, j] = <d_i, d_j>, float64[n, n].

    base: |W_0|; moved: the same of those tensors alone that random directions move, so that a step of length l is as
    long as a random one of alpha = l / moved (norm: layer). Coordinates on a plane of two targets are coefficients on
    their displacements: they are (1, 0), (0, 1).
    """

    labels: tuple[str, ...]
    gram: Matrix
    base: float
    moved: float = math.nan

    @cached_property
    def lengths(self) -> Matrix:
        """|d_i|, float64[n]."""
        lengths: Matrix = np.sqrt(np.diag(self.gram))
        return lengths

    @cached_property
    def distances(self) -> Matrix:
        """Between all pairs, the base first: float64[n + 1, n + 1]."""
        gram = np.pad(self.gram, ((1, 0), (1, 0)))
        squared = np.diag(gram)
        return np.sqrt(np.maximum(squared[:, None] + squared[None, :] - 2 * gram, 0.0))

    @cached_property
    def cosines(self) -> Matrix:
        """Of the angles between displacements: float64[n, n], NaN beside one of no length."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.gram / np.outer(self.lengths, self.lengths)

    def eq4(self, i: int = 0, j: int = 1) -> tuple[float, float]:
        """(c, s) of Peng et al. 2024, Eq. 4: d_j' = s (d_j - c d_i) is orthogonal to d_i and as long as it.

        Rounded to 9 decimals, as a point's coefficients are. Raises UserError (grid.towards) where the two lie on one
        line through the base, or one of them is the base.
        """
        first, cross, second = float(self.gram[i, i]), float(self.gram[i, j]), float(self.gram[j, j])
        named = f"[{self.labels[i]}, {self.labels[j]}]"
        if first == 0.0 or second == 0.0:
            raise UserError(FIELD, named, "one of them is the base itself, a direction of no length: give another")
        c = cross / first
        left = second - c * cross
        if left <= SAME_LINE * second:
            raise UserError(FIELD, named, "lie on one line through the base and make no plane: give two that differ")
        return round(c, DECIMALS), round(math.sqrt(first / left), DECIMALS)

    def coordinates(self, i: int = 0, j: int = 1) -> Matrix:
        """Each target's projection on the plane of targets i and j, and how far off it it lies: float64[n, 3].

        (a, b) with a d_i + b d_j nearest to d; the third is the distance left, in units of weights.
        Raises UserError (grid.towards) where i and j make no plane.
        """
        self.eq4(i, j)
        pair = [i, j]
        solved = np.linalg.solve(self.gram[np.ix_(pair, pair)], self.gram[pair])
        along = np.einsum("kn,kn->n", solved, self.gram[pair])
        return np.column_stack([solved.T, np.sqrt(np.maximum(np.diag(self.gram) - along, 0.0))])

    def principal(self, rank: int = 2) -> tuple[Matrix, Matrix, Matrix]:
        """(coordinates[n + 1, rank], variance shares[rank], weights[rank, n + 1]) of the trajectory base, 1, ..., n.

        Principal component analysis of the n + 1 models as points, exact, from their Gram matrix: coordinates are in
        units of weights; axis k is sum_i weights[k, i] W_i, of length one (each row of weights sums to zero).
        """
        gram = np.pad(self.gram, ((1, 0), (1, 0)))
        n = len(gram)
        centred = np.eye(n) - np.full((n, n), 1 / n)
        values, vectors = np.linalg.eigh(centred @ gram @ centred)
        order = np.argsort(values)[::-1][:rank]
        kept, vectors = np.maximum(values[order], 0.0), vectors[:, order]
        vectors = vectors * np.where(vectors[np.argmax(np.abs(vectors), axis=0), range(len(order))] < 0, -1.0, 1.0)
        roots = np.sqrt(kept)
        total = max(float(np.trace(centred @ gram @ centred)), np.finfo(np.float64).tiny)
        weights = np.divide(vectors, roots, out=np.zeros_like(vectors), where=roots > 0).T
        return vectors * roots, kept / total, weights

    def principal_axes(self) -> tuple[Matrix, Matrix, float]:
        """(coordinates[n, 2], weights[2, n], share) of the plane through the base nearest to the trajectory 1, ..., n.

        As Li et al. 2018 (arXiv 1712.09913, section 7) take it: the two principal components of the displacements,
        not centred, so that the base is on the plane, at (0, 0). Axis k is sum_i weights[k, i] d_i, orthogonal to the
        other, and as long as the last displacement; `share` of the displacements' squares lies in the plane.
        Raises UserError (grid.trajectory) where they span no plane.
        """
        values, vectors = np.linalg.eigh(self.gram)
        values, vectors = values[::-1], vectors[:, ::-1]
        if len(values) < 2 or values[1] <= SAME_LINE * values[0]:
            named = f"[{', '.join(self.labels)}]"
            raise UserError("grid.trajectory", named, "lies on one line and spans no plane: use grid=interpolate_1d")
        length, pair = float(self.lengths[-1]), vectors[:, :2]
        signs = np.where(pair[-1] < 0, -1.0, 1.0)  # the end is upwards and to the right
        roots = np.sqrt(values[:2])
        return pair * signs * roots / length, (pair * signs / roots).T * length, float(values[:2].sum() / values.sum())


def measure(
    base: Checkpoint,
    targets: Sequence[Target],
    progress: Progress = lambda share: None,
    block: int = BLOCK,
    exclude: Sequence[str] = ("norm",),
) -> Geometry:
    """One pass over the base and all targets, `block` elements of each in memory at once. `progress` hears the share.

    `exclude`: random directions leave tensors alone whose name contains one of these.

    Raises UserError (grid.towards) for a target that doesn't fit the base.
    """
    ends = [open_end(target, base) for target in targets]
    infos = [info for info in base.tensors() if info.size]
    gram, squared, moving, done = np.zeros((len(ends), len(ends))), 0.0, 0.0, 0
    total = sum(info.size for info in infos)
    for info in infos:
        whole = base.base(info.name)
        width = info.shape[1] if len(info.shape) == 2 else 1  # of a matrix whole rows: what an adapter makes
        step = max(1, block // width) * width
        for first in range(0, info.size, step):
            last = min(info.size, first + step)
            own = to_float32(whole[first:last], info.dtype).astype(np.float64)
            squared += float(own @ own)
            moving += 0.0 if any(pattern in info.name for pattern in exclude) else float(own @ own)
            moved = np.stack([_displacement(end, info, own, first, last) for end in ends]) if ends else np.zeros((0, 1))
            gram += moved @ moved.T
            done += own.size
            progress(done / total)
        base.release(info.name)
        for end in ends:
            if isinstance(end, CheckpointEnd):
                end.checkpoint.release(info.name)
    labels = tuple(t.label or Path(t.path).name for t in targets)
    return Geometry(labels, gram, math.sqrt(squared), math.sqrt(moving))


def _displacement(end: End, info: TensorInfo, own: Matrix, first: int, last: int) -> Matrix:
    """Elements first..last-1 of the end less the base's (`own`), float64: of an adapter's matrix whole rows."""
    dtype = end.dtype(info)
    if dtype is None:
        return np.zeros_like(own)
    if isinstance(end, CheckpointEnd):
        found: Array = end.checkpoint.base(info.name)[first:last]
    else:
        found = end.rows(info, first // info.shape[1], last // info.shape[1])
    return to_float32(found, dtype).astype(np.float64) - own
