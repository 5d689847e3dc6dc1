"""Prompts, prompt sets, tasks and visits, as immutable values.

A task is one point with one prompt set: the unit that is stored, counted and retried. A visit is one point with all its
missing prompt sets: the unit that is scheduled. In a visit the weights are written once and all responses are generated
in one batch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.sweep.points import Point
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id, text_id
from orchestrator.utils.records import check_types

NO_TEMPLATE, MISSING_TEMPLATE = "none", "missing"
"""Sources of a chat template where there is none: the bare text was requested, or the tokenizer has no template."""

NONFINITE = "nonfinite"
"""The finish reason of a response that ended because the model's logits were not finite: it is no answer."""


@dataclass(frozen=True)
class Prompt:
    """One prompt, identified by its raw text and choices, so that the same prompt has the same id for every model.

    Attributes:
        text: The raw text, before the chat template.
        group: harmful, benign, jailbreak or capability.
        category: Name for tables; empty for none.
        pair_id: Prompts with the same id belong together. None: no pair.
        target: The correct answer to a question, or the plain request inside an attack. None if there is none.
        choices: The answers to choose from; empty for an open question.
    """

    text: str
    group: str = "harmful"
    category: str = ""
    pair_id: str | None = None
    target: str | None = None
    choices: tuple[str, ...] = ()

    @functools.cached_property
    def id(self) -> str:
        """Content hash: 16 hexadecimal digits."""
        return content_id([self.text, list(self.choices)]) if self.choices else text_id(self.text)

    @property
    def request(self) -> str:
        """The request that a judge reads: for an attack, the plain request inside it, if it is known; else the text."""
        return self.target if self.group == "jailbreak" and self.target else self.text


@dataclass(frozen=True)
class Sampling:
    """Settings for generating responses. Decoding is always greedy, so that the landscape depends on the weights alone.

    Attributes:
        max_tokens: Maximum number of tokens of a response.
        stop: Strings that end a response.
        letters: Answer letters whose log-probabilities are stored, for multiple-choice questions.
        letter_tokens: The token that stands for each letter, as lm-evaluation-harness scores them. Empty: a letter's
            probability is the sum over the tokens that spell it with and without a leading space.
        kept: Special tokens that stay in the text of a response: tags of thoughts. Others are left out.
    """

    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    letters: tuple[str, ...] = ()
    letter_tokens: tuple[int, ...] = ()
    kept: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON; the last two only if they are not empty, since ids of prompt sets contain them."""
        fields = {"max_tokens": self.max_tokens, "stop": list(self.stop), "letters": list(self.letters)}
        later = {"letter_tokens": list(self.letter_tokens), "kept": list(self.kept)}
        return fields | {name: value for name, value in later.items() if value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Sampling:
        """Return the sampling that `to_json` describes. Raises FormatError if a field has another type."""
        letters, tokens = tuple(value["letters"]), tuple(value.get("letter_tokens", ()))
        kept = tuple(value.get("kept", ()))
        return check_types(cls(value["max_tokens"], tuple(value["stop"]), letters, tokens, kept))


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one group, rendered for one model, with their sampling.

    Its identity is group, prompt ids, token ids and sampling. `probe_set`, `system_prompt`, `origin` and `template` are
    only human-readable names, because their effect is contained in the token ids.

    Attributes:
        rendered: The text of each prompt in the model's chat template.
        token_ids: The token ids of each rendered prompt.
        template: Source of the chat template: the name of the model's file or of data/templates, "none" for the bare
            text, or "missing" for the bare text because the tokenizer has no template. Empty in prompt sets that were
            stored by earlier versions.
        thought: Closing tag of the thought with which responses may begin, known while prompts are rendered. It is not
            stored here but in the sweep's request, because the same responses can be judged with and without it.
    """

    group: str
    prompts: tuple[Prompt, ...]
    rendered: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    sampling: Sampling
    probe_set: str = ""
    system_prompt: str = ""
    origin: str = ""
    template: str = ""
    thought: str = field(default="", compare=False)

    @functools.cached_property
    def id(self) -> str:
        """Content hash: 16 hexadecimal digits."""
        return content_id(
            [
                self.group,
                [prompt.id for prompt in self.prompts],
                [list(ids) for ids in self.token_ids],
                self.sampling.to_json(),
            ]
        )

    @property
    def names(self) -> tuple[str, str, str]:
        """Probe set, group and system prompt. Prompt sets of a sweep that share them are blocks of one probe set."""
        return self.probe_set, self.group, self.system_prompt

    @property
    def letter_scoring(self) -> str | None:
        """Name of the format in which letters are scored; formats are not comparable. None without letters."""
        if not self.sampling.letters:
            return None
        return "lm-evaluation-harness's format" if self.sampling.letter_tokens else "this project's own format"


@dataclass(frozen=True, slots=True)
class Task:
    """One point with one prompt set."""

    point: Point
    prompt_set_id: str

    @property
    def key(self) -> tuple[str, str]:
        """The task's identity: (point id, prompt set id)."""
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


def assign_parts(tasks: Iterable[Task], n: int) -> dict[Point, int]:
    """Divide the points among n parts; return point -> part, 1 to n.

    Every n-th point is in the same part, so that each part runs from coarse to fine as the whole sweep does.
    """
    parts: dict[Point, int] = {}
    for task in tasks:
        parts.setdefault(task.point, len(parts) % n + 1)
    return parts


@dataclass(frozen=True, slots=True)
class Visit:
    """One point with all the prompt sets to which responses are generated there, in the order of the sweep."""

    point: Point
    prompt_set_ids: tuple[str, ...]
    _id: str = field(default="", init=False, repr=False, compare=False)

    @property
    def id(self) -> str:
        """Content hash: 16 hexadecimal digits."""
        if not self._id:  # cached without a dictionary, as in `Point`
            object.__setattr__(self, "_id", content_id([self.point.id, list(self.prompt_set_ids)]))
        return self._id


def visits(tasks: Iterable[Task]) -> list[Visit]:
    """Group tasks by point. Points and prompt sets keep the order of the tasks."""
    grouped: dict[Point, list[str]] = {}
    for task in tasks:
        grouped.setdefault(task.point, []).append(task.prompt_set_id)
    return [Visit(point, tuple(ids)) for point, ids in grouped.items()]
