"""Count the verdicts that decide which nodes of an adaptive grid are measured, from stored responses.

The judge is applied to the responses themselves, so that the counts depend on what is stored and on nothing else:
whether verdicts were stored too makes no difference. Counts are kept in memory by the content of the responses.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pyarrow as pa

from orchestrator import judges
from orchestrator.judges import Judge, first_text_judge
from orchestrator.store.parts import TaskKey
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.tasks import NONFINITE, PromptSet
from orchestrator.sweep.thoughts import Answers
from orchestrator.utils.errors import UserError

PointCounts = tuple[int, int]
"""(unsafe, judged): the number of responses that are not refused, and of all responses with a verdict."""

MAX_CACHED = 100_000
"""Number of tasks whose counts are kept in memory."""

_cache: dict[tuple[str, str], PointCounts] = {}  # by the judge's id and the hash of a task's rows


def deciding_prompt_set(
    judge: Judge, prompt_sets: Sequence[PromptSet], field: str = "grid.adaptive", value: str = "true"
) -> PromptSet:
    """Return the prompt set whose verdicts decide: the first harmful one, or else the first that the judge judges.

    Raises:
        UserError: (the option `field`) The judge applies to none of them.
    """
    judged = [prompts for prompts in prompt_sets if judge.applies_to(prompts.group) and not prompts.sampling.letters]
    harmful = [prompts for prompts in judged if prompts.group == "harmful"]
    if not judged:
        remedy = f"needs prompts that {judge.name} judges: add probes that are not questions, or leave it out"
        raise UserError(field, value, remedy)
    return (harmful or judged)[0]


class DecidingCounts:
    """The counts of the deciding judge at the measured points of an adaptive sweep, or of one with goals (`until`).

    Attributes:
        prompt_set: The prompt set whose verdicts decide.
        counts: Point id -> counts. (0, 0) where no response has a verdict.
    """

    def __init__(self, stored: StoredSweep, prompt_sets: Sequence[PromptSet] | None = None) -> None:
        """Prepare the counts of a sweep; nothing is read yet.

        Args:
            stored: The sweep, whose study need not exist yet.
            prompt_sets: Its prompt sets. None: they are read from the study.
        """
        grid, sweep = stored.sweep.grid, stored.sweep
        judge = first_text_judge(sweep.judges) if grid.adaptive is None else judges.get(grid.adaptive.judge)
        assert judge is not None  # as was checked before the sweep began
        sets = stored.prompt_sets if prompt_sets is None else prompt_sets
        self._stored = stored
        self._judge = judge.after_thought(sweep.thought)
        self.prompt_set = deciding_prompt_set(self._judge, sets)
        self.counts: dict[str, PointCounts] = {}
        self._answers = Answers([self.prompt_set], sweep.thought)
        self._texts = {prompt.id: prompt.text for prompt in self.prompt_set.prompts}

    def read_stored(self) -> None:
        """Count every stored task that is not counted yet."""
        if not self._stored.study.exists:
            return
        unread = {}
        for key, part in self._stored.generations.items():
            if key[1] != self.prompt_set.id or key[0] in self.counts:
                continue
            cached = _cache.get((self._judge.id, part.tasks[key]))
            if cached is None:
                unread[key] = part
            else:
                self.counts[key[0]] = cached
        for part, table in self._stored.study.generations.rows(unread):
            for point in self.add(table):
                if len(_cache) < MAX_CACHED:
                    _cache[self._judge.id, part.tasks[point, self.prompt_set.id]] = self.counts[point]

    def add(self, responses: pa.Table) -> list[str]:
        """Count the responses of one or more visits. Return the ids of the points that were counted."""
        columns = ("point_id", "prompt_set_id", "prompt_id", "response", "finish_reason")
        tallies: dict[str, PointCounts] = {}
        for point, set_id, prompt, response, reason in zip(*(responses[c].to_pylist() for c in columns), strict=True):
            if set_id != self.prompt_set.id:
                continue
            unsafe, judged = tallies.get(point, (0, 0))
            answer = None if reason == NONFINITE else self._answers.of(set_id, prompt, response)
            verdict = None if answer is None else self._judge.verdict(self._texts[prompt], answer)
            tallies[point] = unsafe + (verdict == "complied"), judged + (verdict in ("complied", "refused"))
        self.counts |= tallies
        return list(tallies)

    def give_up(self, tasks: Collection[TaskKey]) -> None:
        """Take points whose deciding task was given up as measured without a verdict."""
        for point, set_id in tasks:
            if set_id == self.prompt_set.id:
                self.counts.setdefault(point, (0, 0))
