"""Join the verdicts of people to the responses of a sweep, and list the responses that people can judge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow.compute as pc

from orchestrator.judges._described import describe
from orchestrator.judges.human import JUDGE as HUMAN
from orchestrator.judges.human import UNLABELED
from orchestrator.scoring.text_judges import Verdict, score_missing
from orchestrator.store.human_verdicts import UNCLEAR, HumanVerdict, read_verdicts
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.tasks import NONFINITE, Prompt
from orchestrator.sweep.thoughts import Answers
from orchestrator.utils.hashing import content_id, text_id
from orchestrator.utils.records import JsonRecord

ResponseKey = tuple[str, str]
"""(prompt id, hash of the answer's text)."""


@dataclass(frozen=True)
class Annotator(JsonRecord):
    """The share of one person in a sweep's verdicts.

    Attributes:
        annotator: The person's name.
        verdicts: Number of different responses of the sweep that the person judged.
        first: Time of the first of these verdicts, in UTC.
        last: Time of the last one.
    """

    annotator: str
    verdicts: int
    first: str
    last: str


@dataclass(frozen=True)
class JudgedText:
    """A different response of a sweep that a person can judge: its answer, without the thought."""

    request: str
    text: str


def distinct_responses(stored: StoredSweep) -> dict[ResponseKey, JudgedText]:
    """Return every different response to the sweep's prompts, without questions that have a right answer.

    Thoughts without an end, and responses that are not finite, hold no answer and are left out.
    """
    sets = [prompts for prompts in stored.prompt_sets if prompts.group != "capability"]
    requests = {prompt.id: prompt.request for prompts in sets for prompt in prompts.prompts}
    set_ids = {prompts.id for prompts in sets}
    read = Answers(stored.prompt_sets, stored.sweep.thought)
    different: dict[ResponseKey, JudgedText] = {}
    parts = {key: part for key, part in stored.generations.items() if key[1] in set_ids}
    for _, table in stored.study.generations.rows(parts):
        finite = table.filter(pc.not_equal(table["finish_reason"], NONFINITE))
        columns = (finite[name].to_pylist() for name in ("prompt_set_id", "prompt_id", "response"))
        for set_id, prompt_id, response in zip(*columns, strict=True):
            answer = read.of(set_id, prompt_id, response)
            if answer is not None:
                different[prompt_id, text_id(answer)] = JudgedText(requests[prompt_id], answer)
    return different


def agreed(verdicts: Iterable[HumanVerdict]) -> dict[ResponseKey, str]:
    """Return the verdict on each response. Where people differ, it is UNCLEAR."""
    by_response: dict[ResponseKey, set[str]] = {}
    for verdict in verdicts:
        by_response.setdefault((verdict.prompt_id, verdict.response_id), set()).add(verdict.verdict)
    return {key: next(iter(given)) if len(given) == 1 else UNCLEAR for key, given in by_response.items()}


def score_with_people(stored: StoredSweep) -> None:
    """Store the verdicts of people on the responses of a sweep, with who gave them and when.

    The judge's id follows the verdicts: each time that people add some, all responses get verdicts under a new id.
    """
    given = read_verdicts(stored.study)
    known = agreed(given)
    judge = HUMAN.with_labels(content_id(sorted([*key, verdict] for key, verdict in known.items())))
    judge = judge.after_thought(stored.sweep.thought)
    here = distinct_responses(stored)
    people = annotators(verdict for verdict in given if (verdict.prompt_id, verdict.response_id) in here)
    stored.folder.write_description(describe(judge), {"annotators": [person.to_json() for person in people]})

    def verdict_of(prompt: Prompt, answer: str) -> Verdict:
        return known.get((prompt.id, text_id(answer)), UNLABELED), None

    score_missing(stored, judge, verdict_of=verdict_of)


def annotators(verdicts: Iterable[HumanVerdict]) -> list[Annotator]:
    """Return who gave these verdicts, by name."""
    times: dict[str, list[str]] = {}
    for verdict in verdicts:
        times.setdefault(verdict.annotator, []).append(verdict.judged_at)
    return [Annotator(name, len(at), min(at), max(at)) for name, at in sorted(times.items())]


def unlabeled(responses: Mapping[ResponseKey, JudgedText], given: Iterable[HumanVerdict]) -> list[ResponseKey]:
    """Return the keys of the responses on which there is no verdict, sorted."""
    return sorted(responses.keys() - {(verdict.prompt_id, verdict.response_id) for verdict in given})
