"""Which nodes of a line or plane the candidate measures.

The rule works in levels. Level 0 asks for a coarse lattice with the origin; each further level is computed from the
counts of the nodes that all earlier levels asked for, and from nothing else. Nodes that were measured without having
been asked for (an earlier full sweep, speculation) do not influence a level before the levels themselves ask for them.
Therefore the set of chosen nodes does not depend on the order of visits, on the number of actors or on interruptions.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks.process_rule.choice import nodes_to_measure
from benchmarks.process_rule.posterior import Posterior
from orchestrator.analysis.adaptive import audit
from orchestrator.analysis.adaptive.geometry import Counts, Node, Shape
from orchestrator.analysis.adaptive.rule import Refinement

Known = tuple[tuple[Node, tuple[int, int]], ...]
"""Measured nodes with their counts: a `Counts` that can be the key of a cache."""
LINE_PARTS, PLANE_PARTS = 8, 4
"""Parts into which level 0 divides each axis of a line, and of a plane."""


def refine(shape: Shape, counts: Counts, seed: int) -> Refinement:
    """Return which nodes are needed and which of these are to be measured next.

    Args:
        shape: The line or plane.
        counts: Verdict counts of the measured nodes.
        seed: Seed of the audit's sample; each line or plane should have its own.
    """
    return _Levels(shape, counts, seed).run()


class _Levels:
    """The levels of one line or plane, computed anew from its counts. What a level asks for is kept in a cache."""

    def __init__(self, shape: Shape, counts: Counts, seed: int) -> None:
        self._shape, self._counts, self._seed = shape, counts, seed
        self._needed: dict[Node, None] = {}
        self._level = -1
        self._audited: list[Node] = []
        self._failed: list[Node] = []

    def run(self) -> Refinement:
        """Go through the levels until one is incomplete or none is left."""
        missing: tuple[Node, ...] = ()
        for nodes in self._levels():
            self._level += 1
            self._needed.update(dict.fromkeys(nodes))
            missing = tuple(node for node in nodes if node not in self._counts)
            if missing:
                break
        found = tuple(self._audited), tuple(self._failed)
        return Refinement(tuple(self._needed), missing, self._level, not missing, *found)

    def _levels(self) -> Iterable[list[Node]]:
        """Yield the nodes of each level that were not needed before. When it goes on, they all have counts."""
        yield lattice(self._shape)
        for number in itertools.count():
            while nodes := _chosen(self._shape, self._known()):
                yield list(nodes)
            before = self._known()
            known = np.zeros(self._shape.sizes, dtype=bool)
            known[tuple(np.transpose(list(self._needed)))] = True
            sample = audit.sample(known, self._seed, number)
            if not sample:
                return
            self._audited += sample
            yield sample
            failed = self._failures(before, sample, number)
            self._failed += failed
            if not failed:
                return
            while failed:  # a region that nothing hinted at is followed to its border
                around = dict.fromkeys(node for each in failed for node in neighbors(self._shape, each))
                new = [node for node in around if node not in self._needed]
                if new:
                    yield new
                failed = self._failures(before, new, number)

    def _known(self) -> Known:
        return tuple(sorted((node, self._counts[node]) for node in self._needed))

    def _failures(self, before: Known, nodes: list[Node], number: int) -> list[Node]:
        counts = tuple((node, self._counts[node]) for node in nodes)
        return list(_failed(self._shape, before, counts, number))


@functools.lru_cache(maxsize=4096)
def _chosen(shape: Shape, counts: Known) -> tuple[Node, ...]:
    return tuple(nodes_to_measure(Posterior.of(shape, dict(counts)))) if len(counts) < shape.size else ()


@functools.lru_cache(maxsize=4096)
def _failed(
    shape: Shape,
    before: Known,
    counts: Known,
    number: int,
) -> tuple[Node, ...]:
    audited = dict(counts)
    return tuple(failures(Posterior.of(shape, dict(before)), audited, list(audited), number))


def lattice(shape: Shape) -> list[Node]:
    """Return the nodes of level 0: evenly spaced on each axis, with its ends and the center's place."""
    parts = LINE_PARTS if shape.is_line else PLANE_PARTS
    axes = [
        sorted({c, *np.rint(np.linspace(0, n - 1, parts + 1)).astype(int).tolist()})
        for n, c in zip(shape.sizes, shape.center, strict=True)
    ]
    return list(itertools.product(*axes))


def failures(before: Posterior, counts: Counts, nodes: Sequence[Node], number: int) -> list[Node]:
    """Return the audited nodes that differ beyond chance from what was inferred at them.

    Audit number r spends 1 / 2^(r+1) of `audit.FALSE_ALARMS`, divided by the number of its nodes (Bonferroni), so that
    all audits together raise a false alarm with at most that probability.

    Args:
        before: What was known when the nodes were drawn.
        counts: Counts of the audited nodes. Those without a verdict are not tested.
        nodes: The audited nodes.
        number: Number of the audit, from 0.
    """
    level = audit.FALSE_ALARMS / 2 ** (number + 1) / max(len(nodes), 1)
    judged = [node for node in nodes if counts[node][1] > 0]
    return [node for node in judged if before.p_value(node, *counts[node]) <= level]


def neighbors(shape: Shape, node: Node) -> list[Node]:
    """Return the nodes of a line or plane next to a node, along the axes and diagonals."""
    around = itertools.product(*(range(max(i - 1, 0), min(i + 2, n)) for i, n in zip(node, shape.sizes, strict=True)))
    return [each for each in around if each != node]
