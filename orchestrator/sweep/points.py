"""Points in weight space, as immutable values that are identified by their content.

A point is a set of coefficients on directions (`orchestrator.sweep.directions`). A point without coefficients is the
origin, the unperturbed model, so all lines and planes share one origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.sweep import directions
from orchestrator.sweep.directions import Direction
from orchestrator.utils.hashing import content_id

DECIMALS = 9
"""Decimals to which coefficients are rounded."""


@dataclass(frozen=True, slots=True)
class Point:
    """Coefficients on directions, sorted by direction id and rounded to 9 decimals. Zero coefficients are dropped."""

    coefficients: tuple[tuple[Direction, float], ...] = ()
    _id: str = field(default="", init=False, repr=False, compare=False)

    @classmethod
    def from_coefficients(cls, coefficients: Iterable[tuple[Direction, float]]) -> Point:
        """Return the point with these coefficients. Coefficients on the same direction are added."""
        total: dict[Direction, float] = {}
        for direction, coefficient in coefficients:
            total[direction] = total.get(direction, 0.0) + coefficient
        kept = [(d, round(c, DECIMALS)) for d, c in total.items()]
        return cls(tuple(sorted(((d, c) for d, c in kept if c != 0.0), key=lambda term: term[0].id)))

    def to_json(self) -> list[dict[str, Any]]:
        """Return the point as JSON: `[{"direction": {...}, "coefficient": 0.05}, ...]`."""
        return [{"direction": d.to_json(), "coefficient": c} for d, c in self.coefficients]

    @classmethod
    def from_json(cls, value: Iterable[Mapping[str, Any]]) -> Point:
        """Return the point that `to_json` described."""
        return cls.from_coefficients((directions.from_json(term["direction"]), term["coefficient"]) for term in value)

    @property
    def id(self) -> str:
        """Content hash: 16 hexadecimal digits."""
        if not self._id:  # cached without a dictionary: a large grid has a million points
            object.__setattr__(self, "_id", content_id([[d.id, f"{c:.{DECIMALS}f}"] for d, c in self.coefficients]))
        return self._id

    @property
    def is_origin(self) -> bool:
        """True if this is the unperturbed model."""
        return not self.coefficients


ORIGIN = Point()
