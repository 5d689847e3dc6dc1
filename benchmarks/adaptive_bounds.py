"""Bounds for `benchmarks.adaptive` of how few nodes could do.

A node that was not measured is known no better than its own sample varies. Two methods that know more than any rule can
say how many nodes are needed at least, for a number within a point of the full grid's in 95% of the landscapes. The
difference, a sum over many nodes, is taken to be normal. A method may give up some landscapes to be nearer in others.

*Noises* are what each node's own sample adds to the standard deviation of a number, in points, [node].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import ndtr

RISK = 0.05
"""Share of the landscapes in which the number may be further off."""
_SCALES = np.geomspace(1e-4, 10.0, 120)  # of noises: from a survey of nearly all nodes to one of nearly none
_PRICES = np.geomspace(0.02, 500.0, 150)


def noise_of_margin(refusing: np.ndarray) -> np.ndarray:
    """Return the noises of the mean margin.

    Args:
        refusing: Probability of each response to be a refusal, [node, probe].
    """
    nodes, probes = refusing.shape
    return np.asarray(100.0 / probes / nodes * np.sqrt((refusing * (1.0 - refusing)).sum(axis=1)))


def noise_of_visage(refusing: np.ndarray) -> np.ndarray:
    """Return the noises of VISAGE V, whose nodes below 100% vary too.

    To first order, V differs by the sum of (m_i - V b_i) / N from its value at the expected sums, where m_i is node i's
    margin, b_i is 1 if it is above 0, and N the expected number of these nodes.

    Args:
        refusing: Probability of each response to be a refusal, [node, probe]. Not 0 everywhere.
    """
    probes = refusing.shape[1]
    margin = 100.0 / probes * refusing.sum(axis=1)
    unrefused = np.prod(1.0 - refusing, axis=1)
    number = (1.0 - unrefused).sum()
    value = margin.sum() / number
    variance = 1e4 / probes**2 * (refusing * (1.0 - refusing)).sum(axis=1)
    variance += unrefused * value * (value * (1.0 - unrefused) - 2.0 * margin)  # cov(m, b) = E(m) P(b = 0)
    return np.asarray(np.sqrt(np.maximum(variance, 0.0)) / number)


def oracle(noises: Sequence[np.ndarray]) -> float:
    """Return the percentage of nodes without which no rule is near enough.

    An oracle that knows the probability of each response infers each node with no error but that of the node's own
    sample, and measures the nodes with the largest noises.

    Args:
        noises: Of each landscape.
    """
    return _least(noises, _of_oracle)


def survey(noises: Sequence[np.ndarray]) -> float:
    """Return the percentage of nodes that a survey needs, if it knows each node's noise but not its ASR.

    It measures node i with probability q_i = min(1, s_i / c), s_i its noise (Neyman's allocation), and infers the
    others from measured nodes of equal ASR: the variance is the sum of s_i^2 (1 / q_i - 1) (W. G. Cochran, "Sampling
    Techniques", 3rd edition, section 5.5). It is given which nodes have equal ASR; a rule has to find out.

    Args:
        noises: Of each landscape.
    """
    return _least(noises, _of_survey)


def _least(noises: Sequence[np.ndarray], method: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the least mean percentage of measured nodes with a mean risk of `RISK`.

    For every price of risk, the mean of the least (share + price * risk) minus price * `RISK` is below the mean share
    of every allocation that keeps the mean risk (weak duality).

    Args:
        noises: Of each landscape.
        method: From the noises of a landscape to possible shares of measured nodes and their risks, [choice].
    """
    choices = [method(noise) for noise in noises]
    bounds = [
        np.mean([(share + price * risk).min() for share, risk in choices]) - price * RISK for price in (0.0, *_PRICES)
    ]
    return 100.0 * float(max(bounds))


def _of_oracle(noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    variances = np.concatenate([[0.0], np.cumsum(np.sort(noise) ** 2)])
    return np.linspace(1.0, 0.0, len(variances)), _risk(variances)


def _of_survey(noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shares = np.minimum(1.0, noise / _SCALES[:, None]).mean(axis=1)
    variances = (noise * np.maximum(_SCALES[:, None] - noise, 0.0)).sum(axis=1)
    return np.append(shares, 0.0), np.append(_risk(variances), 1.0)


def _risk(variances: np.ndarray) -> np.ndarray:
    """Return the probability that normal differences with these variances are larger than a point."""
    return np.asarray(2.0 * ndtr(-1.0 / np.sqrt(np.maximum(variances, 1e-12))))
