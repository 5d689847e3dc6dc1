"""Write points made of noise alone to a GPU that holds the base: all tensors at once, with a few launches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from orchestrator.sweep.points import Point
from workers.noise.gpu_table import SlabTable
from workers.weights.checkpoint import TensorInfo
from workers.weights.perturbation import NoiseScales, Scalars

KEPT = 4  # sets of directions whose scalars are kept: the two axes of a plane, and both together


class NoiseWriter:
    """Table of the slabs of all tensors, with the scalars of the directions of the last points."""

    def __init__(self, tensors: Iterable[TensorInfo], table: SlabTable) -> None:
        self._tensors, self._table = list(tensors), table
        self._scales: dict[tuple[str, ...], NoiseScales] = {}

    def write(self, point: Point, scalars: Mapping[str, Scalars], moved: set[str]) -> None:
        """Write the tensors that the point moves or that are in `moved`, which then holds those that the point moves.

        While the write runs it holds both, so that an interrupted write leaves all of them marked.

        Args:
            point: The point.
            scalars: Direction id -> `by_tensor` of its table.
            moved: Names of the tensors that differ from the base.
        """
        scales = self._scales_of(point, scalars)
        values = self._table.new_scales(scales.size)
        scales.fill(values.numpy(), [coefficient for _, coefficient in point.coefficients])
        moving = scales.moved()
        before = np.fromiter((info.name in moved for info in self._tensors), bool, len(self._tensors))
        moved |= {self._tensors[i].name for i in np.flatnonzero(moving)}
        self._table.write(moving | before, scales.terms, values)
        moved -= {self._tensors[i].name for i in np.flatnonzero(before & ~moving)}

    def _scales_of(self, point: Point, scalars: Mapping[str, Scalars]) -> NoiseScales:
        key = tuple(direction.id for direction, _ in point.coefficients)
        scales = self._scales.pop(key, None)
        if scales is None:
            scales = NoiseScales([direction for direction, _ in point.coefficients], self._tensors, scalars)
        self._scales[key] = scales  # last, as the one used last
        for oldest in list(self._scales)[:-KEPT]:
            del self._scales[oldest]
        return scales
