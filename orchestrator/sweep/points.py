"""Where the model stands: coefficients on directions. Pure values, named by their content.

A direction is a movement in weight space; a point is a set of coefficients on directions. No
coefficient at all is the origin, the unperturbed model, so every line and plane shares one origin.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.utils.choices import Norm
from orchestrator.utils.hashing import content_id

DECIMALS = 9


@dataclass(frozen=True)
class RandomDirection:
    """A seeded random direction: d = z |W| / |z| for each tensor (`layer`; Peng et al. 2024, Eq. 2),
    for each output row (`filter`; Li et al. 2018), or plain z (`sigma`).

    `exclude`: tensors whose name contains one of these stay as they are.
    `orthogonal_to`: the seed of the random direction (same norm and exclusions) this one is made orthogonal to.
    """

    seed: int
    norm: Norm = Norm.layer
    exclude: tuple[str, ...] = ("norm",)
    orthogonal_to: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields that are its identity."""
        return {
            "kind": "random",
            "seed": self.seed,
            "norm": str(self.norm),
            "exclude": sorted(self.exclude),
            "orthogonal_to": self.orthogonal_to,
        }

    @functools.cached_property
    def id(self) -> str:
        return content_id(self.to_json())

    @property
    def label(self) -> str:
        """For people."""
        beside = f" orthogonal to {self.orthogonal_to}" if self.orthogonal_to is not None else ""
        return f"random {self.seed} ({self.norm}){beside}"

    def covers(self, tensor: str) -> bool:
        """Whether this direction moves the tensor of that name."""
        return not any(pattern in tensor for pattern in self.exclude)


@dataclass(frozen=True)
class TowardsDirection:
    """The way from the base to a checkpoint or adapter: coefficient 1 is that checkpoint to the bit.

    `fingerprint` names the target's content; `label` is for people and in no identity.
    """

    fingerprint: str
    label: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        """The fields that are its identity."""
        return {"kind": "towards", "fingerprint": self.fingerprint}

    @functools.cached_property
    def id(self) -> str:
        return content_id(self.to_json())


Direction = RandomDirection | TowardsDirection


def direction_from_json(value: Mapping[str, Any]) -> Direction:
    """The direction that `to_json` described. Raises ValueError on any other kind."""
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
    """Coefficients on directions, sorted by direction id, rounded to 9 decimals, zeros dropped."""

    coefficients: tuple[tuple[Direction, float], ...] = ()
    _id: str = field(default="", init=False, repr=False, compare=False)

    @classmethod
    def at(cls, coefficients: Iterable[tuple[Direction, float]]) -> Point:
        """The point with these coefficients; those on the same direction add up."""
        total: dict[Direction, float] = {}
        for direction, coefficient in coefficients:
            total[direction] = total.get(direction, 0.0) + coefficient
        kept = [(d, round(c, DECIMALS)) for d, c in total.items()]
        return cls(tuple(sorted(((d, c) for d, c in kept if c != 0.0), key=lambda term: term[0].id)))

    def to_json(self) -> list[dict[str, Any]]:
        """Readable, and enough to go there again: `[{"direction": {...}, "coefficient": 0.05}, ...]`."""
        return [{"direction": d.to_json(), "coefficient": c} for d, c in self.coefficients]

    @classmethod
    def from_json(cls, value: Iterable[Mapping[str, Any]]) -> Point:
        """The point that `to_json` described."""
        return cls.at((direction_from_json(term["direction"]), term["coefficient"]) for term in value)

    @property
    def id(self) -> str:
        if not self._id:  # kept without a dictionary: a large grid has a million points
            object.__setattr__(self, "_id", content_id([[d.id, f"{c:.{DECIMALS}f}"] for d, c in self.coefficients]))
        return self._id

    @property
    def is_origin(self) -> bool:
        return not self.coefficients


ORIGIN = Point()
