"""Checkpoints on a line or plane: their results and their distance from the model."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.analysis.results.basin import Estimate
from orchestrator.analysis.results.keys import ResultKey
from orchestrator.utils.records import JsonRecord


@dataclass(frozen=True, kw_only=True)
class CheckpointResult(ResultKey):
    """The result at a checkpoint, for one combination of probe set, system prompt and judge.

    Attributes:
        n: Number of verdicts.
        surface: ASR of the line or plane at the checkpoint's coordinates, interpolated linearly between its points.
            None outside of them, and beside a point without ASR.
        surface_low: Lower end of its interval over new probes: the same interpolation of the points' lower ends. None
            in a summary of an earlier version.
        surface_high: Its upper end, likewise.
        published: The paper's ASR after a comparable finetuning. None if the paper reports none, or if it was measured
            in another setting.
        published_note: Where the paper prints it, or why it is not comparable. None if the paper reports none.
    """

    n: int
    asr: float | None
    asr_low: float | None
    asr_high: float | None
    surface: float | None
    surface_low: float | None = None
    surface_high: float | None = None
    published: float | None = None
    published_note: str | None = None


SMALLEST_RADIUS, MEAN_RADIUS = "smallest radius", "mean radius"


@dataclass(frozen=True, kw_only=True)
class MatchedDistance(JsonRecord):
    """Distance of a checkpoint in radii along random directions that are as long as its displacement.

    Attributes:
        direction: Kind of the directions, such as `shuffled`.
        radii: The distance in units of `mean_radius`. None if it is unknown.
        radii_low: Lower end of the interval that the interval of `mean_radius` implies.
        radii_high: Its upper end. None if the lower end of `mean_radius` is 0 or unknown.
        mean_radius: Mean radius over these directions, in units of the length of the checkpoint's displacement.
        directions: Number of directions.
        sweep_id: The sweep that measured them.
        reason: Why `radii` is None, or a remark on it.
    """

    direction: str
    radii: float | None
    radii_low: float | None
    radii_high: float | None
    mean_radius: Estimate
    directions: int
    sweep_id: str
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class CheckpointSummary(JsonRecord):
    """A checkpoint on a line or plane, or projected onto it.

    Attributes:
        line: Number of the line or plane.
        mark: The checkpoint's name.
        beta: None on a line.
        projected: True if the checkpoint is off the line or plane; the coordinates are then those of the nearest point
            on it.
        results: One for each combination.
        distance: Distance from the model in units of alpha of a random direction. None if unknown.
        radii: The same distance in units of the basin's radius along random directions. None if it is unknown.
        radius: The basin's smallest radius over random directions. None if unknown; see `radius_reason`.
        radius_of: Id of the sweep that measured the radii. None if there is no such sweep.
        radius_reason: Why `radii` is None, or a remark on the radius.
        mean_radius: The mean radius over the same directions.
        radii_unit: The radius that is the unit of `radii`: the mean over directions, `mean_radius`. In summaries of
            earlier versions it is the smallest, `radius`.
        radii_low: Lower end of the interval of `radii` that the interval of `mean_radius` implies.
        radii_high: Its upper end. None if the lower end of `mean_radius` is 0 or unknown.
        matched: The distance in radii along random directions of its own length (`grid.match`), by their kind. Empty
            if the study has no such sweep.
    """

    line: int
    mark: str
    point_id: str
    alpha: float
    beta: float | None
    projected: bool
    results: tuple[CheckpointResult, ...]
    distance: float | None = None
    radii: float | None = None
    radius: float | None = None
    radius_of: str | None = None
    radius_reason: str | None = None
    mean_radius: Estimate = field(default_factory=Estimate)
    radii_unit: str = SMALLEST_RADIUS
    radii_low: float | None = None
    radii_high: float | None = None
    matched: tuple[MatchedDistance, ...] = ()
