"""How far the checkpoints of a sweep are from its model: recorded when a sweep is prepared, read when it is reduced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TargetGeometry:
    """Lengths in weight space (Euclidean norms over all tensors), stored as `around` in sweep.json.

    Attributes:
        base_norm: Norm of the base model's weights.
        moved_norm: The same of those tensors that random directions move. A displacement of length l is as long as a
            random direction at alpha = l / moved_norm. 0 if all tensors are excluded.
        lengths: Distance of each target from the base, by the target's fingerprint.
        plane_share: Share of the trajectory's squared displacements that lies in its principal plane. None: the grid
            is not such a plane.
        recipes: Label of a target -> the recipe that trained it, for targets that are the end of a trained trajectory.
    """

    base_norm: float
    moved_norm: float
    lengths: Mapping[str, float]
    plane_share: float | None = None
    recipes: Mapping[str, str] = field(default_factory=dict)

    def alpha_of(self, fingerprint: str) -> float | None:
        """Return the alpha at which a random direction is as long as the displacement of this target.

        None if the target is not recorded, or if random directions move nothing.
        """
        length = self.lengths.get(fingerprint)
        return None if length is None or not self.moved_norm else length / self.moved_norm

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of sweep.json. `plane_share` and `recipes` are left out if they are not set."""
        value: dict[str, Any] = {}
        if self.plane_share is not None:
            value["plane_share"] = self.plane_share
        if self.recipes:
            value["recipes"] = dict(self.recipes)
        return value | {"base": self.base_norm, "moved": self.moved_norm, "lengths": dict(self.lengths)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TargetGeometry | None:
        """Read what `to_json` wrote. None for an empty object: the sweep has no targets."""
        if not value:
            return None
        return cls(
            base_norm=value["base"],
            moved_norm=value["moved"],
            lengths=value["lengths"],
            plane_share=value.get("plane_share"),
            recipes=value.get("recipes", {}),
        )
