"""Questions in the format of lm-evaluation-harness: a line with the subject, solved examples, and "Answer:".

The format is that of its task MMLU (lm_eval 0.4.13: tasks/mmlu/default, `ConfigurableTask.fewshot_context`). Pure
functions. docs/capability.md says which of its settings are reproduced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.sweep.tasks import Prompt
from orchestrator.utils.choices import Turns
from orchestrator.utils.errors import UserError

CUE = "\nAnswer:"
_BETWEEN = "\n\n"

Example = tuple[str, str]
"""A question with its choices and the cue, and the letter of its right answer."""


@dataclass(frozen=True)
class Conversation:
    """A conversation that the model continues with its answer.

    Attributes:
        system: The system message. None: none, so that the template's default applies. "": an empty one.
        turns: The messages, by the user and the assistant in turn. The last one is the user's.
    """

    system: str | None
    turns: tuple[str, ...]


@dataclass(frozen=True)
class FewShot:
    """Solved examples before each question of a probe set.

    Attributes:
        turns: How examples and question are put to the model.
        examples: Category -> its examples, in the order of their file.
    """

    turns: Turns
    examples: Mapping[str, tuple[Example, ...]]

    def conversation(self, system: str | None, prompt: Prompt) -> Conversation:
        """Return the examples of a prompt's category and the prompt.

        Args:
            system: The sweep's system prompt, which comes before the subject's line.
            prompt: The prompt; its text begins with `subject_line` of its category.
        """
        subject = subject_line(prompt.category)
        question = prompt.text.removeprefix(subject)
        examples = self.examples.get(prompt.category, ())
        context = "".join(f"{asked} {letter}{_BETWEEN}" for asked, letter in examples)
        if self.turns == Turns.plain:
            return Conversation(system, (subject + context + question,))
        system = f"{system}{_BETWEEN}{subject}" if system else subject
        if self.turns == Turns.chat:
            return Conversation(system, (context + question,))
        return Conversation(system, (*(turn for example in examples for turn in example), question))

    def continuation(self, letter: str) -> str:
        """Return the text that answers with a letter: after a space in plain text, at the start of a chat's turn."""
        return f" {letter}" if self.turns == Turns.plain else letter


def subject_line(category: str) -> str:
    """Return the line before the examples, with the empty line after it. `category` is empty for a set without any."""
    about = f" about {category.replace('_', ' ')}" if category else ""
    return f"The following are multiple choice questions (with answers){about}.{_BETWEEN}"


def few_shot(turns: Turns, shots: int, solved: Sequence[Prompt], categories: Sequence[str], where: str) -> FewShot:
    """Return the first `shots` solved questions of each category.

    Args:
        turns: How examples and question are put to the model.
        shots: Number of examples.
        solved: Questions with answers.
        categories: The categories of the probe set's questions.
        where: The name of the examples' file or split, for errors.

    Raises:
        UserError: A category has fewer examples (probes.shots).
    """
    examples = {}
    for category in dict.fromkeys(categories):
        same_category = [prompt for prompt in solved if prompt.category == category][:shots]
        if len(same_category) < shots:
            remedy = (
                f"{where} has only {len(same_category)} solved examples of {category or 'these questions'}: lower it"
            )
            raise UserError("probes.shots", shots, remedy)
        subject = subject_line(category)
        examples[category] = tuple((prompt.text.removeprefix(subject), prompt.target or "") for prompt in same_category)
    return FewShot(turns, examples)
