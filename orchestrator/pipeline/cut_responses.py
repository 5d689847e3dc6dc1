"""Report which judges could not judge the responses that early stopping has cut, and the command that measures all."""

from __future__ import annotations

import logging

from orchestrator.scoring.cut_responses import cut_by_task
from orchestrator.scoring.panel import load_panel
from orchestrator.store.runs import with_totals
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.utils.command_line import command_line
from orchestrator.utils.console import duration

logger = logging.getLogger(__name__)


def log_cut_responses(stored: StoredSweep) -> None:
    """Log a warning for each judge that needs whole responses and met cut ones, with the command that measures all."""
    early = [prompts for prompts in stored.prompt_sets if prompts.sampling.stop]
    if not early:
        return
    for judge in load_panel(stored):
        cut = cut_by_task(stored, judge)
        if not cut:
            continue
        sizes = {prompts.id: len(prompts.prompts) for prompts in early}
        total = sum(sizes.get(set_id, 0) for _, set_id in stored.generations)
        logger.warning(
            "%s needs whole responses: %d of %d are cut, because sampling.early_stop ended them at another judge's "
            "keyword. It has judged the others; its landscape has only the %d of %d tasks without a cut response. "
            "This measures all of them (%s): %s",
            judge.name,
            sum(cut.values()),
            total,
            sum(key[1] in sizes and key not in cut for key in stored.generations),
            sum(key[1] in sizes for key in stored.generations),
            _cost(stored),
            _command(stored),
        )


def _command(stored: StoredSweep) -> str:
    """Return the command that measures the sweep without early stopping, by all of its judges."""
    dropped = ("sampling.early_stop", "judge", "judges")
    kept = [text for text in stored.record.overrides if text.partition("=")[0].lstrip("+") not in dropped]
    judges = f"judges=[{','.join(stored.sweep.judges)}]"
    return command_line("run", *kept, "sampling.early_stop=false", judges)


def _cost(stored: StoredSweep) -> str:
    """Return the most that this command generates, and how long that takes at the speed of the sweep's runs."""
    early = {prompts.id: prompts for prompts in stored.prompt_sets if prompts.sampling.stop}
    sets = [early[task.prompt_set_id] for task in stored.sweep.tasks() if task.prompt_set_id in early]
    responses = sum(len(prompts.prompts) for prompts in sets)
    tokens = sum(len(prompts.prompts) * prompts.sampling.max_tokens for prompts in sets)
    totals = [run.totals for run in with_totals(stored.study, stored.record.runs)]
    done, seconds = sum(total.tokens for total in totals), sum(total.visit_seconds for total in totals)
    cost = f"{responses:,} responses, at most {tokens:,} tokens in all"
    if not done or not seconds:
        return cost
    return f"{cost}; at most {duration(tokens * seconds / done)} at the speed so far"
