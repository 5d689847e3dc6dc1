"""The mean over directions at each alpha, with its interval over new directions and new probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from orchestrator.analysis import intervals
from orchestrator.analysis.landscape import is_inferred, none_if_missing
from orchestrator.analysis.results.clusters import ClusterSummary
from orchestrator.analysis.results.curves import MeanCurve
from orchestrator.scoring.clusters import largest_design_effect, variance_of_mean
from orchestrator.scoring.counts import ProbeVerdicts

Z = float(special.ndtri((1 + intervals.CONFIDENCE) / 2))
BOTH, PROBES = "new directions and probes", "new probes"


@dataclass(frozen=True)
class Probes:
    """The probes of one result.

    Attributes:
        verdicts: None if they are not available. Each probe then counts as independent, and the intervals of a mean
            over lines are as wide over new probes as those of a single point.
        clusters: None if `verdicts` is None.
    """

    verdicts: ProbeVerdicts | None
    clusters: ClusterSummary | None

    @classmethod
    def of(cls, verdicts: ProbeVerdicts | None) -> Probes:
        """Return the probes of these verdicts."""
        return cls(verdicts, None if verdicts is None else ClusterSummary.of(verdicts))

    def effective(self, n: np.ndarray, confidence: float = intervals.CONFIDENCE) -> np.ndarray:
        """Return the effective number of probes if n of them have a verdict; see `intervals.effective_count`."""
        return n.astype(float) if self.clusters is None else self.clusters.effective(n, confidence)

    def effective_for_mean(self, points: Sequence[str], n: int) -> float:
        """Return the effective number of responses for the mean over these points; see `effective_responses`.

        Args:
            points: Ids of the points, one on each line.
            n: Number of probes.
        """
        alone = float(self.effective(np.array([n]))[0])
        if self.verdicts is None or self.clusters is None:
            return alone
        refused, labels = self.verdicts.at(points)[:, None], self.verdicts.labels()
        return float(effective_responses(refused, labels, alone, self.clusters.design_effect)[0])


def effective_responses(refused: np.ndarray, labels: np.ndarray, alone: float, design_effect: float) -> np.ndarray:
    """Return the effective number of responses for the mean over several lines, at each point.

    This is the number of independent responses that would give the mean the same variance over new probes. It follows
    from the variance, between probes (or clusters), of a probe's mean over lines: if responses to a probe differ
    between directions, their mean is known better than a single response. If all probes agree, the number is that of a
    single point. It is at most the number of responses.

    Args:
        refused: [line, point, probe]: 1 refused, 0 not, NaN without a verdict.
        labels: The cluster of each probe, [probe].
        alone: The effective number of probes at a single point (`intervals.effective_count`).
        design_effect: The design effect from which `alone` was computed.

    Returns:
        Numbers of responses, [point].
    """
    known = ~np.isnan(refused)
    counts = known.sum(axis=0)  # [point, probe]
    of_probe = np.where(known, refused, 0.0).sum(axis=0, dtype=float) / np.maximum(counts, 1)
    n = np.maximum((counts > 0).sum(axis=1), 1)
    mean = of_probe.sum(axis=1) / n
    variance = variance_of_mean(np.where(counts > 0, of_probe, np.nan), labels)
    students_t = alone / n * design_effect
    independent = students_t * mean * (1 - mean) / np.where(variance > 0, variance, 1.0)
    bounded = np.clip(independent, students_t * n / largest_design_effect(labels), counts.sum(axis=1))
    return np.where(variance > 0, bounded, alone)


def interval_of_mean(
    values: np.ndarray, n: int, count: np.ndarray, are_drawn: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return the intervals of means over directions, in percent.

    An interval over new directions (Student's t) and one over new probes (Clopper and Pearson's) are combined: on
    either side, the half-width is the root of the sum of squares (Zou and Donner, Statistics in Medicine 27, 2008).

    Args:
        values: Percent, [line, point].
        n: Number of probes.
        count: The effective number of responses at each point (`effective_responses`), [point].
        are_drawn: Whether the directions are random. If not, the interval is over new probes alone.

    Returns:
        Lower and upper ends, [point].
    """
    mean = values.mean(axis=0)
    low, high = (100.0 * end for end in intervals.proportion(count * mean / 100, count))
    students_t = float(special.stdtrit(len(values) - 1, (1 + intervals.CONFIDENCE) / 2))
    half = students_t * intervals.standard_error(values, 100.0 / n) if are_drawn else 0.0
    return np.maximum(mean - np.hypot(mean - low, half), 0.0), np.minimum(mean + np.hypot(high - mean, half), 100.0)


def mean_curves(rows: pd.DataFrame, probes: Probes, are_drawn: bool) -> tuple[MeanCurve, ...]:
    """Return the mean curve over lines of the ASR and, if correct answers were counted, of their percentage.

    Args:
        rows: The landscape rows of one result. On planes there are no curves.
        probes: The probes of the result.
        are_drawn: Whether the directions are random. The interval is over new probes only if they are not.
    """
    if rows["beta"].notna().any():
        return ()
    curves = [_mean_curve(rows, "asr", probes, are_drawn)]
    if "correct" in rows and rows["correct"].notna().any():
        curves.append(_mean_curve(rows, "correct", Probes(None, None), are_drawn))
    return tuple(curves)


def _mean_curve(rows: pd.DataFrame, measure: str, probes: Probes, are_drawn: bool) -> MeanCurve:
    lines, prompts = rows["line"].nunique(), max(int(rows["n"].max()), 1)
    alphas, values = [], []
    for alpha, points in rows.drop_duplicates(["alpha", "point_id"]).groupby("alpha"):
        alphas.append(float(str(alpha)))
        values.append(_mean_at(points, measure, probes, are_drawn, prompts))
    value, low, high = zip(*values, strict=True)
    over = BOTH if lines > 1 and are_drawn else PROBES
    return MeanCurve(measure=measure, lines=lines, over=over, alpha=tuple(alphas), value=value, low=low, high=high)


def _mean_at(
    points: pd.DataFrame, measure: str, probes: Probes, are_drawn: bool, prompts: int
) -> tuple[float | None, float | None, float | None]:
    """Return the mean over lines at one alpha and the ends of its interval, in percent.

    At the origin, which all lines share, the interval is that of the point. `prompts`: number of probes at a measured
    point, which counts where all points are inferred.
    """
    if len(points) == 1:
        low, high = (none_if_missing(points[f"{measure}_{end}"].iloc[0]) for end in ("low", "high"))
        return none_if_missing(points[measure].iloc[0]), low, high
    if points[measure].isna().any():
        return None, None, None
    values, measured = points[measure].to_numpy(dtype=float), points[~is_inferred(points)]
    n = max(int(points["n"].max()), 1) if len(measured) else prompts
    if len(measured):
        count = probes.effective_for_mean(measured["point_id"].tolist(), n)
    else:
        count = float(probes.effective(np.array([n]))[0])
    ends = interval_of_mean(values[:, None], n, np.array([count]), are_drawn)
    low, high = (float(end[0]) for end in ends)
    mean = math.fsum(values) / len(values)
    return mean, *_widened(mean, low, high, points)


def _widened(mean: float, low: float, high: float, points: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of the interval of a mean over lines, with the error of the inferred points among its points."""
    inferred = is_inferred(points)
    if not inferred.any():
        return low, high
    errors = points["asr_inferred_error"].to_numpy(dtype=float)[inferred]
    half = Z * math.sqrt(float((errors**2).sum())) / len(points)
    return max(mean - math.hypot(mean - low, half), 0.0), min(mean + math.hypot(high - mean, half), 100.0)
