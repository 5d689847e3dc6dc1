"""Responses that early stopping has cut, and which judges that need whole responses therefore cannot judge.

With `sampling.early_stop`, a response ends at the first stop string, which decides the verdict of the judge for which
it was generated. A response is cut if it contains one of these strings, and whole otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.compute as pc

from orchestrator.judges import Judge
from orchestrator.store.parts import TaskKey
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.tasks import PromptSet

CUT = "cut"
"""Verdict on a response that is cut. It is stored and counted, and in no rate."""


class CutResponses:
    """The responses of some prompt sets that one judge cannot judge."""

    def __init__(self, prompt_sets: Sequence[PromptSet], judge: Judge) -> None:
        stops = {} if judge.accepts_cut else {prompts.id: prompts.sampling.stop for prompts in prompt_sets}
        self._stops = {set_id: stop for set_id, stop in stops.items() if stop and stop != judge.stops}

    def holds(self, prompt_set_id: str, response: str) -> bool:
        """Return whether this response is cut."""
        return any(stop in response for stop in self._stops.get(prompt_set_id, ()))


def cut_by_task(stored: StoredSweep, judge: Judge) -> dict[TaskKey, int]:
    """Return the number of cut responses in each task that a judge has judged. Tasks without any are left out."""
    counts: dict[TaskKey, int] = {}
    early = {prompts.id for prompts in stored.prompt_sets if prompts.sampling.stop}
    judged = {key: part for key, part in stored.judged(judge.id).items() if key[1] in early}
    for _, table in stored.study.judgements(judge.id).rows(judged):
        cut = table.filter(pc.equal(table["verdict"], CUT))
        for key in zip(cut["point_id"].to_pylist(), cut["prompt_set_id"].to_pylist(), strict=True):
            counts[key] = counts.get(key, 0) + 1
    return counts
