"""A sweep's judges: who sits, with which weights, and whether its responses can be judged by them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator import judges
from orchestrator.judges import Judge
from orchestrator.judges._model import ModelJudge
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.grid import Sweep
from orchestrator.sweep.tasks import PromptSet
from orchestrator.utils.errors import UserError


def bench(study: Study, sweep: Sweep) -> list[Judge]:
    """The sweep's judges, in order; a model judge with the weights that have judged the sweep. Raises UserError where
    one has not yet."""
    return [seated(study, SweepFolder.of(study, sweep).path, name) for name in sweep.judges]


def seated(study: Study, folder: Path, name: str) -> Judge:
    """One of the judges of the sweep in `folder`, likewise."""
    judge = judges.get(name)
    if isinstance(judge, ModelJudge):
        known = SweepFolder(study, folder).read_judge(name)
        if not known:
            raise UserError("judge", name, "has not judged this sweep yet: `judge` has its model do it")
        judge = judge.with_weights(known["fingerprint"], known["dtype"])
    return judge


def check_judges(study: Study, sweep: Sweep) -> list[PromptSet]:
    """The sweep's prompt sets, on whose responses each of its judges can judge. Raises UserError."""
    prompt_sets = [study.prompt_sets.read(set_id) for set_id in sweep.prompt_set_ids]
    for name in sweep.judges:
        _check_whole(judges.get(name), prompt_sets)
    return prompt_sets


def _check_whole(judge: Judge, prompt_sets: Sequence[PromptSet]) -> None:
    """Raises UserError where early stopping has cut responses that this judge needs whole."""
    for prompts in prompt_sets:
        stop = prompts.sampling.stop
        if stop and stop != judge.stops:
            raise UserError(
                "judge",
                judge.name,
                f"needs whole responses, and those to {prompts.probe_set} end at another judge's keyword: run again "
                f"with sampling.early_stop=false, which generates {len(prompts.prompts)} responses a point anew",
            )
