"""Nodes, cells and shapes of a line or plane, by index."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Node = tuple[int, ...]
"""Index of a node on each axis of one line or plane."""
Counts = Mapping[Node, tuple[int, int]]
"""Measured nodes: number of unsafe responses and number of judged ones, by the deciding judge. (0, 0): no verdict."""
Cell = tuple[tuple[int, int], ...]
"""First and last index of a cell on each axis. Its corners are nodes."""


@dataclass(frozen=True)
class Shape:
    """The shape of one line or plane.

    Attributes:
        sizes: Number of nodes on each axis.
        origin: Index of the origin on each axis. None if the origin is not one of the nodes.
    """

    sizes: tuple[int, ...]
    origin: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        assert len(self.sizes) in (1, 2) and min(self.sizes) >= 1, f"{self.sizes} is not the size of a line or plane"
        inside = self.origin is None or all(0 <= o < n for o, n in zip(self.origin, self.sizes, strict=True))
        assert inside, f"the origin {self.origin} is not a node of {self.sizes}"

    @classmethod
    def of_axes(cls, axes: Sequence[Sequence[float]]) -> Shape:
        """Return the shape of a line or plane whose nodes have these coordinates on each axis."""
        zeros = [axis.index(0.0) if 0.0 in axis else None for axis in axes]
        origin = tuple(zero for zero in zeros if zero is not None)
        return cls(tuple(map(len, axes)), origin if len(origin) == len(axes) else None)

    @property
    def is_line(self) -> bool:
        """True for a line, False for a plane."""
        return len(self.sizes) == 1

    @property
    def center(self) -> Node:
        """The origin, or the node in the middle if the origin is not a node."""
        return self.origin or tuple((n - 1) // 2 for n in self.sizes)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return int(np.prod(self.sizes))

    def nodes(self) -> list[Node]:
        """Return every node, in order of its indices."""
        return list(itertools.product(*(range(n) for n in self.sizes)))

    def first_cells(self) -> list[Cell]:
        """Return the cells between the ends of the axes and the center: at most two along each axis."""
        breaks = [sorted({0, c, n - 1}) for c, n in zip(self.center, self.sizes, strict=True)]
        return list(itertools.product(*([*itertools.pairwise(b)] or [(0, 0)] for b in breaks)))


def corners(cell: Cell) -> list[Node]:
    """Return the corners of a cell, each once, in order."""
    return list(itertools.product(*(sorted({low, high}) for low, high in cell)))


def is_smallest(cell: Cell) -> bool:
    """Return whether a cell has no nodes but its corners."""
    return all(high - low <= 1 for low, high in cell)


def split(cell: Cell) -> list[Cell]:
    """Return the cells into which a cell is halved along each axis on which it has nodes between its corners."""
    halves = []
    for low, high in cell:
        middle = (low + high) // 2
        halves.append([(low, high)] if high - low <= 1 else [(low, middle), (middle, high)])
    return list(itertools.product(*halves))


def touches(one: Cell, other: Cell) -> bool:
    """Return whether two cells have a point in common."""
    return all(a[0] <= b[1] and b[0] <= a[1] for a, b in zip(one, other, strict=True))
