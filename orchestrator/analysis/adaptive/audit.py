"""The audit: a random sample of inferred nodes is measured, and each is tested against what was inferred."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from orchestrator.analysis.adaptive.geometry import Counts, Node, Shape
from orchestrator.analysis.adaptive.posterior import Posterior

SHARE = 0.05
"""Share of the inferred nodes that are audited."""
FEWEST = 3
"""Smallest number of nodes of an audit."""
FALSE_ALARMS = 0.05
"""Probability that any audit of a line or plane fails although everything was inferred correctly, at most."""


def sample(known: np.ndarray, seed: int, number: int) -> list[Node]:
    """Return the nodes of an audit, a simple random sample of those that were not measured.

    Args:
        known: Whether each node was measured, an array of the shape of the line or plane.
        seed: Seed of the line's or plane's audits, at least 0.
        number: Number of the audit, from 0.
    """
    inferred = np.argwhere(~known)
    size = min(len(inferred), max(FEWEST, math.ceil(SHARE * len(inferred))))
    rng = np.random.default_rng([seed, number])
    return [tuple(int(i) for i in inferred[k]) for k in np.sort(rng.permutation(len(inferred))[:size])]


def failures(before: Posterior, counts: Counts, nodes: Sequence[Node], number: int) -> list[Node]:
    """Return the audited nodes that differ beyond chance from what was inferred at them.

    Audit number r spends 1 / 2^(r+1) of `FALSE_ALARMS`, divided by the number of its nodes (Bonferroni), so that all
    audits together raise a false alarm with at most that probability.

    Args:
        before: What was known when the nodes were drawn.
        counts: Counts of the audited nodes. Those without a verdict are not tested.
        nodes: The audited nodes.
        number: Number of the audit, from 0.
    """
    level = FALSE_ALARMS / 2 ** (number + 1) / max(len(nodes), 1)
    judged = [node for node in nodes if counts[node][1] > 0]
    return [node for node in judged if before.p_value(node, *counts[node]) <= level]


def neighbors(shape: Shape, node: Node) -> list[Node]:
    """Return the nodes of a line or plane next to a node, along the axes and diagonals."""
    around = itertools.product(*(range(max(i - 1, 0), min(i + 2, n)) for i, n in zip(node, shape.sizes, strict=True)))
    return [each for each in around if each != node]
