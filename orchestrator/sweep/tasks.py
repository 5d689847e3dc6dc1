"""What is stored, counted and retried (task), and what is scheduled (visit). Pure values.

A task is one point asked one prompt set. A visit is one point with all its missing prompt sets:
the weights are written once and everything is generated in one batch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.sweep.points import Point
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id, text_id


@dataclass(frozen=True)
class Prompt:
    """One question, named by its raw text (and choices), so that two models' prompts pair.

    `target`: what its response is held against: of a question the right answer, of an attack the plain request.
    """

    text: str
    group: str = "harmful"
    category: str = ""
    pair_id: str | None = None
    target: str | None = None
    choices: tuple[str, ...] = ()

    @functools.cached_property
    def id(self) -> str:
        return content_id([self.text, list(self.choices)]) if self.choices else text_id(self.text)

    @property
    def request(self) -> str:
        """What a judge is told was asked for: of an attack the plain request inside it, where that is known."""
        return self.target if self.group == "jailbreak" and self.target else self.text


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn. Greedy: the landscape is a function of the weights alone."""

    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    letters: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens, "stop": list(self.stop), "letters": list(self.letters)}


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one group, rendered for one model, with their sampling.

    `probe_set`, `system_prompt` and `origin` name where it came from, for people; what they change is already
    in the token ids, which are the identity together with group, prompt ids and sampling.
    """

    group: str
    prompts: tuple[Prompt, ...]
    rendered: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    sampling: Sampling
    probe_set: str = ""
    system_prompt: str = ""
    origin: str = ""

    @functools.cached_property
    def id(self) -> str:
        return content_id(
            [
                self.group,
                [prompt.id for prompt in self.prompts],
                [list(ids) for ids in self.token_ids],
                self.sampling.to_json(),
            ]
        )


@dataclass(frozen=True, slots=True)
class Task:
    """One point asked one prompt set."""

    point: Point
    prompt_set_id: str

    @property
    def key(self) -> tuple[str, str]:
        """(point id, prompt set id): the task's identity."""
        return self.point.id, self.prompt_set_id


def parse_part(part: str | None) -> tuple[int, int]:
    """Return (i, n) for `cluster.part=i/n`, and (1, 1) for None. Raises UserError for anything else."""
    if part is None:
        return 1, 1
    match = re.fullmatch(r"(\d+)/(\d+)", part, re.ASCII)
    i, n = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= i <= n:
        raise UserError("cluster.part", part, "write the i-th of n parts as i/n, the first being 1/n, such as 1/4")
    return i, n


def shares(tasks: Iterable[Task], n: int) -> dict[Point, int]:
    """Which of n shares, 1 to n, each point is in: every n-th is in the same, so that each share goes from coarse to
    fine as the whole does."""
    found: dict[Point, int] = {}
    for task in tasks:
        found.setdefault(task.point, len(found) % n + 1)
    return found


@dataclass(frozen=True, slots=True)
class Visit:
    """One point with all the prompt sets to be asked there, in the sweep's order."""

    point: Point
    prompt_set_ids: tuple[str, ...]
    _id: str = field(default="", init=False, repr=False, compare=False)

    @property
    def id(self) -> str:
        if not self._id:  # kept without a dictionary, as a point's is
            object.__setattr__(self, "_id", content_id([self.point.id, list(self.prompt_set_ids)]))
        return self._id


def visits(tasks: Iterable[Task]) -> list[Visit]:
    """Tasks gathered by point, both in the order in which they came."""
    gathered: dict[Point, list[str]] = {}
    for task in tasks:
        gathered.setdefault(task.point, []).append(task.prompt_set_id)
    return [Visit(point, tuple(ids)) for point, ids in gathered.items()]
