"""Directions and points in weight space, as immutable values that are identified by their content.

A direction is a movement in weight space; a point is a set of coefficients on directions. A point without coefficients
is the origin, the unperturbed model, so all lines and planes share one origin.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.utils.choices import Norm
from orchestrator.utils.hashing import content_id

DECIMALS = 9
"""Decimals to which coefficients are rounded."""


@dataclass(frozen=True)
class RandomDirection:
    """A seeded random direction, normalized to the weights.

    With normal random numbers z and weights W, the direction is d = z |W| / |z| for each tensor (norm `layer`; Peng et
    al. 2024, arXiv 2405.17374, Eq. 2), the same for each output row (`filter`; Li et al. 2018, arXiv 1712.09913), or
    plain z (`sigma`).

    Attributes:
        seed: Seed of the random numbers (docs/noise.md).
        norm: Scaling of the random numbers.
        exclude: Tensors whose names contain one of these strings do not move.
        orthogonal_to: Seed of the random direction, with the same norm and exclusions, to which this one is made
            orthogonal. None: to none.
    """

    seed: int
    norm: Norm = Norm.layer
    exclude: tuple[str, ...] = ("norm",)
    orthogonal_to: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are its identity."""
        return {
            "kind": "random",
            "seed": self.seed,
            "norm": str(self.norm),
            "exclude": sorted(self.exclude),
            "orthogonal_to": self.orthogonal_to,
        }

    @functools.cached_property
    def id(self) -> str:
        """Content hash: 16 hexadecimal digits."""
        return content_id(self.to_json())

    @property
    def label(self) -> str:
        """Human-readable name."""
        suffix = "" if self.orthogonal_to is None else f" orthogonal to {self.orthogonal_to}"
        return f"random {self.seed} ({self.norm}){suffix}"

    def covers(self, tensor: str) -> bool:
        """Return whether this direction moves the tensor of that name."""
        return not any(pattern in tensor for pattern in self.exclude)


@dataclass(frozen=True)
class TowardsDirection:
    """The direction from the base to a checkpoint or adapter. Coefficient 1 is that checkpoint, bit for bit.

    Attributes:
        fingerprint: Content hash of the checkpoint or adapter.
        label: Human-readable name, which is not part of the identity.
    """

    fingerprint: str
    label: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are its identity."""
        return {"kind": "towards", "fingerprint": self.fingerprint}

    @functools.cached_property
    def id(self) -> str:
        """Content hash: 16 hexadecimal digits."""
        return content_id(self.to_json())


Direction = RandomDirection | TowardsDirection


def direction_from_json(value: Mapping[str, Any]) -> Direction:
    """Return the direction that `to_json` described. Raises ValueError for an unknown kind."""
    match value["kind"]:
        case "random":
            return RandomDirection(
                seed=int(value["seed"]),
                norm=Norm(value["norm"]),
                exclude=tuple(value["exclude"]),
                orthogonal_to=value["orthogonal_to"],
            )
        case "towards":
            return TowardsDirection(value["fingerprint"])
        case kind:
            raise ValueError(f"unknown kind of direction: {kind}")


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
        return cls.from_coefficients((direction_from_json(term["direction"]), term["coefficient"]) for term in value)

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
