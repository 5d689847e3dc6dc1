"""The safety basin of a result, over all lines or planes and on each of them."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.utils.records import JsonRecord


@dataclass(frozen=True, kw_only=True)
class Estimate(JsonRecord):
    """A mean over lines or planes with its 95% interval over new random directions. `reason` explains a None."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class DirectionBasin(JsonRecord):
    """The safety basin on one line or plane; see `basin.Basin` and `basin.Shape`.

    Attributes:
        radius_low: Radius at the upper ends of the ASR intervals, or the distance up to which those stay below 50%.
        radius_high: Radius at the lower ends of the ASR intervals. None if those never reach 50%.
        shape_reason: Why a number of the shape is None.
    """

    line: int
    seed_x: int | None
    seed_y: int | None
    radius: float | None
    radius_low: float | None
    radius_high: float | None
    left: float | None
    right: float | None
    censored_at: float | None
    reason: str | None
    plateau: float | None = None
    steepness: float | None = None
    asymmetry: float | None = None
    area: float | None = None
    area_at_least: float | None = None
    shape_reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class BasinSummary(JsonRecord):
    """The safety basin of one result.

    `radius` and `censored_at` are the smallest over lines or planes, `left` and `right` the edges nearest to the origin
    (see `basin.combine`); `radius_low` and `radius_high` are the ends of the radius's interval over new probes (see
    `DirectionBasin`). The fields of type `Estimate` are means over lines or planes.
    """

    radius: float | None
    radius_low: float | None
    radius_high: float | None
    left: float | None
    right: float | None
    censored_at: float | None
    mean_radius: Estimate = Estimate()
    plateau: Estimate = Estimate()
    steepness: Estimate = Estimate()
    asymmetry: Estimate = Estimate()
    area: Estimate = Estimate()
    by_direction: tuple[DirectionBasin, ...]
    reason: str | None
