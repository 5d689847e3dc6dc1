"""The rendering of a sweep's prompts: the source of the chat template, and one rendered prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from orchestrator.sweep.tasks import MISSING_TEMPLATE, NO_TEMPLATE, PromptSet
from orchestrator.sweep.thoughts import opened_tag
from orchestrator.utils.records import JsonRecord

EXAMPLE_LENGTH = 400
"""Most characters of a rendered prompt in an example; the middle of a longer one is left out."""

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
        thought: Closing tag of the thoughts after which responses are judged. Empty: whole responses are judged.
        opens_thought: Whether the rendered prompts open a thought.
    """

    probe_set: str
    group: str
    system_prompt: str
    template: str
    example: str
    thought: str = ""
    opens_thought: bool = False

    @classmethod
    def of(cls, prompts: PromptSet, thought: str = "") -> Self:
        """Return the rendering of a prompt set in a sweep with these thoughts (`Sweep.thought`)."""
        example, half = prompts.rendered[0], EXAMPLE_LENGTH // 2
        if len(example) > EXAMPLE_LENGTH:
            example = f"{example[:half]} ... {example[-half:]}"
        return cls(
            probe_set=prompts.probe_set,
            group=prompts.group,
            system_prompt=prompts.system_prompt,
            template=prompts.template,
            example=example,
            thought=thought,
            opens_thought=bool(opened_tag(prompts)),
        )

    def __str__(self) -> str:
        """Return the source of the template and the example as one line of text."""
        source = _SOURCES.get(self.template, f"chat template of {self.template}")
        if self.opens_thought:
            source += ", which opens a thought"
        if self.thought:
            source += f"; judged is what follows {self.thought}"
        elif self.opens_thought:
            source += "; verdicts are about the thought too"
        return f"{source}; for example {self.example!r}"


def renderings(prompt_sets: Sequence[PromptSet], thought: str = "") -> tuple[PromptRendering, ...]:
    """Return the rendering of the first prompt set of each template and system prompt; see `PromptRendering.of`."""
    first: dict[tuple[str, str], PromptSet] = {}
    for prompts in prompt_sets:
        first.setdefault((prompts.template, prompts.system_prompt), prompts)
    return tuple(PromptRendering.of(prompts, thought) for prompts in first.values())
