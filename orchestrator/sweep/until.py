"""How a run with options of the section `until` ended, as its record and the sweep's summary store it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.utils.records import JsonRecord


@dataclass(frozen=True, kw_only=True)
class UntilOutcome(JsonRecord):
    """The budgets of a run, and how much of them the sweep has used when the run ended.

    Attributes:
        minutes: The option `until.minutes`. None: no such budget.
        gpu_hours: The option `until.gpu_hours`. None: no such budget.
        minutes_used: Duration of all runs of the sweep together.
        gpu_hours_used: Time for which they held GPUs, times the GPUs of an actor.
        stopped_by: Name of the option whose budget was spent while work was left. None if all of it was done.
    """

    minutes: float | None = None
    gpu_hours: float | None = None
    minutes_used: float = 0.0
    gpu_hours_used: float = 0.0
    stopped_by: str | None = None
