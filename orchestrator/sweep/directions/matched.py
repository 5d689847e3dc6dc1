"""Random directions with the lengths of a checkpoint's or adapter's displacement, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from orchestrator.sweep.directions import NOISE_UNIT, UnitSums
from orchestrator.sweep.directions._seeded import SeededDirection
from orchestrator.utils.choices import Norm
from orchestrator.utils.records import check_types


@dataclass(frozen=True)
class MatchedDirection(SeededDirection):
    """A random direction that moves every tensor as far as a checkpoint or adapter does, at coefficient 1.

    With normal random numbers z and the displacement D of a tensor, d = z |D| / |z| (Frobenius norms). Tensors that the
    checkpoint leaves alone do not move. Nothing else is excluded.

    Attributes:
        reference: Content hash of the checkpoint or adapter.
    """

    kind: ClassVar[str] = "matched"
    needs_reference: ClassVar[bool] = True
    exclude: tuple[str, ...] = ()
    reference: str = ""  # type: ignore[assignment]

    @classmethod
    def draw(
        cls, seed: int, norm: Norm, exclude: tuple[str, ...], orthogonal_to: int | None, reference: str | None
    ) -> Self:
        """Return the direction of a seed. The norm and the exclusions of a grid do not apply."""
        assert reference is not None, "a matched direction needs a checkpoint"
        return cls(seed, orthogonal_to=orthogonal_to, reference=reference)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that identify the direction."""
        return {
            "kind": self.kind,
            "seed": self.seed,
            "orthogonal_to": self.orthogonal_to,
            "reference": self.reference,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the direction that `to_json` described."""
        return check_types(cls(value["seed"], orthogonal_to=value["orthogonal_to"], reference=value["reference"]))

    @property
    def label(self) -> str:  # type: ignore[override]
        """Human-readable name."""
        suffix = "" if self.orthogonal_to is None else f" orthogonal to {self.orthogonal_to}"
        return f"{self.kind} {self.seed}{suffix}"

    def factor(self, sums: UnitSums) -> float:
        """Return |D| / |z|; 0 if the checkpoint does not move the tensor."""
        return math.sqrt(sums.displacement) / (math.sqrt(sums.noise) * NOISE_UNIT)


DIRECTION = MatchedDirection
