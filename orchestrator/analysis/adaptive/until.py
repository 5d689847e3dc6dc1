"""Intervals that stay valid when a sweep stops because its interval is narrow enough.

A sweep that adds directions (or blocks of probes) until the usual t interval has the wanted width stops too early too
often: narrow intervals are those whose spread was underestimated, and they cover less than they claim. The interval
here may be looked at after every new value. It is the set of means that a Bayes factor does not reject: with the right
Haar prior on the standard deviation and a normal prior with standard deviation c on the standardized effect, the
Bayes factor of n values with t statistic t is

    B = (1 + n c^2)^(-1/2) * ((1 + t^2 / (n - 1)) / (1 + t^2 / ((n - 1) (1 + n c^2))))^(n / 2).

Under the true mean it is a nonnegative martingale with mean 1 whatever the standard deviation, so that by Ville's
inequality the probability that it ever reaches 1 / alpha is at most alpha (T. L. Lai, Annals of Statistics 4, 1976;
H. Wang, A. Ramdas, "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance",
Sequential Analysis 44, 2025). This assumes independent, normally distributed values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from orchestrator.analysis.intervals import CONFIDENCE

EFFECT = 0.7
"""Standard deviation c of the prior. About the values at which 5 to 15 values suffice; any c gives a valid interval."""


def half_width(
    values: Sequence[float], confidence: float = CONFIDENCE, effect: float = EFFECT, least: float = 0.0
) -> float | None:
    """Return half the width of an interval for the mean that holds at every number of values at once.

    Args:
        values: One value for each direction, or for each block of probes, in the order in which they were added.
        confidence: Probability that the intervals after 2, 3, 4, ... values all contain the mean, at least.
        effect: Standard deviation of the prior on the mean, relative to the values' standard deviation.
        least: The smallest half-width, such as half the distance between the values that can be told apart. Values
            that agree by rounding have no spread.

    Returns:
        The unit of the values. None with fewer than two values, or too few for any bound at this confidence.
    """
    relative = relative_half_width(len(values), confidence, effect)
    return None if relative is None else max(relative * float(np.std(values, ddof=1)), least)


def relative_half_width(n: int, confidence: float = CONFIDENCE, effect: float = EFFECT) -> float | None:
    """Return the half-width after n values, divided by their standard deviation. None if there is no bound."""
    if n < 2:
        return None
    growth = 1.0 + n * effect**2
    ratio = (growth / (1.0 - confidence) ** 2) ** (1.0 / n)
    if ratio >= growth:
        return None
    t_squared = (n - 1) * (ratio - 1.0) / (1.0 - ratio / growth)
    return math.sqrt(t_squared / n)


FEWEST = next(n for n in itertools.count(2) if relative_half_width(n) is not None)
"""The smallest number of values that have an interval at 95% confidence with this prior."""
