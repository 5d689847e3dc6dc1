"""Compute the numbers of summary.json from a landscape: its scores, basin and checkpoints, each with its interval.

Pure functions. Percentages run from 0 to 100 and distances are in units of alpha. An undefined number is None, with a
reason, and never NaN. docs/statistics.md says what each interval covers and derives every formula.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis import basin, intervals, resampling, visage
from orchestrator.analysis.components import decompose, single_response_variance
from orchestrator.analysis.curves import Probes, mean_curves
from orchestrator.analysis.intervals import Error
from orchestrator.analysis.landscape import (
    PRIMARY_GROUP,
    combinations,
    coordinates,
    none_if_missing,
    origin_row,
    split_lines,
)
from orchestrator.analysis.results.basin import BasinSummary, DirectionBasin, Estimate
from orchestrator.analysis.results.checkpoints import CheckpointResult, CheckpointSummary
from orchestrator.analysis.results.keys import RESULT_KEY, ResultKey
from orchestrator.analysis.results.precision import DirectionsNeeded
from orchestrator.analysis.results.scores import (
    DirectionMargin,
    DirectionVisage,
    MarginSummary,
    VisageIntervals,
    VisageSummary,
)
from orchestrator.analysis.results.sweep import INTERVALS_VERSION, ResultSummary, SweepSummary
from orchestrator.scoring.clusters import design_effect
from orchestrator.scoring.counts import OUTCOME, SUMS, Combination, ProbeVerdicts

Lines = Sequence[tuple[int, pd.DataFrame]]
"""A pair (number, rows) for each line or plane: the result of `split_lines`."""

_MEASURED = ["line", "alpha", "beta", "on_grid", "point_id", "seed_x", "seed_y", *SUMS, "asr", "asr_low", "asr_high"]
_NO_VERDICTS = "the verdicts on single probes are not at hand"
_CHOSEN = "directions toward checkpoints are chosen, not drawn: nothing can be inferred about new ones"


def summarize(
    landscape: pd.DataFrame,
    verdicts: Mapping[Combination, ProbeVerdicts] | None = None,
    grid: Mapping[str, Any] | None = None,
) -> SweepSummary:
    """Return the numbers of a landscape: the primary result at the top level, every combination in `results`.

    The fields about the sweep itself (its id, its cost, its judges) keep their defaults.

    Args:
        landscape: As `build_landscape` returns it.
        verdicts: Verdicts by point and probe, for each combination. None leaves the intervals over new probes
            undefined.
        grid: The grid as JSON, which decides whether VISAGE is defined. None: random directions that have it.
    """
    known, inapplicable = verdicts or {}, visage.why_inapplicable(grid or {})
    results = [
        _summarize_result(key, rows, known.get(key.combination), inapplicable) for key, rows in combinations(landscape)
    ]
    first = next((result for result in results if result.group == PRIMARY_GROUP), results[0])
    # a point is done if any judge has judged it: another run would not change answers that a judge model left unparsed
    judged = (landscape["n"] > 0) | landscape["n_correct"].notna()
    by_set = judged.groupby([landscape[key] for key in ("point_id", "probe_set", "group", "system_prompt")]).max()
    done = by_set.groupby("point_id").min()
    return SweepSummary(
        points_done=int(done.sum()),
        points_total=len(done),
        primary=first.key,
        prompts=first.prompts,
        points_missing=first.points_missing,
        origin_asr=first.origin_asr,
        origin_low=first.origin_low,
        origin_high=first.origin_high,
        visage=first.visage,
        margin=first.margin,
        basin=first.basin,
        degenerate_share=first.degenerate_share,
        results=tuple(results),
        intervals_version=INTERVALS_VERSION,
    )


def _summarize_result(
    key: ResultKey, rows: pd.DataFrame, verdicts: ProbeVerdicts | None, inapplicable: str | None
) -> ResultSummary:
    """Return the numbers of one combination. `inapplicable`: why it has no VISAGE, from `visage.why_inapplicable`."""
    probes = Probes.of(verdicts)
    curves = mean_curves(rows, probes, are_drawn=not _are_chosen([rows]))
    rows = rows[_MEASURED]  # the lines are copied below: drop the columns that they do not need
    distinct = ~rows["point_id"].duplicated()
    on_grid = rows["on_grid"].astype(bool)
    grid = rows.loc[on_grid & ~rows["point_id"].where(on_grid).duplicated(), ["n", "n_refused", "n_degenerate"]]
    successes = int((grid["n"] - grid["n_refused"]).sum())
    lines = split_lines(rows)
    origin = origin_row(rows)
    asr, low, high = (
        None if origin is None else none_if_missing(origin[name]) for name in ("asr", "asr_low", "asr_high")
    )
    return ResultSummary(
        probe_set=key.probe_set,
        group=key.group,
        system_prompt=key.system_prompt,
        judge=key.judge,
        prompts=int(rows["n"].max()),
        points_missing=int((rows["n"][distinct] == 0).sum()),
        origin_asr=asr,
        origin_low=low,
        origin_high=high,
        visage=_summarize_visage(lines, verdicts, inapplicable),
        margin=_summarize_margin(lines, verdicts, inapplicable),
        basin=_summarize_basin(lines, probes),
        degenerate_share=100.0 * int(grid["n_degenerate"].sum()) / successes if successes else None,
        clusters=probes.clusters,
        curves=curves,
    )


# VISAGE and the mean margin.


def _summarize_visage(lines: Lines, verdicts: ProbeVerdicts | None, inapplicable: str | None) -> VisageSummary:
    scores = [
        visage.Visage(None, None, inapplicable) if inapplicable else visage.measure(*_on_grid(part))
        for _, part in lines
    ]
    by_direction = tuple(
        DirectionVisage(
            line=number,
            seed_x=seed_x,
            seed_y=seed_y,
            paper=score.paper,
            released=score.released,
            reason=score.reason,
            points=score.points,
            counted=score.counted,
        )
        for (number, seed_x, seed_y), score in zip(_identities(lines), scores, strict=True)
    )
    values = [score.paper for score in scores]
    mean = _mean_score(visage.VISAGE, lines, values, by_direction, verdicts)
    return VisageSummary(
        paper=mean.value,
        released=mean.released,
        points=sum(score.points for score in scores),
        counted=sum(score.counted for score in scores),
        low=mean.over.directions.low,
        high=mean.over.directions.high,
        over=mean.over,
        enough=_needed(lines, values, mean.directions, verdicts),
        by_direction=by_direction,
        reason=mean.reason,
        released_reason=mean.released_reason,
    )


def _summarize_margin(lines: Lines, verdicts: ProbeVerdicts | None, inapplicable: str | None) -> MarginSummary:
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
        for (number, seed_x, seed_y), score in zip(_identities(lines), scores, strict=True)
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
    reasons = _merge_reasons([(direction.line, direction.reason) for direction in by_direction], len(lines))
    if len(defined) == 1 and directions.reason:
        reasons.append(directions.reason)
    released, released_reason = _mean_released(by_direction, lines)
    return _MeanScore(_mean(defined), released, over, directions, "; ".join(reasons) or None, released_reason)


def _on_grid(part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates [point, axis] and ASR [point] of the equally spaced nodes of a line or plane."""
    on_grid = part["on_grid"].to_numpy(dtype=bool)
    return coordinates(part)[on_grid], part["asr"].to_numpy()[on_grid]


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
    mean = _mean([value for _, value in defined])
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
        return _mean(known), None
    if any(part["beta"].notna().any() for _, part in lines):
        return None, "the published code computes it on lines only"
    lacking = [(direction.line, direction.reason) for direction in by_direction if direction.released is None]
    return None, "; ".join(_merge_reasons(lacking, len(lines)))


def error_over_directions(lines: Lines, values: Sequence[float], step: float = 0.0, noise: float = 0.0) -> Error:
    """Return the error, over new directions, of the mean of these lines' values.

    It is unknown if the lines go toward checkpoints, which are chosen and not drawn. For `step` and `noise` see
    `intervals.error_over_directions`.
    """
    if len(values) > 1 and _are_chosen([part for _, part in lines]):
        return Error(None, None, _CHOSEN)
    return intervals.error_over_directions(values, step, noise)


def _are_chosen(parts: Sequence[pd.DataFrame]) -> bool:
    """Return whether the directions of all these rows lead to checkpoints."""
    return all(part[["seed_x", "seed_y"]].isna().all(axis=None) for part in parts)


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
    if directions.reason == _CHOSEN:
        components = dataclasses.replace(components, direction=None, reason=_CHOSEN)
    return dataclasses.replace(needed, components=components)


def _directions_needed(directions: Error, scores: Sequence[float]) -> DirectionsNeeded:
    """Return the number of further directions that would halve the interval over directions."""
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
        reason=None if more is not None else f"more than {intervals.MOST_DIRECTIONS}",
    )


def probe_arrays(
    lines: Sequence[pd.DataFrame], verdicts: ProbeVerdicts, prompts: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the verdicts and coordinates of the points that count for VISAGE.

    Args:
        lines: Rows of each line or plane.
        verdicts: Verdicts by point and probe.
        prompts: Ids of the prompts to take, in this order. None: all.

    Returns:
        refused: [line, point, prompt], 1 refused, 0 not, NaN without a verdict.
        coordinates: [line, point, axis]. Shorter lines are padded with NaN in both.
    """
    selected = list(verdicts.prompts if prompts is None else prompts)
    kept = []
    for part in lines:
        positions = coordinates(part)
        used = part["on_grid"].to_numpy(dtype=bool) & (part["n"].to_numpy() > 0) & visage.in_range(positions)
        kept.append((part["point_id"].to_numpy()[used], positions[used]))
    longest = max(len(points) for points, _ in kept)
    padded = np.full((len(kept), longest, kept[0][1].shape[1]), np.nan)
    for k, (points, positions) in enumerate(kept):
        padded[k, : len(points)] = positions
    if len(kept) == 1:  # this array may be large: it is not copied
        return verdicts.at(kept[0][0], selected)[None], padded
    refused = np.full((len(kept), longest, len(selected)), np.nan, dtype=OUTCOME)
    for k, (points, _) in enumerate(kept):
        refused[k, : len(points)] = verdicts.at(points, selected)
    return refused, padded


def error_over_probes(score: visage.Score, lines: Sequence[pd.DataFrame], verdicts: ProbeVerdicts | None) -> Error:
    """Return the error, over new probes, of a score's mean over these lines, on each of which it must be defined."""
    if not lines:
        return Error(None, None, f"{score.name} is undefined on every line")
    if verdicts is None:
        return Error(None, None, _NO_VERDICTS)
    refused, positions = probe_arrays(lines, verdicts)
    return resampling.error_over_probes(refused, positions, score=score.from_margins, labels=verdicts.labels())


# The basin.


def measure_basin(part: pd.DataFrame, column: str = "asr") -> basin.Basin:
    """Return the basin on one line or plane, from the ASR or from one end of its intervals (`column`)."""
    asr = [none_if_missing(value) for value in part[column].tolist()]
    if part["beta"].isna().all():
        return basin.measure_line(part["alpha"].tolist(), asr)
    return basin.measure_plane(part["alpha"].tolist(), part["beta"].tolist(), asr)


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
    return np.asarray(100.0 * low)


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

    @classmethod
    def measure(cls, number: int, part: pd.DataFrame, probes: Probes, points: int) -> _LineBasin:
        measured, at_high = measure_basin(part), measure_basin(part, "asr_high")
        bounds = [_low_everywhere(part, probes, count) for count in (_measured_points(part), points)]
        at_low, at_lowest = (measure_basin(part.assign(bound=bound), "bound") for bound in bounds)
        return cls(number, part, measured, at_high, at_low, at_lowest, _measure_shape(part, measured))

    def summarize(self) -> DirectionBasin:
        seed_x, seed_y = _seeds(self.part)
        return DirectionBasin(
            line=self.number,
            seed_x=seed_x,
            seed_y=seed_y,
            radius=self.measured.radius,
            radius_low=_radius_at_least(self.at_high),
            radius_high=self.at_low.radius,
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


def _measured_points(rows: pd.DataFrame) -> int:
    return int(rows.loc[rows["n"] > 0, "point_id"].nunique())


def _summarize_basin(lines: Lines, probes: Probes) -> BasinSummary:
    points = _measured_points(pd.concat([part for _, part in lines]))
    line_basins = [_LineBasin.measure(number, part, probes, points) for number, part in lines]
    overall = basin.combine([line.measured for line in line_basins])
    on_lines = all(part["beta"].isna().all() for _, part in lines)
    shape_reasons = [line.shape.reason for line in line_basins]

    def mean_of(name: str, bounds: tuple[float, float] = (0.0, math.inf)) -> Estimate:
        return _mean_over(lines, [getattr(line.shape, name) for line in line_basins], shape_reasons, bounds)

    radii, reasons = [line.measured.radius for line in line_basins], [line.measured.reason for line in line_basins]
    return BasinSummary(
        radius=overall.radius,
        radius_low=_radius_at_least(basin.combine([line.at_high for line in line_basins])),
        radius_high=basin.combine([line.at_lowest for line in line_basins]).radius,
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
        return Estimate(reason="; ".join(_merge_reasons(lacking, len(lines))))
    mean = _mean(known)
    interval = intervals.interval(mean, [error_over_directions(lines, known, step)], bounds)
    return Estimate(value=mean, low=interval.low, high=interval.high, reason=interval.reason)


def _merge_reasons(reasons: Sequence[tuple[int, str | None]], lines: int) -> list[str]:
    """Return each reason once, naming the lines that it is about unless it is about all `lines` of them."""
    about: dict[str, list[int]] = {}
    for number, reason in reasons:
        if reason:
            about.setdefault(reason, []).append(number)
    merged = []
    for reason, numbers in about.items():
        if len(numbers) == lines:
            merged.append(reason)
        else:
            word = "line" if len(numbers) == 1 else "lines"
            merged.append(f"{word} {', '.join(map(str, numbers))}: {reason}")
    return merged


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _identities(lines: Lines) -> list[tuple[int, int | None, int | None]]:
    """Return the number and the seeds of each line or plane; see `_seeds`."""
    return [(number, *_seeds(part)) for number, part in lines]


def _seeds(part: pd.DataFrame) -> tuple[int | None, int | None]:
    """Return the seeds of a line's or plane's axes; None for an axis that does not exist or is not random."""
    first = part.iloc[0]
    seed_x, seed_y = (None if pd.isna(first[key]) else int(first[key]) for key in ("seed_x", "seed_y"))
    return seed_x, seed_y


# Checkpoints.


def summarize_checkpoints(landscape: pd.DataFrame) -> tuple[CheckpointSummary, ...]:
    """Return every checkpoint in a landscape with its coordinates, its results, and the grid's ASR there.

    A landscape does not contain the distance of a checkpoint from the model: `distance` and the fields that depend on
    it keep their defaults.
    """
    if "mark" not in landscape:  # a landscape of an earlier version
        return ()
    marked = landscape[landscape["mark"].notna()]
    parts = combinations(landscape)
    checkpoints = []
    for (line, mark, point), at_checkpoint in marked.groupby(["line", "mark", "point_id"], sort=False):
        first = at_checkpoint.iloc[0]
        checkpoints.append(
            CheckpointSummary(
                line=int(str(line)),
                mark=str(mark),
                point_id=str(point),
                alpha=float(first["alpha"]),
                beta=none_if_missing(first["beta"]),
                projected=bool(first["projected"]),
                results=tuple(
                    _checkpoint_result(key, at_checkpoint, rows[rows["line"] == line]) for key, rows in parts
                ),
            )
        )
    return tuple(checkpoints)


def _checkpoint_result(key: ResultKey, at_checkpoint: pd.DataFrame, line: pd.DataFrame) -> CheckpointResult:
    """Return one result at a checkpoint, from the checkpoint's own rows and the rows of its line."""
    result = at_checkpoint[(at_checkpoint[list(RESULT_KEY)] == pd.Series(key.to_json())).all(axis=1)].iloc[0]
    grid = line[line["on_grid"] & (line["point_id"] != result["point_id"])]
    return CheckpointResult(
        probe_set=key.probe_set,
        group=key.group,
        system_prompt=key.system_prompt,
        judge=key.judge,
        n=int(result["n"]),
        asr=none_if_missing(result["asr"]),
        asr_low=none_if_missing(result["asr_low"]),
        asr_high=none_if_missing(result["asr_high"]),
        surface=_interpolate(grid, result["alpha"], result["beta"]),
    )


def _interpolate(grid: pd.DataFrame, alpha: float, beta: float) -> float | None:
    """Return the ASR between a grid's points; None outside of them, or if one of the neighbors is missing."""
    from scipy.interpolate import RegularGridInterpolator

    if math.isnan(beta):
        known = grid.drop_duplicates("alpha").sort_values("alpha")
        axes, values, position = [known["alpha"].to_numpy()], known["asr"].to_numpy(), [alpha]
    else:
        table = grid.pivot_table(index="alpha", columns="beta", values="asr", dropna=False, aggfunc="first")
        axes, values = [table.index.to_numpy(), table.columns.to_numpy()], table.to_numpy()  # type: ignore[assignment]
        position = [alpha, beta]
    if any(len(axis) < 2 for axis in axes):
        return None
    surface = RegularGridInterpolator(axes, values, bounds_error=False, fill_value=np.nan)
    return none_if_missing(float(surface(position)[0]))
