"""Summarize VISAGE and the mean margin over lines or planes, with their intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from orchestrator.analysis import intervals, visage
from orchestrator.analysis.causes import cause_of
from orchestrator.analysis.components import decompose, single_response_variance
from orchestrator.analysis.intervals import Error
from orchestrator.analysis.landscape import Lines, coordinates, is_inferred
from orchestrator.analysis.line_errors import CHOSEN, error_over_directions, error_over_probes, probe_arrays
from orchestrator.analysis.results.precision import DirectionsNeeded
from orchestrator.analysis.results.scores import (
    DirectionMargin,
    DirectionVisage,
    MarginSummary,
    VisageIntervals,
    VisageSummary,
)
from orchestrator.analysis.summary.lines import average, merge_reasons, numbers_and_seeds
from orchestrator.scoring.clusters import design_effect
from orchestrator.scoring.counts import ProbeVerdicts


def summarize_visage(lines: Lines, verdicts: ProbeVerdicts | None, inapplicable: str | None) -> VisageSummary:
    """Return VISAGE of one result. `inapplicable`: why it has none, from `visage.why_inapplicable`."""
    scores = [
        visage.Visage(None, None, inapplicable) if inapplicable else visage.measure(*_on_grid(part))
        for _, part in lines
    ]
    left_out = [
        _inferred_points(part) if score.points else (0, 0) for score, (_, part) in zip(scores, lines, strict=True)
    ]
    by_direction = tuple(
        DirectionVisage(
            line=number,
            seed_x=seed_x,
            seed_y=seed_y,
            paper=score.paper,
            released=score.released,
            reason=score.reason,
            points=score.points - inferred,
            counted=score.counted - inferred_counted,
        )
        for (number, seed_x, seed_y), score, (inferred, inferred_counted) in zip(
            numbers_and_seeds(lines), scores, left_out, strict=True
        )
    )
    values = [score.paper for score in scores]
    mean = _mean_score(visage.VISAGE, lines, values, by_direction, verdicts)
    return VisageSummary(
        paper=mean.value,
        released=mean.released,
        points=sum(direction.points or 0 for direction in by_direction),
        counted=sum(direction.counted or 0 for direction in by_direction),
        inferred=sum(inferred for inferred, _ in left_out),
        inferred_counted=sum(counted for _, counted in left_out),
        low=mean.over.directions.low,
        high=mean.over.directions.high,
        over=mean.over,
        enough=_needed(lines, values, mean.directions, verdicts),
        by_direction=by_direction,
        reason=mean.reason,
        released_reason=mean.released_reason,
    )


def summarize_margin(lines: Lines, verdicts: ProbeVerdicts | None, inapplicable: str | None) -> MarginSummary:
    """Return the mean margin of one result; `inapplicable` as for `summarize_visage`."""
    scores = [
        visage.Margin(None, None, inapplicable) if inapplicable else visage.measure_margin(*_on_grid(part))
        for _, part in lines
    ]
    by_direction = tuple(
        DirectionMargin(
            line=number,
            seed_x=seed_x,
            seed_y=seed_y,
            value=score.value,
            released=score.released,
            reason=score.reason,
        )
        for (number, seed_x, seed_y), score in zip(numbers_and_seeds(lines), scores, strict=True)
    )
    mean = _mean_score(visage.MEAN_MARGIN, lines, [score.value for score in scores], by_direction, verdicts)
    return MarginSummary(
        value=mean.value,
        released=mean.released,
        over=mean.over,
        by_direction=by_direction,
        reason=mean.reason,
        released_reason=mean.released_reason,
    )


@dataclass(frozen=True)
class _MeanScore:
    """The mean of a score over lines or planes, as the fields of `VisageSummary` and `MarginSummary` describe it.

    Attributes:
        directions: Its error over new directions.
    """

    value: float | None
    released: float | None
    over: VisageIntervals
    directions: Error
    reason: str | None
    released_reason: str | None


def _mean_score(
    score: visage.Score,
    lines: Lines,
    values: Sequence[float | None],
    by_direction: Sequence[DirectionVisage] | Sequence[DirectionMargin],
    verdicts: ProbeVerdicts | None,
) -> _MeanScore:
    """Return the mean of a score over the lines that have it.

    Args:
        score: The score.
        lines: Every line or plane.
        values: The score on each of them.
        by_direction: Its record on each of them.
        verdicts: Verdicts by point and probe. None leaves the intervals over new probes undefined.
    """
    defined = [value for value in values if value is not None]
    over, directions = _intervals(score, lines, values, verdicts)
    reasons = merge_reasons([(direction.line, direction.reason) for direction in by_direction], len(lines))
    if len(defined) == 1 and directions.reason:
        reasons.append(directions.reason)
    released, released_reason = _mean_released(by_direction, lines)
    return _MeanScore(average(defined), released, over, directions, "; ".join(reasons) or None, released_reason)


def _inferred_points(part: pd.DataFrame) -> tuple[int, int]:
    """Return the number of inferred points of a line in VISAGE's range, and of those whose ASR is below 100%."""
    inferred = is_inferred(part) & part["asr"].notna().to_numpy()
    if not inferred.any():
        return 0, 0
    inferred &= part["on_grid"].to_numpy(dtype=bool) & visage.in_range(coordinates(part))
    return int(inferred.sum()), int((inferred & (part["asr"].to_numpy() < visage.S_MAX)).sum())


def _on_grid(part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return coordinates [point, axis], ASR [point] and `cause_of` [point] of the equally spaced nodes of a line."""
    on_grid = part["on_grid"].to_numpy(dtype=bool)
    pairs = zip(part["n_nonfinite"][on_grid], part["n_unfinished"][on_grid], strict=True)
    return coordinates(part)[on_grid], part["asr"].to_numpy()[on_grid], [cause_of(*pair) for pair in pairs]


def _intervals(
    score: visage.Score, lines: Lines, values: Sequence[float | None], verdicts: ProbeVerdicts | None
) -> tuple[VisageIntervals, Error]:
    """Return the intervals of the mean of a score over the lines that have it, and its error over new directions.

    Args:
        score: The score.
        lines: Every line or plane.
        values: The score on each of them.
        verdicts: Verdicts by point and probe. None leaves the intervals over new probes undefined.
    """
    defined = [(part, value) for (_, part), value in zip(lines, values, strict=True) if value is not None]
    mean = average([value for _, value in defined])
    prompts = max(int(part["n"].max()) for _, part in lines)
    noise = 0.0
    if verdicts is not None and len(defined) > 1:
        refused, _ = probe_arrays([part for part, _ in defined], verdicts)
        noise = single_response_variance(decompose(refused, everywhere=score is visage.MEAN_MARGIN))
        noise *= design_effect(verdicts.refused, verdicts.labels())
    directions = error_over_directions(lines, [value for _, value in defined], 100.0 / max(prompts, 1), noise)
    probes = error_over_probes(score, [part for part, _ in defined], verdicts)
    over = VisageIntervals(
        directions=intervals.error_interval(mean, directions),
        probes=intervals.error_interval(mean, probes),
        both=intervals.interval(mean, [directions, probes]),
    )
    return over, directions


def _mean_released(
    by_direction: Sequence[DirectionVisage] | Sequence[DirectionMargin], lines: Lines
) -> tuple[float | None, str | None]:
    """Return the mean over lines of a score as the published code computes it, or None and the reason.

    No line is left out: it is None if any line lacks the score.
    """
    known = [direction.released for direction in by_direction if direction.released is not None]
    if len(known) == len(by_direction):
        return average(known), None
    if any(part["beta"].notna().any() for _, part in lines):
        return None, "the published code computes it on lines only"
    lacking = [(direction.line, direction.reason) for direction in by_direction if direction.released is None]
    return None, "; ".join(merge_reasons(lacking, len(lines)))


def _needed(
    lines: Lines,
    values: Sequence[float | None],
    directions: Error,
    verdicts: ProbeVerdicts | None,
) -> DirectionsNeeded:
    """Return what a more precise VISAGE needs; the plan is made by `components.with_plans`.

    Args:
        lines: Every line or plane.
        values: VISAGE on each of them.
        directions: Its error over new directions.
        verdicts: Verdicts by point and probe. None leaves the components of the variance unknown.
    """
    defined = [(part, value) for (_, part), value in zip(lines, values, strict=True) if value is not None]
    needed = _directions_needed(directions, [value for _, value in defined])
    if verdicts is None or not defined:
        return needed
    components = decompose(probe_arrays([part for part, _ in defined], verdicts)[0])
    if directions.reason == CHOSEN:
        components = dataclasses.replace(components, direction=None, reason=CHOSEN)
    return dataclasses.replace(needed, components=components)


def _directions_needed(directions: Error, scores: Sequence[float]) -> DirectionsNeeded:
    """Return the spread between directions, and how many more would halve the interval over directions."""
    half_width = directions.half_width()
    if half_width is None or directions.se is None:
        return DirectionsNeeded(
            directions=len(scores), spread=None, half_width=None, more=None, reason=directions.reason
        )
    more = intervals.more_directions(directions.se, len(scores))
    return DirectionsNeeded(
        directions=len(scores),
        spread=float(np.std(scores, ddof=1)),
        half_width=half_width,
        more=more,
        reason=None if more is not None else f"more than {intervals.MAX_DIRECTIONS}",
    )
