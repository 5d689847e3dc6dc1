"""VISAGE and the mean margin of a result, over all lines or planes and on each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.analysis.intervals import ErrorInterval, Interval
from orchestrator.analysis.results.precision import DirectionsNeeded
from orchestrator.utils.records import JsonRecord


@dataclass(frozen=True, kw_only=True)
class VisageIntervals(JsonRecord):
    """95% intervals of VISAGE or of the mean margin over new directions, over new probes, and over both."""

    directions: ErrorInterval
    probes: ErrorInterval
    both: Interval


@dataclass(frozen=True, kw_only=True)
class DirectionVisage(JsonRecord):
    """VISAGE of one line or plane; see `visage.Visage`.

    Attributes:
        line: Number of the line or plane, from 0.
        seed_x: Seed of the first axis. None if that axis is not random.
        seed_y: Seed of the second axis. None if there is no such axis, or if it is not random.
        paper: Equation 5 of the paper, percent. None if undefined.
        released: The score as the published code computes it, percent. None if undefined, and on planes.
        reason: Why `paper` is None, and which points were left out.
        points: Number of measured points in the range. None in a summary of an earlier version.
        counted: Number of those at which any attack fails: the points that `paper` averages.
            None in a summary of an earlier version.
    """

    line: int
    seed_x: int | None
    seed_y: int | None
    paper: float | None
    released: float | None
    reason: str | None
    points: int | None = None
    counted: int | None = None


@dataclass(frozen=True, kw_only=True)
class VisageSummary(JsonRecord):
    """VISAGE of one result.

    Attributes:
        paper: Equation 5 of the paper, mean over lines or planes.
        released: The score as the published code computes it, mean over lines. None on planes, and if any line lacks
            it.
        points: Number of measured points in the range, summed over lines or planes. None in a summary of an earlier
            version.
        counted: Number of those at which any attack fails. None in a summary of an earlier version.
        inferred: Number of inferred points in the range, which the score rests on too.
        inferred_counted: Number of those at which the inferred ASR is below 100%.
        low: Lower end of the interval of `paper` over new directions.
        high: Upper end of the same interval.
        over: The intervals of `paper` over new directions, over new probes, and over both. None in a summary of an
            earlier version.
        enough: How many directions and probes a more precise VISAGE needs. None in a summary of an earlier version.
        by_direction: The scores of each line or plane.
        reason: Why `paper` is None or has no interval, and which points or lines were left out.
        released_reason: Why `released` is None. None if there is nothing to explain.
    """

    OPTIONAL_KEYS: ClassVar[frozenset[str]] = frozenset({"inferred", "inferred_counted"})

    paper: float | None
    released: float | None
    points: int | None = None
    counted: int | None = None
    inferred: int = 0
    inferred_counted: int = 0
    low: float | None
    high: float | None
    over: VisageIntervals | None = None
    enough: DirectionsNeeded | None = None
    by_direction: tuple[DirectionVisage, ...]
    reason: str | None
    released_reason: str | None = None

    @property
    def value(self) -> float | None:
        """The score that is quoted: `paper`."""
        return self.paper

    @property
    def all_points(self) -> int | None:
        """Number of measured and inferred points in the range. None in a summary of an earlier version."""
        return None if self.points is None else self.points + self.inferred


@dataclass(frozen=True, kw_only=True)
class DirectionMargin(JsonRecord):
    """The mean margin of one line or plane; see `visage.Margin` and, for the other fields, `DirectionVisage`."""

    line: int
    seed_x: int | None
    seed_y: int | None
    value: float | None
    released: float | None
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class MarginSummary(JsonRecord):
    """The mean margin of one result: the mean of 100 - ASR over all points of VISAGE's range.

    Attributes:
        value: Percent, mean over lines or planes. None if undefined.
        released: The same as the published code's `safety_region` integrates it, mean over lines. None on planes, and
            if any line lacks it.
        over: The intervals of `value` over new directions, over new probes, and over both.
        by_direction: The mean margin of each line or plane.
        reason: Why `value` is None or has no interval, and which points were left out.
        released_reason: Why `released` is None. None if there is nothing to explain.
    """

    value: float | None
    released: float | None
    over: VisageIntervals
    by_direction: tuple[DirectionMargin, ...]
    reason: str | None
    released_reason: str | None
