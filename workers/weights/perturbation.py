"""Scalars of random directions: measured once per checkpoint, turned into noise terms at each point.

In each scaling unit a random direction is d = on_self z(seed) + on_other z(orthogonal_to), where z is the noise of a
seed (docs/noise.md) and on_self and on_other are the unit's scalars. A unit is a tensor (norms `layer` and `sigma`) or
a row of its first dimension (norm `filter`; a tensor with fewer than two dimensions is one unit). With z2 the noise of
the direction's seed and z1 the noise of the seed to which the direction is orthogonal:

    layer, filter   d = |W| / |z2| z2        (Peng et al. 2024, Eq. 2; Li et al. 2018)
    sigma           d = z2
    orthogonal      z2 is first replaced by (z2 - c z1) |z2| / |z2 - c z1|, c = <z1, z2> / |z1|^2

The formulas and units are those of the kind `random`; a kind in `orchestrator.sweep.directions` may define others.

A unit whose weights are all zero does not move. Neither does a unit in which z2 is a multiple of z1, such as a unit of
one element in an orthogonal direction. Sums over z are exact integers; |W|^2 is summed in float64 in fixed blocks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from orchestrator.sweep.directions import Direction, UnitSums
from orchestrator.sweep.points import DECIMALS, Point
from workers.noise.definition import Array, DType, Term
from workers.weights.checkpoint import TensorInfo
from workers.weights.targets import Endpoint

if TYPE_CHECKING:
    import pyarrow as pa  # only tables need it

Scalars = Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]


@functools.cache
def schema() -> pa.Schema:
    """Return the schema of a table of scalars."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("tensor", pa.string(), nullable=False),
            pa.field("row", pa.int32(), nullable=False),  # -1: the tensor is one unit
            pa.field("on_self", pa.float64(), nullable=False),
            pa.field("on_other", pa.float64(), nullable=False),
            pa.field("shape", pa.list_(pa.int64())),  # of the tensor, in its first unit; null in its other ones
        ]
    )


def measure(
    direction: Direction,
    tensors: Iterable[tuple[str, Array, Sequence[int], DType]],
    displacement: Callable[[str], float] = lambda name: 0.0,
) -> pa.Table:
    """Measure the scalars of a direction in one pass over the weights, without a copy of them.

    The result does not depend on the number of threads.

    Args:
        direction: The direction to measure.
        tensors: (name, flat array, shape, dtype) of each tensor, bfloat16 as uint16 bits.
        displacement: Returns |D|^2 of the tensor of that name. D is the displacement of the direction's reference.

    Returns:
        A table of `schema` with one row per unit, in the order of the tensors. Excluded and empty tensors have none.
    """
    import pyarrow as pa

    return pa.table(measure_columns(direction, tensors, displacement), schema=schema())


def measure_columns(
    direction: Direction,
    tensors: Iterable[tuple[str, Array, Sequence[int], DType]],
    displacement: Callable[[str], float] = lambda name: 0.0,
) -> list[Sequence[Any]]:
    """Return the columns of the table that `measure` returns."""
    from workers.noise.cpu import row_sums, square_sums, sums  # `terms` does not need numba, which is slow to import

    names: list[str] = []
    rows: list[int] = []
    scalars: list[tuple[float, float]] = []
    shapes: list[list[int] | None] = []
    seed, other = seeds_of(direction)
    for name, array, shape, dtype in tensors:
        n = math.prod(shape)
        assert array.size == n, f"{name}: {array.size} elements do not make the shape {tuple(shape)}"
        if n == 0 or not direction.covers(name):
            continue
        parts = direction.rows(shape)
        squared = square_sums(array, dtype, parts or 1).tolist()
        if parts is None:
            unit_sums = [sums(seed, name, n, other)]
        else:
            rows_of_sums = row_sums(seed, name, parts, n // parts, other).tolist()
            unit_sums = [(a, b, c) for a, b, c in rows_of_sums]
        size, moved = n // (parts or 1), displacement(name)
        scalars += [
            direction.scalars(UnitSums(size, w, *s, displacement=moved))
            for w, s in zip(squared, unit_sums, strict=True)
        ]
        names += [name] * len(unit_sums)
        rows += [-1] if parts is None else range(parts)
        shapes += [list(shape), *[None] * (len(unit_sums) - 1)]
    on_self, on_other = zip(*scalars, strict=True) if scalars else ((), ())
    return [names, rows, on_self, on_other, shapes]


def seeds_of(direction: Direction) -> tuple[int, int | None]:
    """Return the seeds of a direction's noise: its own, and the one to which it is orthogonal."""
    assert direction.seed is not None, f"{direction.label} has no noise"
    return direction.seed, direction.orthogonal_to


def by_tensor(table: pa.Table) -> Scalars:
    """Index the scalars for `terms`: tensor -> (on_self, on_other), float64 arrays of one element or one per row."""
    import pyarrow.compute as pc

    names, rows = table["tensor"], table["row"].to_numpy()
    on_self, on_other = table["on_self"].to_numpy(), table["on_other"].to_numpy()
    is_first = pc.not_equal(names.slice(1), names.slice(0, max(0, len(names) - 1))).to_numpy()
    starts = np.concatenate([[0] * (len(rows) > 0), np.flatnonzero(is_first) + 1]).astype(np.int64)
    lengths = np.diff(starts, append=len(rows))
    expected = np.arange(len(rows)) - np.repeat(starts, lengths)
    expected[starts[(rows[starts] == -1) & (lengths == 1)]] = -1  # the tensor is one unit
    wrong = np.flatnonzero(rows != expected)
    assert not len(wrong), f"scalars of {names[int(wrong[0])]} are not in the order of measurement"
    first_names = names.take(starts).to_pylist()
    assert len(set(first_names)) == len(starts), "scalars of a tensor are in two places"
    spans = (slice(start, start + length) for start, length in zip(starts.tolist(), lengths.tolist(), strict=True))
    return {name: (on_self[span], on_other[span]) for name, span in zip(first_names, spans, strict=True)}


def indexed(scalars: pa.Table | Scalars) -> Scalars:
    """Return the scalars of a direction by tensor, of a table or as they are."""
    return scalars if isinstance(scalars, Mapping) else by_tensor(scalars)


def blend(point: Point, info: TensorInfo, endpoints: Mapping[str, Endpoint]) -> list[tuple[float, Endpoint | None]]:
    """Return the weighted sum to which noise is added: (factor, endpoint) pairs, the base (None) first.

    Endpoints are in the order of direction ids; those that do not change this tensor are left out. A checkpoint's
    factor is its coefficient c, an adapter's is c s (docs/weights.md). The factor of the base is one minus the
    coefficients of the checkpoints, rounded to 9 decimals as a point's coefficients are. If it is zero, the base is
    left out. The list is empty if only the base is left.
    """
    parts: list[tuple[float, Endpoint | None]] = []
    rest = 1.0
    for direction, coefficient in point.coefficients:
        endpoint = None if direction.endpoint is None else endpoints[direction.endpoint]
        if endpoint is not None and endpoint.dtype(info) is not None:
            factor, replaced = endpoint.weigh(info, coefficient)
            parts.append((factor, endpoint))
            rest -= replaced
    rest = round(rest, DECIMALS)
    return [(rest, None), *parts] if parts and rest else parts


def terms(point: Point, name: str, shape: Sequence[int], scalars: Mapping[str, pa.Table | Scalars]) -> list[Term]:
    """Return the noise terms that the point's seeded directions add to one tensor, sorted by seed.

    Coefficients are multiplied in float64; terms of equal seed are added in float64 in the order of direction ids and
    rounded to float32 once. Terms that are zero everywhere are left out.

    Args:
        point: The point.
        name: The tensor's name.
        shape: The tensor's shape.
        scalars: Direction id -> its table, or `by_tensor` of it (faster for many tensors).
    """
    total: dict[int, npt.NDArray[np.float64]] = {}
    for direction, coefficient in point.coefficients:
        if not direction.needs_scalars or not direction.covers(name) or math.prod(shape) == 0:
            continue
        seed, other = seeds_of(direction)
        on_self, on_other = indexed(scalars[direction.id])[name]
        assert len(on_self) == (direction.rows(shape) or 1), f"{name}: the scalars belong to another shape"
        total[seed] = total.get(seed, np.float64(0)) + coefficient * on_self
        if other is not None:
            total[other] = total.get(other, np.float64(0)) + coefficient * on_other
    n = math.prod(shape)
    rounded = {seed: scale.astype(np.float32) for seed, scale in total.items()}
    return [Term(seed, rounded[seed], n // len(rounded[seed])) for seed in sorted(rounded) if np.any(rounded[seed])]
