"""Directions from the base to a checkpoint or adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from orchestrator.sweep.directions import Direction
from orchestrator.utils.records import check_types


@dataclass(frozen=True)
class TowardsDirection(Direction):
    """The direction from the base to a checkpoint or adapter (docs/weights.md). Coefficient 1 is that checkpoint.

    Attributes:
        fingerprint: Content hash of the checkpoint or adapter.
        label: Human-readable name, which is not part of the identity.
    """

    kind: ClassVar[str] = "towards"
    fingerprint: str
    label: str = field(default="", compare=False)
    seed = None
    orthogonal_to = None
    reference = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields that identify the direction."""
        return {"kind": self.kind, "fingerprint": self.fingerprint}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the direction that `to_json` described, without a label."""
        return check_types(cls(value["fingerprint"]))


DIRECTION = TowardsDirection
