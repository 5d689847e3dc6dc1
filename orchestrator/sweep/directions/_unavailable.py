"""Stored directions of a kind whose package is not installed: they can be read and shown, but not measured."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from orchestrator.sweep.directions import UnitSums
from orchestrator.sweep.directions._seeded import DIRECTION_FIELD, SeededDirection
from orchestrator.utils.errors import UserError


@dataclass(frozen=True)
class UnavailableDirection(SeededDirection):
    """A direction of a kind that this machine has no code for."""

    def factor(self, sums: UnitSums) -> float:
        """Raise UserError, because only the kind's code can compute the factor."""
        name, _, source = self.kind.partition("@")
        remedy = f"the sweep's kind of directions is no installed file whose SHA-256 begins with {source}: install it"
        raise UserError(DIRECTION_FIELD, name, remedy)


@functools.cache
def unavailable(kind: str) -> type[UnavailableDirection]:
    """Return the class of stored directions of a kind, NAME@HASH."""
    return type("UnavailableDirection", (UnavailableDirection,), {"kind": kind})
