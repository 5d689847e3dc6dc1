"""Summarize the safety basin over lines or planes, with the intervals of its radius and shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from orchestrator.analysis import basin, intervals
from orchestrator.analysis.causes import cause_of
from orchestrator.analysis.curves import Probes
from orchestrator.analysis.inferred import line_errors
from orchestrator.analysis.landscape import Lines, inferred_bounds, is_inferred, none_if_missing
from orchestrator.analysis.line_errors import error_over_directions
from orchestrator.analysis.results.basin import BasinSummary, DirectionBasin, Estimate
from orchestrator.analysis.summary.lines import average, axis_seeds, merge_reasons


def measure_basin(part: pd.DataFrame, column: str = "asr") -> basin.Basin:
    """Return the basin on one line or plane, from the ASR or from one end of its intervals (`column`)."""
    asr = [none_if_missing(value) for value in part[column].tolist()]
    causes = [cause_of(*pair) for pair in zip(part["n_nonfinite"], part["n_unfinished"], strict=True)]
    if part["beta"].isna().all():
        return basin.measure_line(part["alpha"].tolist(), asr, causes)
    return basin.measure_plane(part["alpha"].tolist(), part["beta"].tolist(), asr, causes)


def _measure_shape(part: pd.DataFrame, measured: basin.Basin) -> basin.Shape:
    asr = [none_if_missing(value) for value in part["asr"].tolist()]
    if part["beta"].isna().all():
        return basin.shape_on_line(part["alpha"].tolist(), asr, measured)
    return basin.shape_on_plane(part["alpha"].tolist(), part["beta"].tolist(), asr, measured)


def _low_everywhere(part: pd.DataFrame, probes: Probes, points: int) -> np.ndarray:
    """Return lower bounds of the ASR, in percent, that all hold at once with 97.5% confidence (Bonferroni).

    The upper end of a radius needs them: it is too small as soon as the bound of any of the points inside the basin is
    above 50%. The lower end does not: it depends on the points beside the crossing only.

    Args:
        part: Rows of a line or plane.
        probes: The probes of the result.
        points: Number of points whose bounds hold at once.
    """
    n = part["n"].to_numpy()
    confidence = 1 - (1 - intervals.CONFIDENCE) / max(points, 1)
    effective = probes.effective(n, confidence)
    low, _ = intervals.proportion(n - part["n_refused"].to_numpy(), n, confidence, effective)
    return np.where(is_inferred(part), inferred_bounds(part, confidence)[0], 100.0 * low)


@dataclass(frozen=True)
class _LineBasin:
    """The basin on one line or plane: at the measured ASR, and at the upper and lower ends of its intervals.

    The lower ends hold at all points of the line at once (`at_low`), or of all lines (`at_lowest`).
    """

    number: int
    part: pd.DataFrame
    measured: basin.Basin
    at_high: basin.Basin
    at_low: basin.Basin
    at_lowest: basin.Basin
    shape: basin.Shape

    @property
    def error(self) -> float:
        """Standard error that inferred points add to the radius."""
        errors = line_errors(self.part)
        return 0.0 if errors is None else errors.radius or 0.0

    @classmethod
    def measure(cls, number: int, part: pd.DataFrame, probes: Probes, points: int) -> _LineBasin:
        measured, at_high = measure_basin(part), measure_basin(part, "asr_high")
        bounds = [_low_everywhere(part, probes, count) for count in (_known_points(part), points)]
        at_low, at_lowest = (measure_basin(part.assign(bound=bound), "bound") for bound in bounds)
        return cls(number, part, measured, at_high, at_low, at_lowest, _measure_shape(part, measured))

    def summarize(self) -> DirectionBasin:
        seed_x, seed_y = axis_seeds(self.part)
        return DirectionBasin(
            line=self.number,
            seed_x=seed_x,
            seed_y=seed_y,
            radius=self.measured.radius,
            radius_low=widened_radius(self.measured.radius, _radius_at_least(self.at_high), self.error),
            radius_high=widened_radius(self.measured.radius, self.at_low.radius, self.error),
            left=self.measured.left,
            right=self.measured.right,
            censored_at=self.measured.censored_at,
            reason=self.measured.reason,
            plateau=self.shape.plateau,
            steepness=self.shape.steepness,
            asymmetry=self.shape.asymmetry,
            area=self.shape.area,
            area_at_least=self.shape.area_at_least,
            shape_reason=self.shape.reason,
        )


def _known_points(rows: pd.DataFrame) -> int:
    return int(rows.loc[rows["asr"].notna(), "point_id"].nunique())


def summarize_basin(lines: Lines, probes: Probes) -> BasinSummary:
    """Return the basin of one result: on each line or plane, the smallest, and the means of its shape."""
    points = _known_points(pd.concat([part for _, part in lines]))
    line_basins = [_LineBasin.measure(number, part, probes, points) for number, part in lines]
    overall = basin.combine([line.measured for line in line_basins])
    on_lines = all(part["beta"].isna().all() for _, part in lines)
    shape_reasons = [line.shape.reason for line in line_basins]

    def mean_of(name: str, bounds: tuple[float, float] = (0.0, math.inf)) -> Estimate:
        return _mean_over(lines, [getattr(line.shape, name) for line in line_basins], shape_reasons, bounds)

    error = max(line.error for line in line_basins)
    radii, reasons = [line.measured.radius for line in line_basins], [line.measured.reason for line in line_basins]
    return BasinSummary(
        radius=overall.radius,
        radius_low=widened_radius(
            overall.radius, _radius_at_least(basin.combine([line.at_high for line in line_basins])), error
        ),
        radius_high=widened_radius(
            overall.radius, basin.combine([line.at_lowest for line in line_basins]).radius, error
        ),
        left=overall.left,
        right=overall.right,
        censored_at=overall.censored_at,
        mean_radius=_mean_over(lines, radii, reasons, (0.0, math.inf), _grid_step(lines)),
        plateau=mean_of("plateau", (0.0, 100.0)),
        steepness=mean_of("steepness"),
        asymmetry=mean_of("asymmetry", (-1.0, 1.0)) if on_lines else Estimate(reason="a plane has no left and right"),
        area=Estimate(reason="a line has no area") if on_lines else mean_of("area"),
        by_direction=tuple(line.summarize() for line in line_basins),
        reason=overall.reason,
    )


def _radius_at_least(measured: basin.Basin) -> float | None:
    """Return the radius, or else the distance up to which 50% is not crossed. None if the basin is undefined."""
    return measured.radius if measured.radius is not None else measured.censored_at


def widened_radius(
    radius: float | None, end: float | None, error: float, confidence: float = intervals.CONFIDENCE
) -> float | None:
    """Return an end of a radius's interval, moved outward by the error that inferred points add to the radius.

    The half-widths are combined as the root of the sum of squares. An end stays where it is if the radius is unknown.

    Args:
        radius: The radius.
        end: The end of its interval over new probes.
        error: The standard error that inferred points add.
        confidence: Confidence of the two-sided interval.
    """
    if radius is None or end is None or error == 0.0:
        return end
    half = math.hypot(end - radius, float(special.ndtri((1 + confidence) / 2)) * error)
    return radius + half if end > radius else max(radius - half, 0.0)


def _grid_step(lines: Lines) -> float:
    """Return the distance between neighboring points of the grid along alpha: radii are no more exact than that."""
    alphas = np.unique(np.concatenate([part.loc[part["on_grid"], "alpha"].to_numpy() for _, part in lines]))
    return float(np.median(np.diff(alphas))) if len(alphas) > 1 else 0.0


def _mean_over(
    lines: Lines,
    values: Sequence[float | None],
    reasons: Sequence[str | None],
    bounds: tuple[float, float],
    step: float = 0.0,
) -> Estimate:
    """Return a mean over lines with its interval over new directions, cut at `bounds`.

    It is undefined if one line has no value: no line is left out. `step`: see `intervals.error_over_directions`.
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        pairs = zip(lines, values, reasons, strict=True)
        lacking = [(number, reason) for (number, _), value, reason in pairs if value is None]
        return Estimate(reason="; ".join(merge_reasons(lacking, len(lines))))
    mean = average(known)
    interval = intervals.interval(mean, [error_over_directions(lines, known, step)], bounds)
    return Estimate(value=mean, low=interval.low, high=interval.high, reason=interval.reason)
