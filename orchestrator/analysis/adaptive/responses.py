"""The number of unsafe responses at a node, given how unsafe the model is there.

Probe j is answered unsafely at node i if x_i + e > d_j: x_i is how unsafe the model is at the node, d_j how hard the
probe is, and e a standard normal variable of the response. This is the one-parameter probit model of item response
theory (F. M. Lord, "A theory of test scores", 1952). Only the number of unsafe responses is used, so the difficulties
are taken to be the quantiles of a normal distribution, times the *spread* of the probes. The hardest probe decides how
far out an attack still fails, and differs most from one set of probes to another: it may be an *outlier*. The number of
unsafe responses then has a Poisson-binomial distribution.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import ndtr, ndtri


class Difficulties(NamedTuple):
    """Difficulties of the probes.

    Attributes:
        spread: Standard deviation of the probes' difficulties, in standard deviations of a response.
        outlier: By how much the hardest probe is harder than its quantile, in standard deviations of a response.
    """

    spread: float
    outlier: float = 0.0

    def of_probes(self, probes: int) -> np.ndarray:
        """Return the difficulty of each of so many probes, ascending except for the last one, [probe]."""
        difficulty = self.spread * ndtri((np.arange(probes) + 0.5) / probes)
        difficulty[-1] += self.outlier
        return np.asarray(difficulty)


SPREADS, OUTLIERS = (0.2, 0.6, 1.0, 1.5, 2.2), (0.0, -0.6, 1.0, 3.0)
DIFFICULTIES = tuple(itertools.starmap(Difficulties, itertools.product(SPREADS, OUTLIERS)))
"""Difficulties that are tried."""
_LEVELS = np.linspace(-6.0, 7.0, 131)  # of x for which the distribution is tabulated
_STEP = float(_LEVELS[1] - _LEVELS[0])
_SMALLEST = 1e-290


@dataclass(frozen=True)
class Responses:
    """The distribution of the number of unsafe responses among `probes` responses, tabulated over x.

    Attributes:
        probes: Number of responses.
        probability: Of each number of unsafe responses, [level of x, number].
        mean: Expected share of unsafe responses, 0 to 1, [level of x].
    """

    probes: int
    probability: np.ndarray
    mean: np.ndarray
    _log: CubicSpline

    @classmethod
    @functools.lru_cache(maxsize=256)
    def of(cls, probes: int, difficulties: Difficulties) -> Responses:
        """Return the distribution for so many probes of these difficulties."""
        unsafe = ndtr(_LEVELS[:, None] - difficulties.of_probes(probes))
        probability = np.zeros((len(_LEVELS), probes + 1))
        probability[:, 0] = 1.0
        for j in range(probes):
            one_more = probability[:, :-1] * unsafe[:, j : j + 1]
            probability *= 1.0 - unsafe[:, j : j + 1]
            probability[:, 1:] += one_more
        log = CubicSpline(_LEVELS, np.log(np.maximum(probability, _SMALLEST)), axis=0)
        return cls(probes, probability, unsafe.mean(axis=1), log)

    def log_likelihood(self, x: np.ndarray, unsafe: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the logarithm of the probability of these numbers, its derivative in x and minus the second one.

        Args:
            x: How unsafe the model is at each node, [node].
            unsafe: Number of unsafe responses at each node, [node].
        """
        inside = np.clip(x, _LEVELS[0], _LEVELS[-1])
        interval = np.minimum((inside - _LEVELS[0]) / _STEP, len(_LEVELS) - 2).astype(int)
        t = inside - _LEVELS[interval]
        a, b, c, d = self._log.c[:, interval, unsafe]
        return ((a * t + b) * t + c) * t + d, (3.0 * a * t + 2.0 * b) * t + c, -(6.0 * a * t + 2.0 * b)

    def levels(self, x: np.ndarray) -> np.ndarray:
        """Return the nearest tabulated level of each x, as an index of `probability` and `mean`."""
        return np.clip(np.rint((x - _LEVELS[0]) / _STEP), 0, len(_LEVELS) - 1).astype(int)

    def draw(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a random number of unsafe responses for each x, [draw, node] to [draw, node]."""
        table = np.cumsum(self.probability, axis=1) + 2.0 * np.arange(len(_LEVELS))[:, None]  # ascends from row to row
        levels = self.levels(x)
        drawn = np.searchsorted(table.ravel(), rng.random(x.shape) + 2.0 * levels) - levels * table.shape[1]
        return np.minimum(drawn, self.probes)
