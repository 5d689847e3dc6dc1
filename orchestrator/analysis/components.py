"""Where the error of a mean margin such as VISAGE comes from, and the sweep that would give a wanted precision.

Every probe is used on every direction at several points, so the responses form a crossed design with two random factors
and repeated measurements. Its variance is decomposed by the analysis of variance (Searle, Casella, McCulloch, Variance
Components, 1992, chapter 4). Pure functions; docs/statistics.md derives them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from orchestrator.analysis.intervals import CONFIDENCE, MOST_DIRECTIONS
from orchestrator.analysis.results import PrecisionPlan, VarianceComponents

MOST_PROBES = 100_000
"""The most probes that `plan_precision` considers."""


def decompose(refused: np.ndarray) -> VarianceComponents:
    """Return the variance components of a response (100 refused, 0 not) in a mean over points, probes and lines.

    Points at which no probe refused are left out, as they are out of VISAGE. Probes without a verdict at some point are
    left out too. With one line the spread between directions is unknown, and that of a probe on a direction is part of
    `probe`.

    Args:
        refused: [line, point, probe]: 1 refused, 0 not, NaN without a verdict; a point that is NaN throughout pads a
            shorter line.
    """
    counted = np.nansum(refused, axis=-1) > 0
    complete = ~np.isnan(refused[counted]).any(axis=0)
    responses = 100.0 * refused[..., complete].astype(float)  # [line, point, probe]
    lines, probes = len(refused), int(complete.sum())
    points = counted.sum(axis=1)
    if probes < 2 or not points.all():
        return VarianceComponents(lines=lines, probes=probes, points=None, reason="too few probes or points")
    responses = np.where(counted[..., None], responses, 0.0)
    means = responses.sum(axis=1) / points[:, None]  # [line, probe]
    per_cell = 1.0 / float(np.mean(1.0 / points))
    at_point = responses.mean(axis=2, keepdims=True)
    deviations = responses - at_point - means[:, None] + means.mean(axis=1)[:, None, None]
    degrees = float((points - 1).sum() * (probes - 1))
    residual = float(np.square(deviations[counted]).sum()) / degrees if degrees else 0.0
    of_line, of_probe, overall = means.mean(axis=1), means.mean(axis=0), float(means.mean())
    if lines == 1:
        probe = float(of_probe.var(ddof=1)) - residual / per_cell
        return VarianceComponents(
            lines=1, probes=probes, points=per_cell, probe=max(probe, 0.0), residual=residual,
            reason="with one direction the spread between directions is unknown, and the probe's includes it",
        )  # fmt: skip
    rest = means - of_line[:, None] - of_probe + overall
    mixed = float(np.square(rest).sum()) / ((lines - 1) * (probes - 1))  # interaction + residual / points
    return VarianceComponents(
        lines=lines,
        probes=probes,
        points=per_cell,
        direction=max(float(of_line.var(ddof=1)) - mixed / probes, 0.0),
        probe=max(float(of_probe.var(ddof=1)) - mixed / lines, 0.0),
        interaction=max(mixed - residual / per_cell, 0.0),
        residual=residual,
    )


@dataclass(frozen=True)
class Precision:
    """The half-width of the interval over new directions and probes, for any number of either.

    Attributes:
        components: Of a sweep with two or more lines.
        clusters: Share of independent clusters among the probes, up to 1.
        inflation: How many times the half-width over probes is that of independent probes in a plain mean. It covers
            clusters, and the points that enter or leave VISAGE with a single refusal.
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
        return np.sqrt((self.components.direction + self._mixed() / probes + rounding) / directions)

    def _mixed(self) -> float:
        """Return the variance of a probe's mean on one line that is neither the line's nor the probe's."""
        parts = self.components
        assert parts.interaction is not None and parts.residual is not None and parts.points is not None
        return parts.interaction + parts.residual / parts.points


def plan_precision(
    components: VarianceComponents, probes_half_width: float | None, clusters: int, target: float, points: int
) -> PrecisionPlan:
    """Return the numbers of directions and probes that give a wanted half-width with the fewest responses.

    Args:
        components: Of the present sweep.
        probes_half_width: The present half-width over new probes, by resampling. None if unknown.
        clusters: Number of clusters of the present probes.
        target: The wanted half-width over new directions and probes, percent.
        points: Number of points of a line.
    """
    if components.direction is None or probes_half_width is None:
        reason = components.reason or "the error over new probes is unknown"
        return PrecisionPlan(target=target, reason=reason)
    lines, probes = np.array(float(components.lines)), np.array(float(components.probes))
    share = clusters / components.probes
    plain = float(Precision(components, share).over_probes(lines, probes))
    inflation = max(probes_half_width / plain, 1.0) if plain > 0 else 1.0
    precision = Precision(components, share, inflation)
    candidates = np.arange(2.0, MOST_DIRECTIONS + 1)
    needed = _fewest_probes(precision, candidates, target)
    cost = np.where(np.isfinite(needed), candidates * needed, np.inf)
    best = int(np.argmin(cost))
    if not np.isfinite(cost[best]):
        return PrecisionPlan(target=target, reason=f"more than {MOST_DIRECTIONS} directions or {MOST_PROBES:,} probes")
    return PrecisionPlan(
        target=target,
        directions=int(candidates[best]),
        probes=int(needed[best]),
        half_width=float(precision.half_width(candidates[best], needed[best])),
        responses=int(cost[best]) * points,
        present_half_width=float(precision.half_width(lines, probes)),
    )


def _fewest_probes(precision: Precision, directions: np.ndarray, target: float) -> np.ndarray:
    """Return the fewest probes with which each number of directions reaches the target; infinity if none does."""
    low, high = np.full(len(directions), 2.0), np.full(len(directions), float(MOST_PROBES))
    reached = precision.half_width(directions, high) <= target
    for _ in range(math.ceil(math.log2(MOST_PROBES)) + 1):
        middle = np.floor((low + high) / 2)
        enough = precision.half_width(directions, middle) <= target
        low, high = np.where(enough, low, np.minimum(middle + 1, high)), np.where(enough, middle, high)
    return np.where(reached, high, np.inf)
