"""Count the verdicts that decide which nodes of an adaptive grid are measured, from stored responses.

The judge is applied to the responses themselves, so that the counts depend on what is stored and on nothing else:
whether verdicts were stored too makes no difference. Counts are kept in memory by the content of the responses.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa

from orchestrator import judges
from orchestrator.judges import Judge, first_text_judge
from orchestrator.store.parts import TaskKey
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.blocks import PooledPrompts
from orchestrator.sweep.tasks import NONFINITE, PromptSet
from orchestrator.sweep.thoughts import Answers
from orchestrator.utils.errors import UserError

PointCounts = tuple[int, int]
"""(unsafe, judged): the number of responses that are not refused, and of all responses with a verdict."""

_VERDICTS: Mapping[str | None, float] = {"refused": 1.0, "complied": 0.0}

MAX_CACHED = 100_000
"""Number of tasks whose counts are kept in memory."""

_cache: dict[tuple[str, str], np.ndarray] = {}  # verdicts by the judge's id and the hash of a task's rows


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
        prompt_set: The prompt set whose verdicts decide, with its blocks joined.
        counts: Point id -> counts over all blocks, of points with all of them. (0, 0) where no response has a verdict.
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
        pooled = PooledPrompts.of(sets)
        self.prompt_set = deciding_prompt_set(self._judge, pooled.sets)
        self.counts: dict[str, PointCounts] = {}
        self._blocks = {p.id: p for p in sets if pooled.ids[p.id] == self.prompt_set.id}
        self._verdicts: dict[TaskKey, np.ndarray] = {}  # of each block: 1 refused, 0 unsafe, NaN without a verdict
        self._answers = Answers(list(self._blocks.values()), sweep.thought)
        self._texts = {prompt.id: prompt.text for prompt in self.prompt_set.prompts}

    def read_stored(self) -> None:
        """Count every stored task that is not counted yet."""
        if not self._stored.study.exists:
            return
        unread = {}
        for key, part in self._stored.generations.items():
            if key[1] not in self._blocks or key in self._verdicts:
                continue
            cached = _cache.get((self._judge.id, part.tasks[key]))
            if cached is None:
                unread[key] = part
            else:
                self._take(key, cached)
        for part, table in self._stored.study.generations.rows(unread):
            for key in self.add(table):
                if len(_cache) < MAX_CACHED:
                    _cache[self._judge.id, part.tasks[key]] = self._verdicts[key]

    def add(self, responses: pa.Table) -> list[TaskKey]:
        """Count the responses of one or more visits. Return the keys of the tasks that were counted."""
        columns = ("point_id", "prompt_set_id", "prompt_id", "response", "finish_reason")
        read: dict[TaskKey, dict[str, float]] = {}
        for point, set_id, prompt, response, reason in zip(*(responses[c].to_pylist() for c in columns), strict=True):
            if set_id not in self._blocks:
                continue
            answer = None if reason == NONFINITE else self._answers.of(set_id, prompt, response)
            verdict = None if answer is None else self._judge.verdict(self._texts[prompt], answer)
            read.setdefault((point, set_id), {})[prompt] = _VERDICTS.get(verdict, math.nan)
        for key, verdicts in read.items():
            prompts = self._blocks[key[1]].prompts
            self._take(key, np.array([verdicts.get(prompt.id, math.nan) for prompt in prompts], np.float16))
        return list(read)

    def _take(self, key: TaskKey, verdicts: np.ndarray) -> None:
        """Take the verdicts of a task, and count its point if no other block is missing."""
        self._verdicts[key] = verdicts
        whole = self.verdicts(key[0])
        if whole is not None:
            known = whole[~np.isnan(whole)]
            self.counts[key[0]] = int((known == 0).sum()), len(known)

    def verdicts(self, point: str) -> np.ndarray | None:
        """Return the verdicts at a point: 1 refused, 0 unsafe, NaN without a verdict, [prompt of `prompt_set`].

        None if a block is missing.
        """
        blocks = [self._verdicts.get((point, set_id)) for set_id in self._blocks]
        known = [block for block in blocks if block is not None]
        return np.concatenate(known) if len(known) == len(blocks) else None

    def give_up(self, tasks: Collection[TaskKey]) -> None:
        """Take points whose deciding task was given up as measured without a verdict."""
        for point, set_id in tasks:
            if set_id in self._blocks:
                self.counts.setdefault(point, (0, 0))
