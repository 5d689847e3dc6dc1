"""Random directions, normalized to the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.sweep.directions import NOISE_UNIT, UnitSums
from orchestrator.sweep.directions._seeded import SeededDirection
from orchestrator.utils.choices import Norm


@dataclass(frozen=True)
class RandomDirection(SeededDirection):
    """A seeded random direction, normalized to the weights.

    With normal random numbers z and weights W, the direction is d = z |W| / |z| for each tensor (norm `layer`; Peng et
    al. 2024, arXiv 2405.17374, Eq. 2), the same for each output row (`filter`; Li et al. 2018, arXiv 1712.09913), or
    plain z (`sigma`).
    """

    kind: ClassVar[str] = "random"

    def factor(self, sums: UnitSums) -> float:
        """Return |W| / |z|, or 1 under the norm `sigma`; 0 if all weights of the unit are zero."""
        if sums.weights == 0.0:
            return 0.0
        return 1.0 if self.norm == Norm.sigma else math.sqrt(sums.weights) / (math.sqrt(sums.noise) * NOISE_UNIT)


DIRECTION = RandomDirection
