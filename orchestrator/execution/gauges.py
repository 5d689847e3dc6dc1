"""Gauges of a run for Prometheus, through the metrics endpoint of Ray's nodes."""

from __future__ import annotations

from typing import Any

from ray.util.metrics import Gauge

from orchestrator.execution.run_counts import RunCounts

PREFIX = "safety_landscape_"


class RunGauges:
    """Sets gauges from the dispatcher's events. Ray exports them with the prefix `ray_`.

    Gauges of the run have the tags `model` and `sweep` (the sweep's id); those of actors also have `actor`, the number
    of the slot. A slot keeps its number when its actor is replaced.

    Args:
        model: The model's name.
        sweep: The sweep's id.
        points: Number of points to measure.
    """

    def __init__(self, model: str, sweep: str, points: int) -> None:
        self._tags = {"model": model, "sweep": sweep}
        self._counts = RunCounts()
        self._of_run = {
            name: _gauge(name, text, "model", "sweep")
            for name, text in {
                "points_done": "Points measured in this run",
                "points_total": "Points to measure in this run",
                "tokens_per_second": "Generated tokens per second since the first actor was ready",
                "actors": "Actors that are ready",
                "failures": "Failed visits, failed starts and deaths of actors",
                "restarts": "Actors that were replaced",
                "given_up": "Points that were given up after several failures",
            }.items()
        }
        self._of_actor = {
            name: _gauge(f"actor_{name}", text, "model", "sweep", "actor")
            for name, text in {
                "points": "Points measured by this actor slot",
                "tokens_per_second": "Generated tokens per second of this actor slot's visits",
                "failures": "Failed visits, failed starts and deaths in this actor slot",
                "restarts": "Times that the actor of this slot was replaced",
            }.items()
        }
        self.observe("run_started", visits=points)

    def observe(self, event: str, **fields: Any) -> None:
        """Take one event of the dispatcher (see `events.py`)."""
        if not self._counts.observe(event, **fields):
            return
        progress = self._counts.progress
        for name, gauge in self._of_run.items():
            gauge.set(getattr(progress, name), tags=self._tags)
        if "slot" in fields:
            counts = self._counts.slots[fields["slot"]]
            for name, gauge in self._of_actor.items():
                gauge.set(getattr(counts, name), tags={**self._tags, "actor": str(fields["slot"])})


def _gauge(name: str, description: str, *tags: str) -> Gauge:
    return Gauge(f"{PREFIX}{name}", description, tags)
