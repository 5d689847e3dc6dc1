"""Write points made of noise alone to a GPU that holds the base: all tensors at once, with a few launches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np
import torch

from orchestrator.sweep.directions import Direction
from orchestrator.sweep.points import Point
from workers.noise.gpu_table import SlabTable
from workers.weights.checkpoint import TensorInfo
from workers.weights.noise_scales import FlatScalars, NoiseScales
from workers.weights.perturbation import Scalars

KEPT = 4  # sets of directions, and directions, whose scalars are kept: the two axes of a plane, and both together

Value = TypeVar("Value")


class NoiseWriter:
    """Table of the slabs of all tensors, with the scalars of the directions of the last points."""

    def __init__(self, tensors: Iterable[TensorInfo], table: SlabTable, device: torch.device) -> None:
        self._tensors, self._table, self._device = list(tensors), table, device
        self._scalars: dict[str, FlatScalars] = {}
        self._scales: dict[str, NoiseScales] = {}

    def write(self, point: Point, scalars: Mapping[str, Scalars], moved: set[str]) -> None:
        """Write the tensors that the point moves or that are in `moved`, which then holds those that the point moves.

        While the write runs it holds both, so that an interrupted write leaves all of them marked.

        Args:
            point: The point.
            scalars: Direction id -> `by_tensor` of its table.
            moved: Names of the tensors that differ from the base.
        """
        directions = [direction for direction, _ in point.coefficients]
        coefficients = [coefficient for _, coefficient in point.coefficients]
        key = " ".join(direction.id for direction in directions)
        scales = _kept(self._scales, key, lambda: self._scales_of(directions, scalars))
        moving = scales.moved()
        before = np.fromiter((info.name in moved for info in self._tensors), bool, len(self._tensors))
        moved |= {self._tensors[i].name for i in np.flatnonzero(moving & ~before)}
        of_tensors, of_rows = scales.of_tensors(coefficients), scales.of_rows(coefficients)
        self._table.write(moving | before, scales.terms, of_tensors, of_rows)
        moved -= {self._tensors[i].name for i in np.flatnonzero(before & ~moving)}

    def _scales_of(self, directions: list[Direction], scalars: Mapping[str, Scalars]) -> NoiseScales:
        def flat(direction: Direction) -> FlatScalars:
            def make() -> FlatScalars:
                return FlatScalars.of(direction, self._tensors, scalars[direction.id], self._device)

            return _kept(self._scalars, direction.id, make)

        return NoiseScales([flat(direction) for direction in directions], self._tensors, self._device)


def _kept(values: dict[str, Value], key: str, make: Callable[[], Value]) -> Value:
    """Return the value of a key, made if it is absent, and forget all but the KEPT values used last."""
    value = values.pop(key) if key in values else make()
    values[key] = value  # last, as the one used last
    for oldest in list(values)[:-KEPT]:
        del values[oldest]
    return value
