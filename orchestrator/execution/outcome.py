"""Totals of a dispatch, counted while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.store.records import RunTotals
from orchestrator.sweep.tasks import Visit

if TYPE_CHECKING:
    from workers.actor import Receipt


@dataclass
class Failure:
    """A visit that was given up.

    Attributes:
        visit: The visit.
        errors: The error of each failed attempt, one line each.
    """

    visit: Visit
    errors: list[str]


@dataclass(kw_only=True)
class Outcome(RunTotals):
    """Totals of a dispatch so far.

    Attributes:
        failures: Visits that were given up.
        interrupted: Whether a signal ended the dispatch early.
    """

    failures: list[Failure] = field(default_factory=list)
    interrupted: bool = False

    def add_visit(self, receipt: Receipt) -> None:
        """Count a completed visit."""
        self.visits += 1
        self.responses += receipt.n_responses
        self.tokens += receipt.n_tokens
        self.visit_seconds += receipt.seconds
        self.write_seconds += receipt.write_seconds
        self.peak_memory_bytes = max(self.peak_memory_bytes, receipt.peak_memory_bytes)

    def event_fields(self) -> dict[str, Any]:
        """Return the fields of the event `dispatch_finished`."""
        return {
            "visits": self.visits,
            "responses": self.responses,
            "tokens": self.tokens,
            "restarts": self.restarts,
            "gpu_seconds": round(self.gpu_seconds, 3),
            "ready_seconds": round(self.ready_seconds, 3),
            "idle_seconds": round(self.idle_seconds, 3),
            "speculative": self.speculative,
            "unneeded": self.unneeded,
            "failures": len(self.failures),
            "interrupted": self.interrupted,
        }
