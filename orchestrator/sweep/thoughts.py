"""The thoughts of reasoning models: which responses begin with one, and what follows it. Pure functions.

A reasoning model writes a thought, a closing tag such as `</think>`, and then its answer. Judges read the answer. As in
vLLM's reasoning parsers, the answer is everything after the first closing tag, which is what a user of the deployed
model sees. A thought without a closing tag is unfinished: there is no answer to judge.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.sweep.tasks import PromptSet

AUTO, NEVER = "auto", "none"
"""Values of `model.thought`: find the closing tag in the chat template, and judge whole responses."""

CLOSING_TAGS = ("</think>", "</thinking>", "</thought>", "</reasoning>", "</seed:think>", "[/THINK]", "◁/think▷")
"""Closing tags that are searched for in chat templates. The opening tag is the same text without the slash."""


USER_TURN = "\n\nUser: "
"""Text before each but the first message of the user in the text of a conversation."""


def opening_tag(closing: str) -> str | None:
    """Return the tag that opens a thought; None if the closing tag has no slash, and the opening one is unknown."""
    return closing.replace("/", "", 1) if "/" in closing else None


def tag_in(template: str) -> str:
    """Return the closing tag of the thoughts that a chat template mentions, by either tag. Empty if there is none."""
    for closing in CLOSING_TAGS:
        if closing in template or (opening_tag(closing) or closing) in template:
            return closing
    return ""


def _state(rendered: str, text: str, closing: str) -> bool | None:
    """Return whether a rendered prompt opens a thought: None if it leaves that to the model, False if it closes one.

    Tags in the prompt's own text, such as in a question about them, do not count.

    Args:
        rendered: The prompt as the model reads it.
        text: The prompt's own text.
        closing: The closing tag.
    """
    own = text.strip()
    if own not in rendered:  # the text of a conversation, of which the template renders each turn
        own = own.rpartition(USER_TURN)[2]
    _, _, after = rendered.rpartition(own) if own else ("", "", rendered)
    opening = opening_tag(closing)
    closed, opened = after.rfind(closing), -1 if opening is None else after.rfind(opening)
    return None if closed == opened == -1 else opened > closed


def _states(prompts: PromptSet, closing: str) -> list[bool | None]:
    pairs = zip(prompts.rendered, prompts.prompts, strict=True)
    return [_state(rendered, prompt.text, closing) for rendered, prompt in pairs]


def can_think(prompts: PromptSet, closing: str) -> bool:
    """Return whether responses may begin with a thought: unless there is no closing tag, or all prompts close one.

    Templates that were told not to think end in an empty thought.
    """
    return bool(closing) and any(state is not False for state in _states(prompts, closing))


def opened_tag(prompts: PromptSet) -> str:
    """Return the closing tag of the thought that the rendered prompts open. Empty if they open none."""
    return next((tag for tag in CLOSING_TAGS if any(_states(prompts, tag))), "")


def without_thought(response: str, closing: str, opened: bool | None) -> str | None:
    """Return the answer in a response: what follows the first closing tag and white space.

    Args:
        response: The response.
        closing: The closing tag.
        opened: Whether the prompt opens a thought. False: it closes one, so that none is expected. None: the model
            decides.

    Returns:
        The response itself if it has no thought. None if its thought has no end.
    """
    _, found, answer = response.partition(closing)
    if found:
        return answer.lstrip()
    opening = opening_tag(closing)
    begins = opened is None if opening is None else response.lstrip().startswith(opening)
    return None if opened or begins else response


class Answers:
    """The answers in a sweep's responses."""

    def __init__(self, prompt_sets: Sequence[PromptSet], closing: str) -> None:
        """Read from the rendered prompts which of them open a thought.

        Args:
            prompt_sets: The sweep's prompt sets.
            closing: The closing tag of its thoughts (`Sweep.thought`). Empty: every response is an answer.
        """
        self._closing = closing
        self._opened: dict[tuple[str, str], bool | None] = {}
        if closing:
            for prompts in prompt_sets:
                for prompt, state in zip(prompts.prompts, _states(prompts, closing), strict=True):
                    self._opened[prompts.id, prompt.id] = state

    def of(self, prompt_set_id: str, prompt_id: str, response: str) -> str | None:
        """Return the answer in a response. None: its thought has no end."""
        if not self._closing:
            return response
        return without_thought(response, self._closing, self._opened[prompt_set_id, prompt_id])

    def shown(self, prompt_set_id: str, prompt_id: str, response: str) -> str:
        """Return the text of a response to show: its answer, or a remark that there is none."""
        answer = self.of(prompt_set_id, prompt_id, response)
        return UNFINISHED_TEXT if answer is None else answer


UNFINISHED_TEXT = "[unfinished thought]"
"""Shown instead of a response whose thought has no end."""
