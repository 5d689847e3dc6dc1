"""Verdicts that people give in the viewer.

Only a private viewer (`ViewerOptions.is_private`) takes them, and only from its own pages or from programs with its
token: a request must be JSON, which a page of another origin cannot send without asking first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

import pyarrow.compute as pc
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from orchestrator.report.viewer.sweep_view import SweepView
from orchestrator.store.human_verdicts import HumanVerdict, add_verdicts, now, read_verdicts
from orchestrator.sweep.tasks import NONFINITE
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import text_id
from orchestrator.utils.parsing import FormatError
from orchestrator.utils.records import JsonRecord

MAX_BYTES = 10_000
"""Most bytes of a request."""


@dataclass(frozen=True)
class Annotation(JsonRecord):
    """A verdict as a page sends it.

    Attributes:
        set: Index of the prompt set.
        prompt: Index of the prompt in its set.
        verdict: One of `human_verdicts.VERDICTS`.
        annotator: Name of the person.
    """

    set: int
    prompt: int
    verdict: str
    annotator: str


async def read_annotation(request: Request) -> Annotation | Response:
    """Return the verdict in a request, or the response that refuses it."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        return PlainTextResponse("Send the verdict as application/json.", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return PlainTextResponse("Verdicts come from the viewer's own pages.", HTTPStatus.FORBIDDEN)
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BYTES:
            return PlainTextResponse("This is too long for a verdict.", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    try:
        return Annotation.from_json(json.loads(body))
    except (FormatError, ValueError, TypeError, RecursionError) as error:
        return PlainTextResponse(f"This is no verdict: {error}.", HTTPStatus.BAD_REQUEST)


async def respond_to(annotation: Annotation, view: SweepView, point_id: str) -> Response:
    """Store a verdict on a response at a point, in the study."""
    try:
        await to_thread.run_sync(store_verdict, view, point_id, annotation)
    except FormatError as error:
        return PlainTextResponse(f"This verdict {error}.", HTTPStatus.BAD_REQUEST)
    return Response(status_code=HTTPStatus.NO_CONTENT)


def store_verdict(view: SweepView, point_id: str, annotation: Annotation) -> None:
    """Store a verdict on a response at a point, in the study.

    Raises:
        FormatError: The verdict or the name is not valid.
        UserError: There is no response there that can be judged.
    """
    for set_index, index, prompt_id, response_id in _judgeable(view, point_id):
        if (set_index, index) == (annotation.set, annotation.prompt):
            verdict = HumanVerdict(prompt_id, response_id, annotation.verdict, annotation.annotator.strip(), now())
            add_verdicts(view.stored.study, [verdict])
            return
    raise UserError("verdict", point_id, "there is no response that can be judged: it has no answer, or is not stored")


def people_at(view: SweepView, point_id: str) -> list[list[object]]:
    """Return the verdicts of people on the responses at a point: [prompt set, prompt, person, verdict] of each."""
    given: dict[tuple[str, str], list[HumanVerdict]] = {}
    for verdict in read_verdicts(view.stored.study):
        given.setdefault((verdict.prompt_id, verdict.response_id), []).append(verdict)
    return [
        [set_index, index, verdict.annotator, verdict.verdict]
        for set_index, index, *key in _judgeable(view, point_id)
        for verdict in given.get((key[0], key[1]), ())
    ]


def _judgeable(view: SweepView, point_id: str) -> Iterator[tuple[int, int, str, str]]:
    """Yield (prompt set, prompt, prompt id, response id) of each response at a point that a person can judge.

    Thoughts without an end, responses that are not finite, and questions with a right answer cannot be judged.
    """
    for set_index, prompts in enumerate(view.evidence.prompt_sets):
        keys = [(point_id, set_id) for set_id in view.stored.pooled.blocks[prompts.id]]
        parts = {key: view.stored.generations[key] for key in keys if key in view.stored.generations}
        if prompts.group == "capability":
            continue
        indices = {prompt.id: index for index, prompt in enumerate(prompts.prompts)}
        for _, table in view.stored.study.generations.rows(parts):
            finite = table.filter(pc.not_equal(table["finish_reason"], NONFINITE))
            rows = zip(finite["prompt_id"].to_pylist(), finite["response"].to_pylist(), strict=True)
            for prompt_id, response in rows:
                answer = view.answers.of(prompts.id, prompt_id, response)
                if answer is not None:
                    yield set_index, indices[prompt_id], prompt_id, text_id(answer)
