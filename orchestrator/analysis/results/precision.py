"""The variance components of VISAGE, and what a more precise VISAGE needs."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.utils.records import JsonRecord


@dataclass(frozen=True, kw_only=True)
class VarianceComponents(JsonRecord):
    """Variance of a response (100 refused, 0 not) in VISAGE, by its source, in percent squared; see `components`.

    Attributes:
        lines: Number of directions.
        probes: Number of probes.
        points: Points of a line that count, a harmonic mean over lines. None if nothing is known.
        direction: Between directions. None if unknown.
        probe: Between probes. None if unknown.
        interaction: Between probes on one direction, beyond the former two. None if unknown.
        residual: Between the responses to one probe along one direction, beyond what all probes share. None if unknown.
        reason: Why one is None.
    """

    lines: int
    probes: int
    points: float | None
    direction: float | None = None
    probe: float | None = None
    interaction: float | None = None
    residual: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class PrecisionPlan(JsonRecord):
    """The cheapest sweep whose interval of VISAGE over new directions and probes has a wanted half-width.

    Attributes:
        target: The wanted half-width, percent.
        directions: Number of directions, the present ones included. None if unknown or out of reach.
        probes: Number of probes, the present ones included. None if `directions` is None.
        half_width: The expected half-width with these numbers.
        present_half_width: The half-width by the same formula for the present numbers.
        responses: Number of responses of the whole sweep.
        seconds: Time of the whole sweep at the present sweep's pace. None if that is unknown.
        reason: Why there is no plan.
    """

    target: float
    directions: int | None = None
    probes: int | None = None
    half_width: float | None = None
    present_half_width: float | None = None
    responses: int | None = None
    seconds: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class DirectionsNeeded(JsonRecord):
    """Numbers of directions and probes that a more precise VISAGE needs.

    `more` is about the interval over directions alone, `plan` about that over directions and probes.

    Attributes:
        directions: Number of directions on which VISAGE is defined.
        spread: Standard deviation of VISAGE between them.
        half_width: Half the width of the present interval. None if unknown; `spread` is then None too.
        more: Number of directions to add to halve the interval over directions. None if unknown, or more than
            `intervals.MAX_DIRECTIONS`.
        components: Where the error comes from. None if VISAGE is undefined or the verdicts on single probes are not at
            hand, and in a summary of an earlier version.
        plan: The cheapest sweep with a wanted precision. None if `components` is, and in a summary of an earlier
            version.
    """

    directions: int
    spread: float | None
    half_width: float | None
    more: int | None
    reason: str | None
    components: VarianceComponents | None = None
    plan: PrecisionPlan | None = None
