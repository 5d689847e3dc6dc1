"""Load the judges of a stored sweep.

A model judge is bound to the weights with which it judged the sweep. A judge that is not part of this program is read
from its description, unless its code is loaded. In a sweep of a reasoning model, judges read what follows the thought.
"""

from __future__ import annotations

from orchestrator import judges
from orchestrator.judges import Judge
from orchestrator.judges._described import from_description
from orchestrator.judges._model import ModelJudge
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.judges.human import JUDGE as HUMAN
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.utils.errors import UserError


def load_panel(stored: StoredSweep) -> list[Judge]:
    """Return the sweep's judges in order. Model judges are bound to the weights that have judged the sweep.

    Raises:
        UserError: As for `load_judge`.
    """
    return [load_judge(stored, name) for name in stored.sweep.judges]


def load_judge(stored: StoredSweep, name: str) -> Judge:
    """Return a judge of a sweep. A model judge is bound to the weights, and of the version, that have judged the sweep.

    A judge that is not part of this program is the one that has judged the sweep. If its code is loaded and the same,
    it can judge; otherwise only its stored verdicts can be read.

    Raises:
        UserError: The model judge, or the judge `human`, has not judged the sweep yet, or nothing is known about the
            judge.
    """
    description = stored.folder.read_description(name)
    judge = (judges.find if description is not None else judges.get)(name)
    if judge is not None:
        judge = judge.after_thought(stored.sweep.thought)
    if description is not None:
        is_same = judge is not None and not isinstance(judge, ModelJudge) and judge.id == description.judge_id
        return judge if judge is not None and is_same else from_description(description)
    assert judge is not None
    if name == HUMAN.name:
        raise UserError("judge", name, "has not judged this sweep yet: `judge` joins the verdicts of people to it")
    if isinstance(judge, ModelJudge):
        weights = stored.folder.read_judge(name)
        if not weights:
            raise UserError("judge", name, "has not judged this sweep yet: `judge` runs its model")
        judge = judge.with_weights(weights["fingerprint"], weights["dtype"])
        judge = judge.at_version(weights.get("version", judge.version))
    return judge


def first_text_judge(stored: StoredSweep) -> Judge | None:
    """Return a sweep's first judge if it is a text judge, else None."""
    return next((judge for judge in text_judges(stored) if judge.name == stored.sweep.judges[0]), None)


def text_judges(stored: StoredSweep) -> list[Judge]:
    """Return those of a sweep's judges whose `verdict` can judge here: no model judges, and none without its code."""
    found = (judges.find(name) for name in stored.sweep.judges)
    names = [judge.name for judge in found if judge is not None and judge.is_text]
    return [judge for name in names if (judge := load_judge(stored, name)).is_text]


def degeneracy_judge(stored: StoredSweep) -> Judge:
    """Return the current version of the judge of degeneracy, as it judges the responses of a sweep."""
    return DEGENERATE.after_thought(stored.sweep.thought)
