"""Errors, confidence intervals and p-values. Pure functions; docs/statistics.md derives each.

An `Error` belongs to one source of random variation: new directions or new probes. The two are crossed (every probe is
used on every direction), so resampling one of them does not show their joint effect. `interval` combines their
half-widths as the root of the sum of squares (Zou and Donner, Statistics in Medicine 27, 2008). An unknown number is
None, with a reason, and never a NaN float. Errors over new probes are in `resampling`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from orchestrator.utils.records import JsonRecord

CONFIDENCE = 0.95
MAX_DIRECTIONS = 1000
"""The most additional directions that `more_directions` considers, and the most in all for `plan_precision`."""


@dataclass(frozen=True)
class Error:
    """A standard error with its degrees of freedom, in the unit of the estimate. None if unknown; see `reason`."""

    se: float | None
    df: float | None = None
    reason: str | None = None

    def half_width(self, confidence: float = CONFIDENCE) -> float | None:
        """Return half the width of the two-sided interval, by Student's t. None if the error is unknown.

        A one-sided bound at confidence c is the end of the two-sided interval at 2c - 1.
        """
        if self.se is None or self.df is None:
            return None
        return float(special.stdtrit(self.df, (1 + confidence) / 2)) * self.se


@dataclass(frozen=True, kw_only=True)
class Interval(JsonRecord):
    """The two-sided 95% interval of an estimate. None if unknown, and then `reason` says why."""

    low: float | None
    high: float | None
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class ErrorInterval(Interval):
    """An interval over one source of random variation.

    Attributes:
        se: The standard error, in the unit of the estimate. None if unknown.
        df: Degrees of freedom of the standard error. None if unknown.
    """

    se: float | None
    df: float | None


def half_width(errors: Sequence[Error], confidence: float = CONFIDENCE) -> float | None:
    """Return half the width of the interval of an estimate with several independent errors. None if one is unknown."""
    halves = [error.half_width(confidence) for error in errors]
    known = [half for half in halves if half is not None]
    return math.hypot(*known) if len(known) == len(halves) else None


def interval(value: float | None, errors: Sequence[Error], bounds: tuple[float, float] = (0.0, 100.0)) -> Interval:
    """Return the 95% interval of an estimate with these independent errors, cut at `bounds`."""
    half = half_width(errors)
    if value is None or half is None:
        reasons = [error.reason for error in errors if error.reason]
        return Interval(low=None, high=None, reason="; ".join(reasons) or "there is no value")
    return Interval(low=max(value - half, bounds[0]), high=min(value + half, bounds[1]), reason=None)


def error_interval(value: float | None, error: Error, bounds: tuple[float, float] = (0.0, 100.0)) -> ErrorInterval:
    """Return the 95% interval of a value that has one source of error, together with the error itself."""
    alone = interval(value, [error], bounds)
    return ErrorInterval(low=alone.low, high=alone.high, reason=alone.reason, se=error.se, df=error.df)


def p_value(difference: float, errors: Sequence[Error]) -> float | None:
    """Return one minus the largest confidence at which the interval of a difference excludes 0.

    None if an error is unknown.
    """
    if half_width(errors) is None:
        return None
    if difference == 0.0:
        return 1.0
    low, high = 0.0, 1.0  # the interval at confidence `low` excludes 0, that at `high` does not
    for _ in range(60):
        middle = (low + high) / 2
        half = half_width(errors, middle)
        assert half is not None
        low, high = (middle, high) if half < abs(difference) else (low, middle)
    return 1.0 - low


# Proportions.


def proportion(
    k: np.ndarray, n: np.ndarray, confidence: float = CONFIDENCE, effective: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return Clopper and Pearson's interval for k successes of n, as proportions; NaN if n is 0.

    The interval is exact: it covers at least `confidence` at every true proportion, 0 and 1 included (Clopper and
    Pearson, Biometrika 26, 1934).

    Args:
        k: Numbers of successes, of any shape; fractions are allowed.
        n: Numbers of observations, of the same shape.
        confidence: Confidence of the two-sided interval.
        effective: Effective numbers of observations, of the same shape (`effective_count`). The interval is computed
            as if the proportion k / n had been observed in this number of observations. None: n.

    Returns:
        Lower and upper ends, of the same shape.
    """
    if effective is not None:
        k, n = np.where(effective == n, k, k / np.maximum(n, 1) * effective), effective
    pairs, inverse = np.unique(np.stack([np.ravel(k), np.ravel(n)]), axis=1, return_inverse=True)
    hits, total = pairs.astype(float)
    tail = (1 - confidence) / 2
    misses = total - hits
    low = np.where(hits <= 0, 0.0, special.betaincinv(np.where(hits <= 0, 1.0, hits), misses + 1, tail))
    high = np.where(misses <= 0, 1.0, special.betaincinv(hits + 1, np.where(misses <= 0, 1.0, misses), 1 - tail))
    low, high = np.where(total == 0, np.nan, low), np.where(total == 0, np.nan, high)
    inverse = np.ravel(inverse)
    return low[inverse].reshape(np.shape(k)), high[inverse].reshape(np.shape(k))


def effective_count(
    n: np.ndarray, design_effect: float, probes: int, clusters: int, confidence: float = CONFIDENCE
) -> np.ndarray:
    """Return the effective number of probes: as many independent probes would carry the information of n in clusters.

    n is divided by the design effect and by the squared ratio of Student's t at one less than the number of clusters to
    that at one less than the number of probes (Korn and Graubard, Survey Methodology 24, 1998). It is n if each probe
    is a cluster of its own.

    Args:
        n: Number of probes with a verdict, of any shape.
        design_effect: See `scoring.clusters.design_effect`.
        probes: Number of probes.
        clusters: Number of their clusters.
        confidence: Confidence of the two-sided interval.
    """
    if clusters >= probes:
        return np.asarray(n, dtype=float)
    tail = (1 + confidence) / 2
    ratio = special.stdtrit(probes - 1, tail) / special.stdtrit(max(clusters - 1, 1), tail)
    return np.asarray(n, dtype=float) / design_effect * ratio**2


def matched(gained: np.ndarray, lost: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the 95% interval and the p-value of the difference of two proportions over the same probes.

    The interval is Wald's with half a probe added to each cell of the 2 x 2 table (Agresti and Min, Statistics in
    Medicine 24, 2005). The p-value is that of McNemar's exact two-sided test.

    Args:
        gained: Number of probes with a success in the second condition only.
        lost: Number of probes with a success in the first condition only.
        n: Number of probes, above 0. All three have the same shape; fractions are allowed: see `effective_count`.

    Returns:
        low, high, p: as proportions, of the same shape.
    """
    total = n + 2.0
    difference = (gained - lost) / total
    spread = np.sqrt(gained + lost + 1.0 - total * difference**2) / total
    half = special.ndtri((1 + CONFIDENCE) / 2) * spread
    fewer, flips = np.minimum(gained, lost), gained + lost
    tail = special.betainc(np.where(flips > 0, flips - fewer, 1.0), fewer + 1.0, 0.5)  # of Binomial(flips, 1/2)
    p = np.where(flips > 0, np.minimum(1.0, 2.0 * tail), 1.0)
    return np.maximum(difference - half, -1.0), np.minimum(difference + half, 1.0), p


def unmatched(
    first: np.ndarray, n: np.ndarray, second: np.ndarray, m: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the 95% interval and the p-value of second / m - first / n over different probes.

    The interval combines the two Clopper-Pearson intervals by the root of the sum of squares (Newcombe, Statistics in
    Medicine 17, 1998, method 10, with exact limits). The p-value is that of Fisher's exact test.

    Args:
        first: Number of successes in the first sample.
        n: Number of probes in the first sample, above 0.
        second: Number of successes in the second sample.
        m: Number of probes in the second sample, above 0. All four have the shape [point]; fractions are allowed: see
            `effective_count`. The test rounds them.

    Returns:
        low, high, p: as proportions, of shape [point].
    """
    from scipy.stats import fisher_exact

    one, two = first / n, second / m
    (low1, high1), (low2, high2) = proportion(first, n), proportion(second, m)
    low = two - one - np.hypot(two - low2, high1 - one)
    high = two - one + np.hypot(high2 - two, one - low1)
    counts = np.rint([first, n - first, second, m - second]).astype(int)
    p = [fisher_exact([[a, b], [c, d]])[1] for a, b, c, d in counts.T]
    return np.maximum(low, -1.0), np.minimum(high, 1.0), np.array(p, dtype=float)


# Over new directions.


def error_over_directions(values: Sequence[float], step: float = 0.0, noise: float = 0.0) -> Error:
    """Return the error of a mean over directions that are drawn at random.

    It has K - 1 degrees of freedom (Student's t). The variance of rounding, step^2 / 12, and that of single responses
    are added to the variance of the values, because values that happen to agree are not known without error. The
    variance of single responses is thus counted twice, which compensates for intervals by Student's t being too narrow
    with a few values of a skewed distribution (benchmarks/coverage.py).

    Args:
        values: The value on each of K directions.
        step: The smallest difference between two values (100 / probes for a percentage).
        noise: The part of a value's variance that is due to single responses; see
            `components.single_response_variance`.
    """
    k = len(values)
    if k < 2:
        return Error(None, None, "with one direction the spread between directions is unknown" if k else "no direction")
    return Error(float(standard_error(np.asarray(values, dtype=float), step, noise)), k - 1)


def standard_error(values: np.ndarray, step: float = 0.0, noise: float = 0.0) -> np.ndarray:
    """Return the standard error of means over directions: [line, ...] to [...]. See `error_over_directions`."""
    return np.asarray(np.sqrt((values.var(axis=0, ddof=1) + step**2 / 12 + noise) / len(values)))


def more_directions(spread: float, directions: int) -> int | None:
    """Return the number of further directions that would halve the interval if the spread between them stayed the same.

    The half-width is t(K - 1) spread / sqrt(K): with 3 directions it halves at 5, with 10 at 33.

    Returns:
        0 if the spread is 0. None if there are fewer than 2 directions, or more than MAX_DIRECTIONS would be needed.
    """
    if directions < 2:
        return None
    if spread <= 0.0:
        return 0
    k = np.arange(2, directions + MAX_DIRECTIONS + 1)
    widths = special.stdtrit(k - 1, (1 + CONFIDENCE) / 2) / np.sqrt(k)
    enough = k[widths <= widths[directions - 2] / 2]
    return int(enough[0]) - directions if len(enough) else None
