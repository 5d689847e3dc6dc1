"""Judges whose code or settings are not part of this program, described well enough to read their verdicts.

Such a judge is a user's file or package, or depends on a call's options. When it judges a sweep, its description is
stored with the sweep. Its verdicts can then be counted and shown on any machine, without running code that came with
the study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.judges import UNFINISHED, Judge
from orchestrator.judges._model import ModelJudge, ParsedVerdict
from orchestrator.utils.choices import PromptGroup
from orchestrator.utils.errors import UserError
from orchestrator.utils.records import JsonRecord


@dataclass(frozen=True)
class JudgeDescription(JsonRecord):
    """The description with which to read a judge's verdicts.

    Attributes:
        judge_id: The judge's id.
        name: Its name.
        version: Its version.
        verdicts: Every verdict that it can return.
        outcomes: Prompt group -> verdict -> `refused`, `complied` or None. Groups to which it does not apply are left
            out.
        thought: Closing tag of the thoughts after which it judges.
        runs_model: Whether it is a model judge.
        least_share: As in `Judge`.
        source: SHA-256 of the file that defines it. Empty if its code is this program's.
        origin: Name of that file, or of the package that holds it.
    """

    judge_id: str
    name: str
    version: int
    verdicts: tuple[str, ...]
    outcomes: Mapping[str, Mapping[str, str | None]]
    thought: str = ""
    runs_model: bool = False
    least_share: float = 0.0
    source: str = ""
    origin: str = ""


def describe(judge: Judge) -> JudgeDescription:
    """Return the description of a judge."""
    return JudgeDescription(
        judge_id=judge.id,
        name=judge.name,
        version=judge.version,
        verdicts=judge.verdicts,
        outcomes={
            group: {verdict: judge.outcome(verdict, group) for verdict in judge.verdicts if verdict != UNFINISHED}
            for group in map(str, PromptGroup)
            if judge.applies_to(group)
        },
        thought=judge.thought,
        runs_model=isinstance(judge, ModelJudge),
        least_share=judge.least_share,
        source=judge.source,
        origin=judge.origin,
    )


class DescribedJudge(Judge):
    """A judge as its description: its verdicts can be read, but not made.

    Attributes:
        description: The description.
    """

    is_text = False

    def __init__(self, description: JudgeDescription) -> None:
        self.description = description
        self.name = description.name  # type: ignore[misc]
        self.version = description.version
        self.verdicts = description.verdicts
        self.thought = description.thought
        self.least_share = description.least_share
        self.source = description.source
        self.origin = description.origin
        self.id = description.judge_id

    @property
    def parameters(self) -> dict[str, Any]:
        """Raise AssertionError: they are not known, and only the id depends on them."""
        raise AssertionError(f"the parameters of {self.name} are not stored")

    def verdict(self, prompt: str, response: str) -> str:
        """Raise UserError: the code is not here."""
        remedy = "has not judged all responses, and its code is not loaded: run `judge` with "
        remedy += f"judge.path={self.origin}" if self.origin.endswith(".py") else "the options with which it judged"
        raise UserError("judge", self.name, remedy)

    def applies_to(self, group: str) -> bool:
        """Return whether the judge applied to this group when it was described."""
        return group in self.description.outcomes

    def outcome(self, verdict: str, group: str) -> str | None:
        """Return how the verdict was counted when the judge was described."""
        return self.description.outcomes.get(group, {}).get(verdict)


class DescribedModelJudge(DescribedJudge, ModelJudge):
    """A model judge as its description."""

    def parse(self, answer: str) -> ParsedVerdict:
        """Raise AssertionError: the parser is not here."""
        raise AssertionError(f"the parser of {self.name} is not loaded")


def from_description(description: JudgeDescription) -> DescribedJudge:
    """Return the judge of a description."""
    return (DescribedModelJudge if description.runs_model else DescribedJudge)(description)
