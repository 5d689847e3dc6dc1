"""Load the judges of a stored sweep and check that its responses are complete enough for them.

A model judge is bound to the weights with which it judged the sweep. In a sweep of a reasoning model, judges read what
follows the thought.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator import judges
from orchestrator.judges import Judge
from orchestrator.judges._model import ModelJudge
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.tasks import PromptSet
from orchestrator.utils.errors import UserError


def load_panel(stored: StoredSweep) -> list[Judge]:
    """Return the sweep's judges in order. Model judges are bound to the weights that have judged the sweep.

    Raises:
        UserError: A model judge has not judged the sweep yet.
    """
    return [load_judge(stored, name) for name in stored.sweep.judges]


def load_judge(stored: StoredSweep, name: str) -> Judge:
    """Return a judge of a sweep. A model judge is bound to the weights, and of the version, that have judged the sweep.

    Raises:
        UserError: The model judge has not judged the sweep yet.
    """
    judge = judges.get(name).after_thought(stored.sweep.thought)
    if isinstance(judge, ModelJudge):
        weights = stored.folder.read_judge(name)
        if not weights:
            raise UserError("judge", name, "has not judged this sweep yet: `judge` runs its model")
        judge = judge.with_weights(weights["fingerprint"], weights["dtype"])
        judge = judge.at_version(weights.get("version", judge.version))
    return judge


def first_text_judge(stored: StoredSweep) -> Judge | None:
    """Return a sweep's first judge if it is a text judge, else None."""
    name = stored.sweep.judges[0]
    return None if isinstance(judges.get(name), ModelJudge) else load_judge(stored, name)


def degeneracy_judge(stored: StoredSweep) -> Judge:
    """Return the current version of the judge of degeneracy, as it judges the responses of a sweep."""
    return DEGENERATE.after_thought(stored.sweep.thought)


def check_judges(stored: StoredSweep) -> None:
    """Raise UserError if one of the sweep's judges cannot judge the stored responses."""
    for name in stored.sweep.judges:
        _check_complete(judges.get(name), stored.prompt_sets)


def _check_complete(judge: Judge, prompt_sets: Sequence[PromptSet]) -> None:
    """Raise UserError if early stopping has cut responses that this judge needs complete."""
    for prompts in prompt_sets:
        stop = prompts.sampling.stop
        if stop and stop != judge.stops:
            raise UserError(
                "judge",
                judge.name,
                f"needs whole responses, and those to {prompts.probe_set} end at another judge's keyword: run again "
                f"with sampling.early_stop=false, which generates {len(prompts.prompts)} responses a point anew",
            )
