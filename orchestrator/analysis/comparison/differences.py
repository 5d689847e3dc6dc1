"""The typed result of a comparison, which `compare --json` prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from orchestrator.analysis.results.basin import BasinSummary
from orchestrator.analysis.results.classes import SuccessClasses
from orchestrator.analysis.results.keys import ResultKey
from orchestrator.analysis.results.scores import MarginSummary, VisageIntervals, VisageSummary
from orchestrator.utils.records import JsonRecord

SCHEMA = "comparison/1"


@dataclass(frozen=True, kw_only=True)
class SweepHeadline(JsonRecord):
    """The numbers of one of the sweeps; see `SweepSummary`."""

    name: str
    study_id: str
    sweep_id: str
    model: str
    primary: ResultKey
    origin_asr: float | None
    visage: VisageSummary
    margin: MarginSummary | None
    basin: BasinSummary
    degenerate_share: float | None
    degenerate_version: int | None = None
    classes: SuccessClasses | None = None


@dataclass(frozen=True, kw_only=True)
class ShareDifference(JsonRecord):
    """The difference of the shares of degenerate successes, in percent, second minus first.

    Attributes:
        first: The first sweep's share: corrected for the judge's errors if both can be, else as the judge calls it.
        second: The second sweep's share.
        difference: None if the shares cannot be compared.
        low: Lower end of its 95% interval. None if the shares are not corrected.
        high: Upper end of the same interval.
        reason: Why there is no difference or no interval.
    """

    first: float | None
    second: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Difference(JsonRecord):
    """A difference in percent, second minus first, with its 95% interval and p-value.

    `p_corrected` is corrected for the number of tests; see `correction.correct`. Each value is None if it is undefined.
    """

    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_corrected: float | None


@dataclass(frozen=True, kw_only=True)
class PointDifference(JsonRecord):
    """The difference of ASR at a point that both sweeps measured, in percent; see `Difference`.

    Attributes:
        beta: None on a line.
        n: Number of probes with a verdict in both sweeps. If probes do not pair, their number in the first sweep.
    """

    line: int
    alpha: float
    beta: float | None
    point_id: str
    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float


@dataclass(frozen=True, kw_only=True)
class ScoreDifference(Difference):
    """The difference of VISAGE or of the mean margin.

    Attributes:
        about: Variation that the interval and the p-value cover: new `directions`, new `probes` or `both`. None if
            undefined.
        over: The intervals over new directions, new probes and both. None if the difference itself is undefined.
        paired_lines: Number of lines that were paired. 0 if no line pairs and the scores in the two summaries were
            compared.
        reason: Why a value is undefined. None if there is nothing to explain.
    """

    about: str | None
    over: VisageIntervals | None
    paired_lines: int
    reason: str | None

    @classmethod
    def undefined(cls, reason: str) -> Self:
        """Return a difference in which every number is undefined."""
        return cls(
            first=None,
            second=None,
            difference=None,
            low=None,
            high=None,
            p=None,
            p_corrected=None,
            about=None,
            over=None,
            paired_lines=0,
            reason=reason,
        )


@dataclass(frozen=True, kw_only=True)
class SweepDifference(JsonRecord):
    """Difference between one sweep and the first.

    Attributes:
        first: Name of the first sweep.
        second: Name of the other sweep.
        paired_probes: Number of probes in common. 0 if probes are not paired.
        paired_points: Number of points that both sweeps measured.
        visage: The difference of VISAGE.
        margin: The difference of the mean margin.
        degenerate: The difference of the shares of degenerate successes. None in a comparison without any result.
        points: The difference of ASR at each paired point.
        reason: Other differences between the sweeps, and probes that were left out. None if there are none.
    """

    first: str
    second: str
    paired_probes: int
    paired_points: int
    visage: ScoreDifference
    margin: ScoreDifference
    points: tuple[PointDifference, ...]
    reason: str | None
    degenerate: ShareDifference | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison(JsonRecord):
    """The result of `compare`."""

    schema: str = SCHEMA
    sweeps: tuple[SweepHeadline, ...]
    differences: tuple[SweepDifference, ...]
