"""Directions that are drawn from a seed. Most are noise that is scaled in each unit of the weights."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from orchestrator.sweep import directions
from orchestrator.sweep.directions import Direction, UnitSums
from orchestrator.utils import plugins
from orchestrator.utils.choices import Norm
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.records import check_types

DIRECTION_FIELD = "grid.direction"


class DrawnDirection(Direction):
    """Base class of the directions that are drawn from a seed. `grid.direction` selects one of them.

    Attributes:
        needs_reference: Whether it is made from the displacement of a checkpoint or adapter (`grid.match`).
        needs_adapter: Whether it is made from the factors of an adapter.
    """

    needs_reference: ClassVar[bool] = False
    needs_adapter: ClassVar[bool] = False
    seed: int

    @classmethod
    @abstractmethod
    def draw(
        cls, seed: int, norm: Norm, exclude: tuple[str, ...], orthogonal_to: int | None, reference: str | None
    ) -> Self:
        """Return the direction of a seed.

        Args:
            seed: The seed.
            norm: `grid.norm`.
            exclude: `grid.exclude`.
            orthogonal_to: Seed of the direction of the same kind to which it is orthogonal. None: to none.
            reference: Content hash of the checkpoint or adapter of `grid.match`. None without one.
        """


@dataclass(frozen=True)
class SeededDirection(DrawnDirection):
    """Base class of the directions made of seeded noise.

    Subclasses define `kind` and `factor`. They may narrow `covers` and change `rows`.

    Attributes:
        seed: Seed of the noise (docs/noise.md).
        norm: Scaling of the noise. Under `filter` each row is a scaling unit, otherwise each tensor.
        exclude: Tensors whose names contain one of these strings do not move.
        orthogonal_to: Seed of the direction, of the same kind and with the same norm and exclusions, to which this one
            is made orthogonal. None: to none.
    """

    seed: int
    norm: Norm = Norm.layer
    exclude: tuple[str, ...] = ("norm",)
    orthogonal_to: int | None = None
    fingerprint = None
    reference = None

    @classmethod
    def draw(
        cls, seed: int, norm: Norm, exclude: tuple[str, ...], orthogonal_to: int | None, reference: str | None
    ) -> Self:
        """Return the direction of a seed. There is no reference."""
        assert reference is None, f"a direction of kind {cls.kind} follows no checkpoint"
        return cls(seed, norm, exclude, orthogonal_to)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that identify the direction."""
        return {
            "kind": self.kind,
            "seed": self.seed,
            "norm": str(self.norm),
            "exclude": sorted(self.exclude),
            "orthogonal_to": self.orthogonal_to,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the direction that `to_json` described."""
        fields = value["seed"], Norm(value["norm"]), tuple(value["exclude"]), value["orthogonal_to"]
        return check_types(cls(*fields))

    @property
    def label(self) -> str:  # type: ignore[override]
        """Human-readable name."""
        suffix = "" if self.orthogonal_to is None else f" orthogonal to {self.orthogonal_to}"
        return f"{self.kind.partition('@')[0]} {self.seed} ({self.norm}){suffix}"

    @property
    def needs_scalars(self) -> bool:
        """True: the noise is scaled to the weights."""
        return True

    def covers(self, tensor: str) -> bool:
        """Return whether the tensor's name contains none of the excluded strings."""
        return not any(pattern in tensor for pattern in self.exclude)

    def rows(self, shape: Sequence[int]) -> int | None:
        """Return the size of the first dimension under the norm `filter`, if there are others. None: one unit."""
        return shape[0] if self.norm == Norm.filter and len(shape) >= 2 else None

    @abstractmethod
    def factor(self, sums: UnitSums) -> float:
        """Return the factor on the noise in one unit, without orthogonalization; 0 if the unit does not move.

        It is not called for a unit whose noise is zero. Implementations round each operation once, so that every
        machine gets the same bits.
        """

    def scalars(self, sums: UnitSums) -> tuple[float, float]:
        """Return (on_self, on_other) of one unit.

        An orthogonal direction has the same length, in the direction of z2 - c z1 with c = <z1, z2> / |z1|^2. Each
        square root and quotient is rounded once, so that every machine gets the same result.
        """
        factor = self.factor(sums) if sums.noise else 0.0
        if factor == 0.0:
            return 0.0, 0.0
        if self.orthogonal_to is None or sums.other_noise == 0:
            return factor, 0.0
        left = sums.other_noise * sums.noise - sums.cross * sums.cross  # |z1|^2 |z2 - c z1|^2
        if left == 0:
            return 0.0, 0.0
        factor *= math.sqrt(sums.other_noise * sums.noise / left)
        return factor, -(factor * (sums.cross / sums.other_noise))


def seeded_kind(name: str) -> type[DrawnDirection]:
    """Return the kind with this name that is drawn from a seed; see `directions.get`.

    Raises:
        UserError: (grid.direction) There is none, or its package cannot be used.
    """
    known = [kind for kind in directions.names() if issubclass(directions.get(kind), DrawnDirection)]
    known += plugins.installed(directions.ENTRY_POINTS)
    if name not in known and "@" not in name:
        remedy = f"no such kind of seeded direction{did_you_mean(name, known)} (there are: {', '.join(known)})"
        raise UserError(DIRECTION_FIELD, name, remedy)
    kind = directions.get(name)
    assert issubclass(kind, DrawnDirection)
    return kind
