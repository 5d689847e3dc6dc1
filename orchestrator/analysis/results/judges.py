"""The verdicts of each judge, and the agreement of two judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from orchestrator.analysis.results.keys import PromptsKey
from orchestrator.scoring.human import Annotator
from orchestrator.utils.records import JsonRecord


@dataclass(frozen=True, kw_only=True)
class VerdictCounts(PromptsKey):
    """The verdicts of a judge on one prompt set, summed over all points.

    Attributes:
        verdicts: Number of responses by verdict.
        mean_score: Mean of the judge's scores. None if it gives none.
    """

    verdicts: Mapping[str, int]
    mean_score: float | None


JUDGE_RECORD: Mapping[str, Any] = {
    "source": str | None,
    "revision": str | None,
    "fingerprint": str,
    "dtype": str,
    "answers": str,
    "unparsed_examples": tuple[str, ...],
    "file": str,
    "file_sha256": str,
    "annotators": tuple[Annotator, ...],
}
"""The keys of `JudgeSummary.record` and the types of their values."""


@dataclass(frozen=True, kw_only=True)
class JudgeSummary(JsonRecord):
    """The verdicts of one judge.

    Attributes:
        record: For a model judge, `source`, `revision`, `fingerprint` and `dtype` of its weights, `answers` (the name
            of the study that holds its answers) and `unparsed_examples`, as far as they were recorded. For a judge of
            the user's, `file` and `file_sha256`. For the judge `human`, `annotators` (`scoring.human.Annotator`). Empty
            for other text judges. In JSON these are keys of the judge itself.
        unparsed: Number of answers that its parser could not read.
    """

    judge: str
    judge_id: str
    version: int
    record: Mapping[str, Any] = field(default_factory=dict)
    unparsed: int
    sets: tuple[VerdictCounts, ...]

    @property
    def unparsed_examples(self) -> list[str]:
        """Some of the answers that could not be read."""
        return list(self.record.get("unparsed_examples", ()))

    def to_json(self) -> dict[str, Any]:
        """Return the judge as JSON values."""
        value: dict[str, Any] = {}
        for key, item in super().to_json().items():
            value |= item if key == "record" else {key: item}
        return value

    @classmethod
    def json_types(cls) -> dict[str, tuple[Any, bool]]:
        """Return the type of each key, and whether it is always there."""
        types = super().json_types()
        del types["record"]
        return types | {key: (kind, False) for key, kind in JUDGE_RECORD.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the judge that `value` was made from."""
        record = {key: value[key] for key in JUDGE_RECORD if key in value}
        return super().from_json({**value, "record": record})


@dataclass(frozen=True, kw_only=True)
class Disagreements(JsonRecord):
    """The number of responses at a point on which two judges differ."""

    point_id: str
    n: int


@dataclass(frozen=True, kw_only=True)
class Disagreement(JsonRecord):
    """A response on which two judges differ. `verdicts` are those of the first and of the second judge."""

    point_id: str
    prompt_id: str
    verdicts: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class AgreementSummary(PromptsKey):
    """The agreement of two judges on one prompt set; see `analysis.agreement`.

    Attributes:
        judges: The names of the two.
        n: Number of responses on which both have a verdict.
        agreement: Percentage of those on which they agree. None if there are none.
        kappa: Cohen's kappa. None if undefined.
        reason: Why kappa is None.
        differ_at: The points with the most differences.
        differ_on: The first responses on which they differ.
    """

    judges: tuple[str, str]
    n: int
    both_refused: int
    only_first_refused: int
    only_second_refused: int
    both_complied: int
    agreement: float | None
    kappa: float | None
    reason: str | None
    differ_at: tuple[Disagreements, ...]
    differ_on: tuple[Disagreement, ...]
