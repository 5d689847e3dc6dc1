"""Scalars of directions on all tensors of a GPU, and the scales that a write computes from them.

The filter norm gives every row of a matrix a scale, which makes tens of millions for a mixture of experts. So scalars
are copied to the GPU once per direction, and the scales of rows are computed there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from orchestrator.sweep.directions import Direction
from workers.noise import gpu
from workers.noise.definition import SeedTerms
from workers.weights.checkpoint import TensorInfo
from workers.weights.perturbation import Scalars, seeds_of

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SeedScalars:
    """Scalars of one direction on one seed, tensor after tensor.

    Attributes:
        first: float64[tensors], the first scalar of each tensor.
        flat: All scalars, float64 on the device.
        moves: bool[tensors], whether any scalar of a tensor is not zero.
    """

    first: F64
    flat: torch.Tensor
    moves: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class FlatScalars:
    """Scalars of one direction on all tensors. Those that it does not cover have a single scalar of zero.

    Attributes:
        units: int64[tensors], the number of scalars of each tensor on each seed.
        by_seed: The scalars on each seed of the direction.
    """

    units: I64
    by_seed: dict[int, SeedScalars]

    @classmethod
    def of(
        cls, direction: Direction, tensors: Sequence[TensorInfo], scalars: Scalars, device: torch.device
    ) -> FlatScalars:
        """Arrange the scalars of a direction made of noise.

        Args:
            direction: The direction.
            tensors: The tensors. None is empty.
            scalars: `by_tensor` of its table.
            device: The device of the weights.
        """
        seed, other = seeds_of(direction)
        nothing = np.zeros(1)
        pairs = [scalars[t.name] if direction.covers(t.name) else (nothing, nothing) for t in tensors]
        units = np.array([len(on_self) for on_self, _ in pairs], np.int64)
        for tensor, count in zip(tensors, units.tolist(), strict=True):
            expected = direction.rows(tensor.shape) if direction.covers(tensor.name) else None
            assert count == (expected or 1), f"{tensor.name}: the scalars belong to another shape"
        starts = np.cumsum(units) - units

        def on_seed(arrays: Iterator[F64]) -> SeedScalars:
            flat = np.concatenate(list(arrays))
            moves = np.logical_or.reduceat(flat != 0, starts)
            return SeedScalars(flat[starts], torch.from_numpy(flat).to(device), moves)

        by_seed = {seed: on_seed(on_self for on_self, _ in pairs)}
        if other is not None:
            by_seed[other] = on_seed(on_other for _, on_other in pairs)
        return cls(units, by_seed)


class NoiseScales:
    """Scalars of several directions by seed, from which the scales of a point are computed with its coefficients.

    Attributes:
        terms: The terms of each seed, sorted by seed. Their scales of rows follow one another.
    """

    def __init__(self, parts: Sequence[FlatScalars], tensors: Sequence[TensorInfo], device: torch.device) -> None:
        """Arrange the scalars of all directions by seed.

        Args:
            parts: The scalars of directions made of noise, in the order of the directions' ids.
            tensors: The tensors.
            device: The device of the weights.
        """
        self._device = device
        sizes = np.array([tensor.size for tensor in tensors], np.int64)
        self.terms: list[SeedTerms] = []
        self._size = 0
        self._summands: list[list[tuple[int, F64, torch.Tensor]]] = []  # of each seed: (direction, first, flat)
        self._moves = np.zeros(len(tensors), bool)
        for seed in sorted({seed for part in parts for seed in part.by_seed}):
            holders = [(i, part, part.by_seed[seed]) for i, part in enumerate(parts) if seed in part.by_seed]
            units = np.max([part.units for _, part, _ in holders], axis=0)
            starts = self._size + np.concatenate([[0], np.cumsum(units)])
            self._size = int(starts[-1])
            self.terms.append(SeedTerms(seed, starts, sizes // units))
            self._summands.append([(i, own.first, _repeated(own.flat, part.units, units)) for i, part, own in holders])
            for _, _, own in holders:
                self._moves |= own.moves
        self._has_rows = self._size > len(self.terms) * len(tensors)  # more scales than one per term and tensor

    def moved(self) -> npt.NDArray[np.bool_]:
        """Return bool[tensors]: False where every scale is zero, whatever the coefficients."""
        return self._moves

    def of_tensors(self, coefficients: Sequence[float]) -> list[npt.NDArray[np.float32]]:
        """Return float32[tensors] for each term: the scale of each tensor, or of its first row if its rows have scales.

        The bits are those of `perturbation.terms`.

        Args:
            coefficients: One for each direction.
        """
        scales = []
        for summands in self._summands:
            total = np.asarray(sum(coefficients[i] * first for i, first, _ in summands), np.float64)
            scales.append(total.astype(np.float32))
        return scales

    def of_rows(self, coefficients: Sequence[float]) -> torch.Tensor | None:
        """Return the scales of all terms on the device, float32, at the places of `terms`; None if there are no rows.

        Args:
            coefficients: One for each direction.
        """
        if not self._has_rows:
            return None
        scales = torch.empty(self._size, dtype=torch.float32, device=self._device)
        for term, summands in zip(self.terms, self._summands, strict=True):
            total = scales[int(term.starts[0]) : int(term.starts[-1])]
            gpu.weighted_sum(total, [(coefficients[i], flat) for i, _, flat in summands])
        return scales


def _repeated(flat: torch.Tensor, units: I64, wanted: I64) -> torch.Tensor:
    """Return scalars with as many units of each tensor as wanted: a single one holds for all of them."""
    if np.array_equal(units, wanted):
        return flat
    times = np.repeat(np.where(units == wanted, 1, wanted), units)
    return flat.repeat_interleave(torch.from_numpy(times).to(flat.device))
