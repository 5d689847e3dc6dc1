"""Say what a sweep costs before it starts, and name a smaller one if it takes long."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from orchestrator.config.compose import compose
from orchestrator.planning import cost
from orchestrator.planning.cost import Plan
from orchestrator.planning.timing import BASIS_TEXT
from orchestrator.planning.workload import PromptLoad, Workload
from orchestrator.utils.console import duration

logger = logging.getLogger(__name__)

LONG_HOURS = 1.0
"""Hours above which a smaller sweep is named."""

QUICK = "quick"
"""The preset of a small sweep, in conf/experiment."""


def log_cost(plan: Plan) -> None:
    """Log in one line what is left to do and how long it takes at most, then the remarks about it."""
    if plan.wall_hours is None or not plan.visits or not plan.model.parameters:
        return  # unknown, nothing, or the dummy engine
    logger.info(
        "At most %s (%s): %d points, %s responses, at most %s tokens.",
        duration(plan.wall_hours * 3600),
        BASIS_TEXT[plan.basis],
        plan.visits,
        f"{plan.responses:,}",
        f"{plan.generated_tokens:,}",
    )
    for note in plan.notes:
        logger.info("%s", note)


def smaller_sweep(plan: Plan, loads: Sequence[PromptLoad], directions: int) -> str | None:
    """Return a sentence that names a smaller sweep; None if the planned one takes less than an hour.

    Args:
        plan: The planned sweep.
        loads: Size of each of its prompt sets.
        directions: Number of its random directions.
    """
    if plan.wall_hours is None or plan.wall_hours <= LONG_HOURS:
        return None
    quick = compose([f"experiment={QUICK}"])
    limit, tokens, points = quick.probes.limit, quick.sampling.max_tokens, quick.grid.steps + 1
    assert limit is not None, "the quick preset limits the prompts"
    small = {str(i): _first_prompts(load, limit, tokens) for i, load in enumerate(loads)}
    work = Workload(small, [tuple(small)] * points, points=points, tasks=points * len(small))
    hours = cost.estimate(plan.model, plan.setup, work).wall_hours
    if hours is None or hours >= plan.wall_hours / 2:
        return None
    sentence = (
        f"smaller: +experiment={QUICK} (one line, {points} points, {limit} prompts, {tokens} tokens, early stop) takes "
        f"at most {duration(hours * 3600)} here"
    )
    if directions > 1:
        sentence += "; grid.directions=1 measures one line of this sweep, which the whole sweep then reuses"
    return sentence


def _first_prompts(load: PromptLoad, limit: int, max_tokens: int) -> PromptLoad:
    """Return the size of the first `limit` prompts of a set, with responses of at most `max_tokens` tokens."""
    count = min(load.prompts, limit)
    return dataclasses.replace(
        load,
        prompts=count,
        prompt_tokens=load.prompt_tokens * count // max(1, load.prompts),
        max_tokens=min(load.max_tokens, max_tokens),
    )
