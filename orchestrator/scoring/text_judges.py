"""Score stored responses: store a judge's verdict on every response that has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa

from orchestrator.judges import UNFINISHED, Judge, checked_verdict
from orchestrator.judges._model import ModelJudge
from orchestrator.scoring.cut_responses import CUT, CutResponses
from orchestrator.scoring.panel import degeneracy_judge, load_panel
from orchestrator.store.parts import TaskKey, TaskParts
from orchestrator.store.schemas import JUDGEMENTS, RESPONSE_KEY
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.tasks import NONFINITE, Prompt
from orchestrator.sweep.thoughts import Answers
from orchestrator.utils.hashing import text_id

FLUSH_ROWS = 50_000  # number of judgements in a part

Verdict = tuple[str | None, float | None]
"""(verdict, score)."""

NO_ANSWER: Verdict = (None, None)
"""The verdict that is stored for a response with the finish reason `nonfinite`, which no judge judges."""

VerdictOf = Callable[[Prompt, str], Verdict | None]
"""(prompt, answer) -> the verdict; None if it is not known yet."""


def score_with_text_judges(stored: StoredSweep) -> None:
    """Store the missing verdicts of the sweep's text judges and of the judge of degeneracy."""
    for judge in [*load_panel(stored), degeneracy_judge(stored)]:
        if not isinstance(judge, ModelJudge):
            score_missing(stored, judge)


def score_missing(
    stored: StoredSweep, judge: Judge, tasks: TaskParts | None = None, verdict_of: VerdictOf | None = None
) -> int:
    """Store a judge's verdict on every response that has none.

    Args:
        stored: The sweep.
        judge: The judge.
        tasks: The tasks whose responses are judged, with their parts. None: all stored tasks of the sweep.
        verdict_of: Returns the verdict on the answer in a response (`sweep.thoughts`), and is not called for a thought
            without an end. None: the judge itself. A task is skipped if any of its verdicts is None.

    Returns:
        The number of responses that were judged.
    """
    if tasks is None:
        tasks = stored.generations
    if verdict_of is None:
        verdict_of = _text_verdicts(judge)
    judged = stored.judged(judge.id)
    missing = {key: part for key, part in tasks.items() if key not in judged}
    if not missing:
        return 0
    writer = _JudgementWriter(stored, judge)
    prompts = {prompt.id: prompt for prompt_set in stored.prompt_sets for prompt in prompt_set.prompts}
    answers = Answers(stored.prompt_sets, stored.sweep.thought)
    cut = CutResponses(stored.prompt_sets, judge)

    def verdict_on(set_id: str, prompt_id: str, response: str) -> Verdict | None:
        if cut.holds(set_id, response):
            return CUT, None
        answer = answers.of(set_id, prompt_id, response)
        return (UNFINISHED, None) if answer is None else verdict_of(prompts[prompt_id], answer)

    for part, responses in stored.study.generations.rows(missing):
        verdicts = _score(judge, responses, verdict_on)
        writer.add(verdicts, part.tasks)
    writer.flush()
    stored.refresh_judgements(judge.id)
    return writer.total


def _text_verdicts(judge: Judge) -> VerdictOf:
    def verdict_of(prompt: Prompt, response: str) -> Verdict:
        if judge.source and judge.is_text:
            return checked_verdict(judge, prompt.text, response), None
        return judge.verdict(prompt.text, response), None

    return verdict_of


class _JudgementWriter:
    """Gathers verdicts and stores them in parts of FLUSH_ROWS or a little more."""

    def __init__(self, stored: StoredSweep, judge: Judge) -> None:
        self.total = 0
        self._judgements = stored.study.judgements(judge.id)
        self._tables: list[pa.Table] = []
        self._judged: dict[TaskKey, str] = {}

    def add(self, verdicts: pa.Table, observed: Mapping[TaskKey, str]) -> None:
        """Add verdicts. `observed`: the hash of the responses of each task."""
        self._tables.append(verdicts)
        keys = zip(verdicts["point_id"].to_pylist(), verdicts["prompt_set_id"].to_pylist(), strict=True)
        self._judged |= {key: observed[key] for key in keys}
        self.total += verdicts.num_rows
        if sum(table.num_rows for table in self._tables) >= FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Store the verdicts that were added since the last flush."""
        if self._tables:
            self._judgements.write(pa.concat_tables(self._tables), self._judged)
            self._tables.clear()
            self._judged.clear()


def _score(judge: Judge, responses: pa.Table, verdict_on: Callable[[str, str, str], Verdict | None]) -> pa.Table:
    """Return rows of JUDGEMENTS for these responses, without the tasks in which any verdict is not known yet.

    `verdict_on`: (prompt set id, prompt id, response) -> the verdict.
    """
    texts = responses["response"].to_pylist()
    keys = (responses[name].to_pylist() for name in ("prompt_set_id", "prompt_id"))
    verdicts = [
        NO_ANSWER if reason == NONFINITE else verdict_on(*row)
        for reason, *row in zip(responses["finish_reason"].to_pylist(), *keys, texts, strict=True)
    ]
    columns = {
        "judge_id": [judge.id] * responses.num_rows,
        **{name: responses[name] for name in RESPONSE_KEY},
        "response_id": [text_id(text) for text in texts],
        "verdict": [None if verdict is None else verdict[0] for verdict in verdicts],
        "score": [None if verdict is None else verdict[1] for verdict in verdicts],
    }
    table = pa.table(columns, schema=JUDGEMENTS)
    if None not in verdicts:
        return table
    tasks = list(zip(table["point_id"].to_pylist(), table["prompt_set_id"].to_pylist(), strict=True))
    incomplete = {task for task, verdict in zip(tasks, verdicts, strict=True) if verdict is None}
    return table.filter(pa.array([task not in incomplete for task in tasks]))
