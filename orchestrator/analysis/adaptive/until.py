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

from orchestrator.analysis.intervals import CONFIDENCE

EFFECT = 0.7
"""Standard deviation c of the prior. About the values at which 5 to 15 values suffice; any c gives a valid interval."""


def relative_half_width(n: int) -> float | None:
    """Return half the width of the interval of the mean after n values, divided by their standard deviation.

    With a probability of at least 95% the intervals after 2, 3, 4, ... values all contain the mean.

    Args:
        n: Number of values: one for each direction, or for each block of probes.

    Returns:
        None with fewer than FEWEST values, which give no bound.
    """
    if n < 2:
        return None
    growth = 1.0 + n * EFFECT**2
    ratio = (growth / (1.0 - CONFIDENCE) ** 2) ** (1.0 / n)
    if ratio >= growth:
        return None
    t_squared = (n - 1) * (ratio - 1.0) / (1.0 - ratio / growth)
    return math.sqrt(t_squared / n)


FEWEST = next(n for n in itertools.count(2) if relative_half_width(n) is not None)
"""The smallest number of values that have an interval at 95% confidence with this prior."""
