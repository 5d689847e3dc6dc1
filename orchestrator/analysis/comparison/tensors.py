"""Check that two sweeps move the same tensors, as the stored tables of their random directions show.

Equal seeds are the same direction only in models of one architecture, whose tensors have equal names and shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.directions import Direction

_MOST = 3  # differing tensors that a sentence names


@dataclass(frozen=True)
class Shape:
    """The shape of a tensor, as far as a table of scalars shows it.

    Attributes:
        sizes: The sizes of its dimensions.
        complete: Whether `sizes` has all dimensions. If not, it has the first one (norm `filter`) or none: tables of
            the schema direction/1 hold no shapes.
    """

    sizes: tuple[int, ...]
    complete: bool

    def differs(self, other: Shape) -> bool:
        """Return whether the two shapes are known to differ."""
        if self.complete and other.complete:
            return self.sizes != other.sizes
        return any(a != b for a, b in zip(self.sizes, other.sizes, strict=False))

    def __str__(self) -> str:
        """Return the sizes as text."""
        return " x ".join(map(str, self.sizes)) or "a single number"


@dataclass(frozen=True)
class MovedTensors:
    """The tensors that the random directions of a sweep move.

    Attributes:
        shapes: The shape of each tensor, by its name.
        directions: The directions.
    """

    shapes: Mapping[str, Shape]
    directions: tuple[Direction, ...]

    @property
    def complete(self) -> bool:
        """True if the whole shapes of all tensors are known."""
        return all(shape.complete for shape in self.shapes.values())


def read_moved_tensors(stored: StoredSweep) -> MovedTensors | None:
    """Return the tensors that a sweep's random directions move; None if no table of its directions is stored."""
    directions = stored.sweep.grid.directions_used
    tables = [table for direction in directions if (table := stored.study.directions.read(direction.id)) is not None]
    if not tables:
        return None
    shapes = [item for table in tables for item in _shapes(table)]
    return MovedTensors(dict(sorted(shapes, key=lambda item: item[1].complete)), directions)


def _shapes(table: pa.Table) -> Iterator[tuple[str, Shape]]:
    """Yield the name and the shape of each tensor in a table of scalars."""
    complete = {}
    if "shape" in table.column_names:
        first_units = table.filter(table["shape"].is_valid())
        complete = dict(zip(first_units["tensor"].to_pylist(), first_units["shape"].to_pylist(), strict=True))
    last_rows = table.group_by("tensor").aggregate([("row", "max")])
    for name, last in zip(last_rows["tensor"].to_pylist(), last_rows["row_max"].to_pylist(), strict=True):
        if name in complete:
            yield name, Shape(tuple(complete[name]), True)
        else:
            yield name, Shape(() if last < 0 else (last + 1,), False)


def describe_differences(names: tuple[str, str], one: MovedTensors, two: MovedTensors) -> str | None:
    """Return as text which tensors differ between two sweeps of these names. None if no difference is known.

    Tensors that one of the sweeps excludes from its directions are not compared.
    """
    compared = sorted(
        name for name in {*one.shapes, *two.shapes} if all(d.covers(name) for d in (*one.directions, *two.directions))
    )
    differing = []
    for tensor in compared:
        shapes = one.shapes.get(tensor), two.shapes.get(tensor)
        if shapes[0] is None or shapes[1] is None:
            differing.append(f"{tensor} (only in {names[shapes[0] is None]})")
        elif shapes[0].differs(shapes[1]):
            differing.append(f"{tensor} ({shapes[0]} in {names[0]}, {shapes[1]} in {names[1]})")
    more = len(differing) - _MOST
    return ", ".join(differing[:_MOST]) + (f" and {more} more" if more > 0 else "") or None
