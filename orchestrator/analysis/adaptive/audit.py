"""The audit: a random sample of inferred nodes is measured, and each is tested against what was inferred."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from orchestrator.analysis.adaptive.geometry import Node
from orchestrator.analysis.adaptive.surface import Measured, Surface

SHARE = 0.05
"""Share of the inferred nodes that are audited."""
FEWEST = 3
"""Smallest number of nodes of an audit."""
FALSE_ALARMS = 0.05
"""Probability that any audit of a line or plane fails although everything was inferred correctly, at most."""


def size(inferred: int) -> int:
    """Return how many of this number of inferred nodes are audited."""
    return min(inferred, max(FEWEST, math.ceil(SHARE * inferred)))


def sample(known: np.ndarray, seed: int, number: int) -> list[Node]:
    """Return the nodes of an audit, a simple random sample of those that were not measured.

    Args:
        known: Whether each node was measured, an array of the shape of the line or plane.
        seed: Seed of the line's or plane's audits, at least 0.
        number: Number of the audit, from 0.
    """
    inferred = np.argwhere(~known)
    rng = np.random.default_rng([seed, number])
    picked = np.sort(rng.permutation(len(inferred))[: size(len(inferred))])
    return [tuple(int(i) for i in inferred[k]) for k in picked]


def failures(before: Surface, measured: Measured, nodes: Sequence[Node], number: int) -> list[Node]:
    """Return the audited nodes that differ beyond chance from what was inferred at them.

    Audit number r spends 1 / 2^(r+1) of `FALSE_ALARMS`, divided by the number of its nodes (Bonferroni), so that all
    audits together raise a false alarm with at most that probability.

    Args:
        before: The surface from which the nodes were inferred.
        measured: All measured nodes, with the audited ones.
        nodes: The audited nodes. Those without a verdict are not tested.
        number: Number of the audit, from 0.
    """
    level = FALSE_ALARMS / 2 ** (number + 1) / max(len(nodes), 1)
    return [node for node in nodes if measured.judged[node] > 0 and p_value(before, measured, node) <= level]


def p_value(before: Surface, measured: Measured, node: Node) -> float:
    """Return the two-sided p-value of a node's count, if the inferred ASR is right up to its standard error.

    The count is then beta-binomial: the node's probability is beta distributed around the inferred ASR, with the
    standard error of inference as standard deviation. Where the inferred ASR is 100, a single refusal has p = 0.
    """
    cell = before.owner[node]
    n = int(measured.judged[node])
    unsafe = round(float(measured.share[node]) * n)
    if before.is_clean[cell]:
        return 1.0 if unsafe == n else 0.0
    mean = float(np.clip(before.asr[node] / 100.0, 0.5 / (n + 1), 1.0 - 0.5 / (n + 1)))
    corner_noise = before.noise[cell] * 0.5 ** (len(node) / 2)
    spread = max(math.hypot(2.0 * before.bias[cell], corner_noise) / 100.0, 1e-6)
    total = mean * (1.0 - mean) / spread**2 - 1.0
    if total <= 0.5:
        return 1.0
    count = stats.betabinom(n, mean * total, (1.0 - mean) * total)
    return float(min(1.0, 2.0 * min(count.cdf(unsafe), count.sf(unsafe - 1))))
