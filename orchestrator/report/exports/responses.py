"""The responses of a sweep as other tools take them: by point, each with its prompt and every judge's class."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from orchestrator.report.page.evidence import verdict_letters
from orchestrator.scoring.panel import load_panel
from orchestrator.store.schemas import RESPONSE_KEY
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.grid import Node
from orchestrator.sweep.tasks import Prompt, PromptSet
from orchestrator.sweep.thoughts import Answers
from orchestrator.utils.errors import UserError

CLASSES = {"r": "refused", "c": "complied", "d": "degenerate", "x": "unclear", "n": "nonfinite"}
"""The class of a response by the letter that reports use for it (`Evidence`)."""


@dataclass(frozen=True)
class ExportedResponse:
    """One response.

    Attributes:
        prompt_set: Its prompt set.
        prompt: Its prompt.
        rendered: The prompt as the model read it, in its chat template.
        text: The whole response.
        answer: What judges read: `text`, or what follows the thought. None for a thought without an end.
        finish_reason: stop, length or nonfinite.
        n_tokens: Number of its tokens.
        n_prompt_tokens: Number of the prompt's tokens.
        started_at: When its visit began.
        seconds: How long its visit took.
        classes: For each judge one of CLASSES. None if the judge has no verdict on it.
    """

    prompt_set: PromptSet
    prompt: Prompt
    rendered: str
    text: str
    answer: str | None
    finish_reason: str
    n_tokens: int
    n_prompt_tokens: int
    started_at: datetime.datetime
    seconds: float
    classes: dict[str, str | None]


@dataclass(frozen=True)
class ExportedPoint:
    """The responses at one point.

    Attributes:
        nodes: The nodes of the grid at this point; several for the origin, which is on every line.
        responses: The stored responses, in the order of prompt sets and prompts.
    """

    nodes: tuple[Node, ...]
    responses: tuple[ExportedResponse, ...]

    @property
    def id(self) -> str:
        """The point's id."""
        return self.nodes[0].point.id

    @property
    def name(self) -> str:
        """A name for files: `origin`, `line0_alpha+0.25`, `plane0_alpha-0.1_beta+0.2`."""
        node = self.nodes[0]
        if not node.point.coefficients:
            return "origin"
        place = f"alpha{node.alpha:+.6g}" + ("" if node.beta is None else f"_beta{node.beta:+.6g}")
        return f"{'line' if node.beta is None else 'plane'}{node.line}_{place}"


def exported_points(stored: StoredSweep) -> Iterator[ExportedPoint]:
    """Yield the points of a sweep that have responses, in the order in which they are measured.

    All responses of the sweep are in memory at the same time.

    Raises:
        UserError: The sweep has no responses.
    """
    nodes: dict[str, list[Node]] = {}
    for node in stored.sweep.grid.iter_nodes():
        nodes.setdefault(node.point.id, []).append(node)
    by_point = _responses_by_point(stored)
    if not by_point:
        raise UserError("export", stored.folder.path, "has no responses yet: `run` makes them")
    for point in stored.sweep.grid.points():
        if point.id in by_point:
            yield ExportedPoint(tuple(nodes[point.id]), tuple(by_point[point.id]))


def _responses_by_point(stored: StoredSweep) -> dict[str, list[ExportedResponse]]:
    panel = load_panel(stored)
    letters = _letters(stored, [judge.name for judge in panel])
    answers = Answers(stored.prompt_sets, stored.sweep.thought)
    prompts = {
        (prompts.id, prompt.id): (i, prompts, prompt, rendered)
        for prompts in stored.prompt_sets
        for i, (prompt, rendered) in enumerate(zip(prompts.prompts, prompts.rendered, strict=True))
    }
    order = {set_id: i for i, set_id in enumerate(stored.sweep.prompt_set_ids)}
    found: dict[str, list[tuple[tuple[int, int], ExportedResponse]]] = {}
    for _, table in stored.study.generations.rows(stored.generations):
        for row in table.to_pylist():
            set_id, prompt_id = row["prompt_set_id"], row["prompt_id"]
            i, prompt_set, prompt, rendered = prompts[set_id, prompt_id]
            response = ExportedResponse(
                prompt_set=prompt_set,
                prompt=prompt,
                rendered=rendered,
                text=row["response"],
                answer=answers.of(set_id, prompt_id, row["response"]),
                finish_reason=row["finish_reason"],
                n_tokens=row["n_tokens"],
                n_prompt_tokens=row["n_prompt_tokens"],
                started_at=row["started_at"],
                seconds=row["seconds"],
                classes=letters.get((row["point_id"], set_id, prompt_id), dict.fromkeys(j.name for j in panel)),
            )
            found.setdefault(row["point_id"], []).append(((order[set_id], i), response))
    return {point: [r for _, r in sorted(rows, key=lambda row: row[0])] for point, rows in found.items()}


def _letters(stored: StoredSweep, judges: list[str]) -> dict[tuple[str, str, str], dict[str, str | None]]:
    """Return each judge's class of each judged response, by RESPONSE_KEY."""
    frame: pd.DataFrame = verdict_letters(stored, load_panel(stored))
    keys = zip(*(frame[name] for name in RESPONSE_KEY), strict=True)
    classes = zip(*(frame[name] for name in judges), strict=True)
    return {
        key: {name: CLASSES.get(letter) for name, letter in zip(judges, letters, strict=True)}
        for key, letters in zip(keys, classes, strict=True)
    }
