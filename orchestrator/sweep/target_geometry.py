"""Distances of a sweep's checkpoints from its model: stored when the sweep is prepared, read when it is reduced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.utils.records import check_types

ADAPTER_VERSION = 2
"""Version of the meaning of a coefficient toward an adapter. It is part of an adapter's fingerprint.

Version 1 rounded W0 + s B A to the dtype in which W0 is stored and moved toward the result. Version 2 adds c s B A to
W0 in float32, and rounds once, to the engine's dtype (docs/weights.md).
"""


@dataclass(frozen=True)
class TargetGeometry:
    """Lengths in weight space (Euclidean norms over all tensors), stored as `around` in sweep.json.

    A target is a checkpoint or adapter toward which the sweep's directions lead.

    Attributes:
        base_norm: Norm of the base model's weights.
        moved_norm: Norm of the weights that random directions move. A displacement of length l is as long as a random
            direction at alpha = l / moved_norm. 0 if all tensors are excluded.
        lengths: Distance of each target from the base, by the target's fingerprint.
        plane_share: Share, 0 to 1, of the sum of squared displacements of a trajectory that lies in its principal
            plane. None: the grid is not the principal plane of a trajectory.
        recipes: Label of a target -> name of the recipe that trained it, for targets at the end of a trained
            trajectory.
        rounding: What the engine's rounding adds to each target's displacement, as a share of its length, by the
            target's fingerprint. Sweeps of adapter version 1 have none.
        adapter_version: The version under which adapters were resolved.
    """

    base_norm: float
    moved_norm: float
    lengths: Mapping[str, float]
    plane_share: float | None = None
    recipes: Mapping[str, str] = field(default_factory=dict)
    rounding: Mapping[str, float] = field(default_factory=dict)
    adapter_version: int = ADAPTER_VERSION

    def alpha_of(self, fingerprint: str) -> float | None:
        """Return the alpha at which a random direction is as long as the displacement of a target.

        None if the target is not recorded, or if random directions move nothing.
        """
        length = self.lengths.get(fingerprint)
        return None if length is None or not self.moved_norm else length / self.moved_norm

    def to_json(self) -> dict[str, Any]:
        """Return the object `around` of sweep.json. `plane_share` and `recipes` are left out if they are not set."""
        value: dict[str, Any] = {}
        if self.plane_share is not None:
            value["plane_share"] = self.plane_share
        if self.recipes:
            value["recipes"] = dict(self.recipes)
        value |= {"base": self.base_norm, "moved": self.moved_norm, "lengths": dict(self.lengths)}
        if self.adapter_version > 1:  # version 1 was not recorded
            value |= {"rounding": dict(self.rounding), "adapter_version": self.adapter_version}
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TargetGeometry | None:
        """Return the geometry that `to_json` described; None for an empty object, if the sweep has no targets."""
        if not value:
            return None
        geometry = cls(
            base_norm=value["base"],
            moved_norm=value["moved"],
            lengths=value["lengths"],
            plane_share=value.get("plane_share"),
            recipes=value.get("recipes", {}),
            rounding=value.get("rounding", {}),
            adapter_version=value.get("adapter_version", 1),
        )
        return check_types(geometry)
