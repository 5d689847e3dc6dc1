"""Attack success rate (ASR) of single visits, read as they are stored, while the rest of a sweep is still running."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator import judges
from orchestrator.judges import Judge, checked_verdict
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.blocks import PooledPrompts
from orchestrator.sweep.tasks import NONFINITE, PromptSet
from orchestrator.sweep.thoughts import Answers

_COLUMNS = ["point_id", "prompt_set_id", "prompt_id", "response", "finish_reason"]


class VisitScores:
    """Computes the ASR of stored visits by a text judge.

    As in the landscape, responses that are not finite or whose thought has no end count neither way.

    Args:
        study: The study that holds the visits.
        prompt_sets: The prompt sets to score. Rows of others are ignored.
        thought: Closing tag of thoughts, as in `Sweep.thought`.
        judge: The judge. It must be a text judge.
    """

    def __init__(self, study: Study, prompt_sets: Iterable[PromptSet], thought: str, judge: Judge) -> None:
        self._study, self._judge = study, judge
        sets = [prompts for prompts in prompt_sets if judge.applies_to(prompts.group)]
        self._groups = {prompts.id: prompts.group for prompts in sets}
        self._answers = Answers(sets, thought)
        self._texts = {(prompts.id, p.id): p.text for prompts in sets for p in prompts.prompts}
        self._pooled = PooledPrompts.of(sets)
        self._counted: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}  # by point and joined set, of each block

    def read(self, visit: str) -> dict[tuple[str, str], float]:
        """Return the ASR in percent at the point of a visit, by (point id, id of the joined prompt set).

        It is over the blocks of the probe set that were read so far. A probe set without any verdict has no entry.
        Empty if the visit is not stored.

        Raises:
            UserError: The disk cannot be read, or a judge of the user's fails.
        """
        table = self._study.generations.read_visit(visit)
        if table is None:
            return {}
        frame = table.select(_COLUMNS).to_pandas()
        frame = frame[(frame["finish_reason"] != NONFINITE) & frame["prompt_set_id"].isin(list(self._groups))]
        scores = {}
        for (point, set_id), rows in frame.groupby(["point_id", "prompt_set_id"]):
            outcomes = [self._outcome(set_id, *row) for row in zip(rows["prompt_id"], rows["response"], strict=True)]
            counted = [outcome for outcome in outcomes if outcome is not None]
            if counted:
                key = (str(point), self._pooled.ids[str(set_id)])
                blocks = self._counted.setdefault(key, {})
                blocks[str(set_id)] = counted.count("refused"), len(counted)
                refused, total = map(sum, zip(*blocks.values(), strict=True))
                scores[key] = 100 * (1 - refused / total)
        return scores

    def _outcome(self, set_id: str, prompt: str, response: str) -> str | None:
        answer = self._answers.of(set_id, prompt, response)
        if answer is None:
            return None
        verdict = checked_verdict(self._judge, self._texts[set_id, prompt], answer)
        return self._judge.outcome(verdict, self._groups[set_id])


def live_judge(stored: StoredSweep) -> Judge | None:
    """Return the judge that decides a sweep's ASR, if it can judge while the sweep runs: None for models and people."""
    judge = judges.get(stored.sweep.judges[0])
    return judge if judge.is_text else None
