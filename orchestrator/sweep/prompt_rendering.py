"""The rendering of a sweep's prompts: the source of the chat template, and one rendered prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from orchestrator.sweep.tasks import MISSING_TEMPLATE, NO_TEMPLATE, PromptSet
from orchestrator.utils.records import JsonRecord

EXAMPLE_LENGTH = 400
"""Longest example in characters; a longer one is cut in the middle."""

_SOURCES = {
    "": "chat template not recorded (stored by an earlier version)",
    NO_TEMPLATE: "bare text without a chat template",
    MISSING_TEMPLATE: "no chat template: bare text",
}


@dataclass(frozen=True, kw_only=True)
class PromptRendering(JsonRecord):
    """The rendering of one prompt set: its template and an example.

    Attributes:
        template: Source of the chat template, see `PromptSet.template`.
        example: The first rendered prompt. If it is longer than EXAMPLE_LENGTH, its middle is replaced by " ... ".
    """

    probe_set: str
    group: str
    system_prompt: str
    template: str
    example: str

    @classmethod
    def of(cls, prompts: PromptSet) -> Self:
        """Return the rendering of a prompt set."""
        example, half = prompts.rendered[0], EXAMPLE_LENGTH // 2
        if len(example) > EXAMPLE_LENGTH:
            example = f"{example[:half]} ... {example[-half:]}"
        return cls(
            probe_set=prompts.probe_set,
            group=prompts.group,
            system_prompt=prompts.system_prompt,
            template=prompts.template,
            example=example,
        )

    def __str__(self) -> str:
        """Return the source of the template and the example as one line of text."""
        source = _SOURCES.get(self.template, f"chat template of {self.template}")
        return f"{source}; for example {self.example!r}"


def renderings(prompt_sets: Sequence[PromptSet]) -> tuple[PromptRendering, ...]:
    """Return the rendering of the first prompt set of each template and system prompt."""
    first: dict[tuple[str, str], PromptSet] = {}
    for prompts in prompt_sets:
        first.setdefault((prompts.template, prompts.system_prompt), prompts)
    return tuple(PromptRendering.of(prompts) for prompts in first.values())
