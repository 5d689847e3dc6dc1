"""Totals of a dispatch, counted while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.sweep.tasks import Visit

if TYPE_CHECKING:
    from workers.actor import Receipt


@dataclass
class Failure:
    """A quarantined visit and its story: one line for each failed attempt."""

    visit: Visit
    story: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the entry of a run's record."""
        return {
            "point_id": self.visit.point.id,
            "prompt_set_ids": list(self.visit.prompt_set_ids),
            "story": self.story,
        }


@dataclass
class Outcome:
    """Totals of a dispatch so far.

    Attributes:
        actors: Actors that became ready, replacements included.
        restarts: Actors that were replaced after they had become ready.
        write_seconds: Time spent writing weights, summed over visits.
        visit_seconds: Duration of visits, summed.
        gpu_seconds: Time for which GPUs were held, loading included, times the GPUs of an actor.
        peak_memory_bytes: The largest peak of any actor's process.
        failures: Quarantined visits.
        interrupted: Whether a signal ended the dispatch early.
    """

    visits: int = 0
    responses: int = 0
    tokens: int = 0
    restarts: int = 0
    actors: int = 0
    write_seconds: float = 0.0
    visit_seconds: float = 0.0
    gpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
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

    def to_json(self) -> dict[str, Any]:
        """Return the totals for a run's record, which stores elsewhere whether the run was interrupted."""
        return {
            "visits": self.visits,
            "responses": self.responses,
            "tokens": self.tokens,
            "restarts": self.restarts,
            "gpu_seconds": round(self.gpu_seconds, 3),
            "actors": self.actors,
            "peak_memory_bytes": self.peak_memory_bytes,
            "write_seconds": round(self.write_seconds, 3),
            "visit_seconds": round(self.visit_seconds, 3),
            "failures": [failure.to_json() for failure in self.failures],
        }

    def event_fields(self) -> dict[str, Any]:
        """Return the fields of the event `dispatch_finished`."""
        return {
            "visits": self.visits,
            "responses": self.responses,
            "tokens": self.tokens,
            "restarts": self.restarts,
            "gpu_seconds": round(self.gpu_seconds, 3),
            "failures": len(self.failures),
            "interrupted": self.interrupted,
        }
