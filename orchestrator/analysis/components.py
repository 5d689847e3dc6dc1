"""Decompose the error of a mean margin such as VISAGE by its sources, and plan the sweep that gives a wanted precision.

Every probe is used on every direction at several points, so the responses form a crossed design with two random factors
and repeated measurements. Its variance is decomposed by the analysis of variance (Searle, Casella, McCulloch, Variance
Components, 1992, chapter 4). Pure functions; docs/statistics.md derives them.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from orchestrator.analysis.intervals import CONFIDENCE, MAX_DIRECTIONS, Error
from orchestrator.analysis.results.precision import PrecisionPlan, VarianceComponents
from orchestrator.analysis.results.sweep import ResultSummary, SweepSummary

TARGET = 2.0
"""The half-width for which a sweep is planned by default, percent."""

MAX_PROBES = 100_000
"""The most probes that `plan_precision` considers."""

_BLOCK = 1 << 16  # number of points whose squares are summed at a time


def decompose(refused: np.ndarray, everywhere: bool = False) -> VarianceComponents:
    """Return the variance components of a response (100 refused, 0 not) in a mean over points, probes and lines.

    Probes without a verdict at some point are left out. With one line the spread between directions is unknown, and
    the interaction of probe and direction is part of `probe`.

    Args:
        refused: [line, point, probe]: 1 refused, 0 not, NaN without a verdict; a point that is NaN throughout pads a
            shorter line.
        everywhere: Whether points at which no probe refused count, as in the mean margin. They do not in VISAGE.
    """
    counted = np.asarray((~np.isnan(refused) if everywhere else refused > 0).any(axis=-1))
    lines, points = len(refused), counted.sum(axis=1)
    complete = np.ones(refused.shape[-1], dtype=bool)
    for of_line, is_counted in zip(refused, counted, strict=True):
        complete &= ~np.isnan(of_line[is_counted]).any(axis=0)
    probes = int(complete.sum())
    if probes < 2 or not points.all():
        return VarianceComponents(lines=lines, probes=probes, points=None, reason="too few probes or points")
    means = np.empty((lines, probes))
    squares = 0.0  # of the residuals
    for k, is_counted in enumerate(counted):
        means[k], line_squares = _residual_squares(refused[k][is_counted][:, complete])
        squares += line_squares
    residual = squares / max(float((points - 1).sum() * (probes - 1)), 1.0)
    per_cell = 1.0 / float(np.mean(1.0 / points))
    of_line, of_probe = means.mean(axis=1), means.mean(axis=0)
    if lines == 1:
        return VarianceComponents(
            lines=1,
            probes=probes,
            points=per_cell,
            probe=max(float(of_probe.var(ddof=1)) - residual / per_cell, 0.0),
            residual=residual,
            reason="with one direction the spread between directions is unknown, and the probe's includes it",
        )
    rest = means - of_line[:, None] - of_probe + means.mean()
    mixed = float(np.square(rest).sum()) / ((lines - 1) * (probes - 1))  # interaction + residual / points
    return VarianceComponents(
        lines=lines,
        probes=probes,
        points=per_cell,
        direction=max(float(of_line.var(ddof=1)) - mixed / probes, 0.0),
        probe=max(float(of_probe.var(ddof=1)) - mixed / lines, 0.0),
        interaction=max(mixed - residual / per_cell, 0.0),
        residual=min(residual, mixed * per_cell),
    )


def _residual_squares(refused: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the mean of each probe over points, in percent, and the sum of squares beyond those of probes and points.

    Args:
        refused: [point, probe] of one line, complete. It may be large, so no other array of its size is created.
    """
    points, probes = refused.shape
    of_probe = 100.0 * refused.mean(axis=0, dtype=np.float64)
    of_point = 100.0 * refused.mean(axis=1, dtype=np.float64)
    blocks = (refused[start : start + _BLOCK] for start in range(0, points, _BLOCK))
    total = 1e4 * math.fsum(float(np.square(block, dtype=np.float64).sum()) for block in blocks)
    expected = probes * np.square(of_point).sum() + points * np.square(of_probe).sum()
    return of_probe, max(total - float(expected) + points * probes * float(of_probe.mean()) ** 2, 0.0)


def single_response_variance(components: VarianceComponents) -> float:
    """Return the variance of a line's mean that is due to single responses, in percent squared. 0 if unknown."""
    if components.interaction is None or components.residual is None or components.points is None:
        return 0.0
    return (components.interaction + components.residual / components.points) / components.probes


def variance_parts(components: VarianceComponents) -> dict[str, float | None]:
    """Return the variance of VISAGE by its source, in percent squared. None if the source's component is unknown."""
    k, n, points = components.lines, components.probes, components.points or 1.0
    divisors = {"direction": k, "probe": n, "interaction": k * n, "residual": k * n * points}
    values = {name: getattr(components, name) for name in divisors}
    return {name: None if value is None else value / divisors[name] for name, value in values.items()}


@dataclass(frozen=True)
class Wanted:
    """The precision to plan for.

    Attributes:
        target: The wanted half-width over new directions and probes, percent.
        pace: Seconds per response of the present sweep, all actors together. None if unknown.
    """

    target: float = TARGET
    pace: float | None = None


@dataclass(frozen=True)
class Precision:
    """The half-width of the interval over new directions and probes, for any number of either.

    Attributes:
        components: Of a sweep with two or more lines.
        clusters: Number of clusters divided by the number of probes.
        inflation: Ratio of the measured half-width over probes to that of independent probes in a plain mean. It is
            above 1 because of clusters, and because a point enters or leaves VISAGE with a single refusal.
    """

    components: VarianceComponents
    clusters: float = 1.0
    inflation: float = 1.0

    def half_width(self, directions: np.ndarray, probes: np.ndarray) -> np.ndarray:
        """Return half the width for these numbers of directions (2 or more) and probes; arrays are broadcast."""
        tail = (1 + CONFIDENCE) / 2
        over_directions = special.stdtrit(directions - 1, tail) * self._direction_se(directions, probes)
        return np.hypot(over_directions, self.inflation * self.over_probes(directions, probes))

    def over_probes(self, directions: np.ndarray, probes: np.ndarray) -> np.ndarray:
        """Return the half-width over new probes alone, without the inflation."""
        parts = self.components
        assert parts.probe is not None
        variance = (parts.probe + self._mixed() / directions) / probes
        degrees = np.maximum(self.clusters * probes - 1, 1)
        return np.asarray(special.stdtrit(degrees, (1 + CONFIDENCE) / 2) * np.sqrt(variance))

    def _direction_se(self, directions: np.ndarray, probes: np.ndarray) -> np.ndarray:
        assert self.components.direction is not None
        rounding = (100.0 / probes) ** 2 / 12
        return np.sqrt((self.components.direction + 2 * self._mixed() / probes + rounding) / directions)

    def _mixed(self) -> float:
        """Return the variance of a probe's mean on one line beyond the components of the line and of the probe."""
        parts = self.components
        assert parts.interaction is not None and parts.residual is not None and parts.points is not None
        return parts.interaction + parts.residual / parts.points


def plan_precision(
    components: VarianceComponents,
    probes_half_width: float | None,
    clusters: int,
    points: int,
    wanted: Wanted,
) -> PrecisionPlan:
    """Return the numbers of directions and probes that give a wanted half-width with the fewest responses.

    Args:
        components: Of the present sweep.
        probes_half_width: The present half-width over new probes, by resampling. None if unknown.
        clusters: Number of clusters of the present probes.
        points: Number of points of a line.
        wanted: The precision to plan for.
    """
    target = wanted.target
    if components.direction is None or probes_half_width is None:
        reason = components.reason or "the error over new probes is unknown"
        return PrecisionPlan(target=target, reason=reason)
    lines, probes = np.array(float(components.lines)), np.array(float(components.probes))
    share = clusters / components.probes
    plain = float(Precision(components, share).over_probes(lines, probes))
    if plain == 0.0:
        return PrecisionPlan(target=target, reason="all probes agree, so that nothing is known of how probes differ")
    inflation = max(probes_half_width / plain, 1.0)
    precision = Precision(components, share, inflation)
    candidates = np.arange(2.0, MAX_DIRECTIONS + 1)
    needed = _fewest_probes(precision, candidates, target)
    cost = np.where(np.isfinite(needed), candidates * needed, np.inf)
    best = int(np.argmin(cost))
    if not np.isfinite(cost[best]):
        return PrecisionPlan(target=target, reason=f"more than {MAX_DIRECTIONS} directions or {MAX_PROBES:,} probes")
    responses = int(cost[best]) * points
    return PrecisionPlan(
        target=target,
        directions=int(candidates[best]),
        probes=int(needed[best]),
        half_width=float(precision.half_width(candidates[best], needed[best])),
        responses=responses,
        seconds=None if wanted.pace is None else responses * wanted.pace,
        present_half_width=float(precision.half_width(lines, probes)),
    )


def plan_result(result: ResultSummary, wanted: Wanted) -> PrecisionPlan | None:
    """Return the cheapest sweep that gives VISAGE of a result the wanted precision.

    None if VISAGE is undefined, if the verdicts on single probes were not at hand, and for a summary of an earlier
    version.
    """
    score = result.visage
    if score.enough is None or score.enough.components is None or score.over is None or result.clusters is None:
        return None
    half_width = Error(score.over.probes.se, score.over.probes.df).half_width()
    points = max(direction.points or 0 for direction in score.by_direction)
    return plan_precision(score.enough.components, half_width, result.clusters.clusters, points, wanted)


def with_plans(summary: SweepSummary, wanted: Wanted) -> SweepSummary:
    """Return a summary with a plan for each result's VISAGE."""
    results = []
    for result in summary.results:
        plan, score = plan_result(result, wanted), result.visage
        if plan is not None and score.enough is not None:
            score = dataclasses.replace(score, enough=dataclasses.replace(score.enough, plan=plan))
        results.append(dataclasses.replace(result, visage=score))
    planned = dataclasses.replace(summary, results=tuple(results))
    return dataclasses.replace(planned, visage=planned.primary_result.visage)


def _fewest_probes(precision: Precision, directions: np.ndarray, target: float) -> np.ndarray:
    """Return the fewest probes with which each number of directions reaches the target; infinity if none does."""
    low, high = np.full(len(directions), 2.0), np.full(len(directions), float(MAX_PROBES))
    reached = precision.half_width(directions, high) <= target
    for _ in range(math.ceil(math.log2(MAX_PROBES)) + 1):
        middle = np.floor((low + high) / 2)
        enough = precision.half_width(directions, middle) <= target
        low, high = np.where(enough, low, np.minimum(middle + 1, high)), np.where(enough, middle, high)
    return np.where(reached, high, np.inf)
