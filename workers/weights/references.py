"""Directions that are made from the displacement of a checkpoint or adapter: how long they are, and which weights move.

The displacement D of a checkpoint is W1 - W0, and that of an adapter s B A (docs/noise.md, "Like a checkpoint").
"""

from __future__ import annotations

import math
from collections.abc import Callable

from orchestrator.sweep.directions import Direction
from workers.noise.reference import to_float32
from workers.weights.checkpoint import MappedCheckpoint, TensorInfo
from workers.weights.targets import AdapterEndpoint, Endpoint, Factors

BLOCK = 1 << 24  # elements of which the squared length is summed at once; part of the definition of `squared_length`


class RearrangedAdapter(AdapterEndpoint):
    """Endpoint of a direction that changes the factors of an adapter (`Direction.rearrange`)."""

    def __init__(self, adapter: Endpoint, direction: Direction) -> None:
        assert isinstance(adapter, AdapterEndpoint), f"{direction.label} is made from an adapter, not a checkpoint"
        self.factors = {
            name: Factors(*direction.rearrange(name, factors.a, factors.b), factors.scale)
            for name, factors in adapter.factors.items()
        }


def displacement_of(endpoint: Endpoint, base: MappedCheckpoint) -> Callable[[str], float]:
    """Return the function from a tensor's name to |D|^2 that `perturbation.measure` takes."""
    return lambda name: squared_length(endpoint, base, base[name])


def squared_length(endpoint: Endpoint, base: MappedCheckpoint, info: TensorInfo) -> float:
    """Return |D|^2 of one tensor, in float64; 0 if the endpoint does not move it.

    The elements of W1 - W0, or of B A, are rounded to float32. The squares are summed in float64 over blocks of 2^24
    elements (or the next smaller number of whole rows), each as docs/noise.md sums |W|^2; the blocks are added exactly
    and rounded once. The sum of an adapter is then multiplied by s^2.
    """
    from workers.noise.cpu import square_sums

    dtype = endpoint.dtype(info)
    if dtype is None or not info.size:
        return 0.0
    factor, replaced = endpoint.weigh(info, 1.0)
    width = info.shape[-1] if len(info.shape) == 2 else 1
    step = max(1, BLOCK // width) * width
    sums = []
    for first in range(0, info.size, step):
        last = min(info.size, first + step)
        moved = to_float32(endpoint.values(info, first, last), dtype)
        if replaced:
            moved = moved - to_float32(base.base(info.name)[first:last], info.dtype)
        sums += square_sums(moved, "float32").tolist()
    endpoint.release(info)
    return factor * factor * math.fsum(sums)
