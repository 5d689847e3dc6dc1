"""Plan a more precise sweep from one that is stored."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.analysis.components import Wanted, plan_result
from orchestrator.analysis.landscape import PRIMARY_GROUP
from orchestrator.analysis.reducer import stored_summaries
from orchestrator.analysis.results.precision import PrecisionPlan
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.pipeline.prepare import PreparedSweep


def plan_from_stored(prepared: PreparedSweep) -> PrecisionPlan | None:
    """Return the cheapest sweep that gives VISAGE the precision of `report.target`.

    It follows from the stored sweep of the same study with the same kind and norm of directions and the same primary
    prompts and judge; if there are several, from the one with the most responses per point and line. None without one.
    """
    best = max(_similar(prepared), key=lambda stored: stored.prompts * len(stored.visage.by_direction), default=None)
    if best is None:
        return None
    known = best.visage.enough.plan if best.visage.enough is not None else None
    pace = None
    if known is not None and known.responses and known.seconds is not None:
        pace = known.seconds / known.responses
    return plan_result(best.primary_result, Wanted(prepared.config.report.target, pace))


def _similar(prepared: PreparedSweep) -> Iterator[SweepSummary]:
    """Yield the summaries of the study's sweeps with the same kind and norm of grid and the same primary result."""
    study, grid = prepared.stored.study, prepared.sweep.grid.to_json()
    own_sets = prepared.prompt_sets
    first = next((prompts for prompts in own_sets if prompts.group == PRIMARY_GROUP), own_sets[0])
    primary = (first.probe_set, first.group, first.system_prompt, prepared.sweep.judges[0])
    for summary in stored_summaries(study):
        same_grid = all(summary.grid.get(key) == grid.get(key) for key in ("kind", "norm"))
        if same_grid and summary.primary.combination == primary:
            yield summary
