"""The mean over directions at each alpha, with its interval over new directions and new probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from orchestrator.analysis import intervals
from orchestrator.analysis.landscape import none_if_missing
from orchestrator.analysis.results import ClusterSummary, MeanCurve
from orchestrator.scoring.clusters import variance_of_mean
from orchestrator.scoring.counts import ProbeVerdicts

BOTH, PROBES = "new directions and probes", "new probes"


@dataclass(frozen=True)
class Probes:
    """The probes of one result.

    Attributes:
        verdicts: None if they are not at hand; each probe then counts as independent, and the probes' part of an
            interval is at its widest.
        clusters: None if `verdicts` is.
    """

    verdicts: ProbeVerdicts | None
    clusters: ClusterSummary | None

    @classmethod
    def of(cls, verdicts: ProbeVerdicts | None) -> Probes:
        """Return the probes of these verdicts."""
        return cls(verdicts, None if verdicts is None else ClusterSummary.of(verdicts))

    def effective(self, n: np.ndarray, confidence: float = intervals.CONFIDENCE) -> np.ndarray:
        """Return the number of independent probes that would tell as much as n of these."""
        return n.astype(float) if self.clusters is None else self.clusters.effective(n, confidence)

    def effective_for_mean(self, mean: float, points: Sequence[str], n: int) -> float:
        """Return the number of independent responses that would tell as much about new probes as those at these points.

        It follows from the variance, between probes (or clusters), of their mean over the points: the mean of responses
        that differ between directions is known better than the response to one direction. If all probes agree, it is
        that of a single point. It is at most the number of responses.

        Args:
            mean: The mean over points, a proportion.
            points: One on each line.
            n: Number of probes.
        """
        alone = float(self.effective(np.array([n]))[0])
        if self.verdicts is None or self.clusters is None:
            return alone
        refused = self.verdicts.at(points)
        known = ~np.isnan(refused)
        counts = known.sum(axis=0)
        of_probe = np.where(known, refused, 0.0).sum(axis=0, dtype=float) / np.maximum(counts, 1)
        values = np.where(counts > 0, of_probe, np.nan)[None]
        variance = float(variance_of_mean(values, self.verdicts.labels())[0])
        if variance == 0.0:
            return alone
        independent = alone / n * self.clusters.design_effect * mean * (1 - mean) / variance  # with Student's t
        return float(np.clip(independent, alone * self.clusters.design_effect / self.largest_effect, len(points) * n))

    @property
    def largest_effect(self) -> float:
        """The design effect if all probes of a cluster always agreed."""
        if self.verdicts is None:
            return 1.0
        sizes = np.unique(self.verdicts.labels(), return_counts=True)[1]
        return float(np.square(sizes).sum() / sizes.sum())


def mean_curves(rows: pd.DataFrame, probes: Probes, are_drawn: bool) -> tuple[MeanCurve, ...]:
    """Return the mean over lines of the ASR and, where there are correct answers, of their share.

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
    lines = rows["line"].nunique()
    alphas, values = [], []
    for alpha, own in rows.groupby("alpha"):
        alphas.append(float(str(alpha)))
        values.append(_mean_at(own.drop_duplicates("point_id"), measure, probes, are_drawn))
    value, low, high = zip(*values, strict=True)
    over = BOTH if lines > 1 and are_drawn else PROBES
    return MeanCurve(measure=measure, lines=lines, over=over, alpha=tuple(alphas), value=value, low=low, high=high)


def _mean_at(
    points: pd.DataFrame, measure: str, probes: Probes, are_drawn: bool
) -> tuple[float | None, float | None, float | None]:
    """Return the mean over lines at one alpha, and its interval, in percent. Each line has a point of its own.

    The interval's ends are those over new directions (Student's t) and those over new probes (Clopper and Pearson's for
    the effective number of responses), combined by the root of the sum of squares on either side (Zou and Donner 2008).
    If all lines share the point, which is the origin, it is the interval of that point.
    """
    if len(points) == 1:
        low, high = (none_if_missing(points[f"{measure}_{end}"].iloc[0]) for end in ("low", "high"))
        return none_if_missing(points[measure].iloc[0]), low, high
    if points[measure].isna().any():
        return None, None, None
    value = math.fsum(points[measure]) / len(points)
    n = max(int(points["n"].max()), 1)
    count = np.array([probes.effective_for_mean(value / 100, points["point_id"].tolist(), n)])
    ends = intervals.proportion(count * value / 100, count)
    half = intervals.error_over_directions(points[measure].tolist(), 100.0 / n).half_width() if are_drawn else 0.0
    assert half is not None
    low, high = (100.0 * float(end[0]) for end in ends)
    return value, max(value - math.hypot(value - low, half), 0.0), min(value + math.hypot(high - value, half), 100.0)
