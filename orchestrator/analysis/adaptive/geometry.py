"""Nodes and shapes of a line or plane, by index."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Node = tuple[int, ...]
"""Index of a node on each axis of one line or plane."""
Counts = Mapping[Node, tuple[int, int]]
"""Measured nodes: number of unsafe responses and number of judged ones, by the deciding judge. (0, 0): no verdict."""


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
