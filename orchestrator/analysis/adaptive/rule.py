"""Which nodes of a line or plane an adaptive sweep measures.

The rule works in levels. Level 0 asks for a coarse lattice with the origin; each further level is computed from the
counts of the nodes that all earlier levels asked for, and from nothing else. Nodes that were measured without having
been asked for (an earlier full sweep, speculation) do not influence a level before the levels themselves ask for them.
Therefore the set of chosen nodes does not depend on the order of visits, on the number of actors or on interruptions.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from orchestrator.analysis.adaptive import audit
from orchestrator.analysis.adaptive.choice import nodes_to_measure
from orchestrator.analysis.adaptive.geometry import Counts, Node, Shape
from orchestrator.analysis.adaptive.posterior import Posterior

RULE_VERSION = 4
"""Version of the rule. Another rule that chooses other nodes gets another version."""
LINE_PARTS, PLANE_PARTS = 8, 4
"""Parts into which level 0 divides each axis of a line, and of a plane."""

Known = tuple[tuple[Node, tuple[int, int]], ...]
"""Measured nodes with their counts, as the key of a cache."""


@dataclass(frozen=True)
class Refinement:
    """The nodes that the rule asks for.

    Attributes:
        needed: Every node that the levels so far ask for, in order of the levels.
        missing: The nodes of the current level that have no counts. Empty when done.
        level: Number of the current level, from 0.
        done: Whether every level is complete.
        audited: Nodes that were chosen at random to check what had been inferred at them.
        failed_audits: Those among them that differed from the inferred value beyond chance.
    """

    needed: tuple[Node, ...]
    missing: tuple[Node, ...]
    level: int
    done: bool
    audited: tuple[Node, ...] = ()
    failed_audits: tuple[Node, ...] = ()


def refine(shape: Shape, counts: Counts, seed: int) -> Refinement:
    """Return which nodes are needed and which of these are to be measured next.

    Args:
        shape: The line or plane.
        counts: Verdict counts of the measured nodes.
        seed: Seed of the audit's sample; each line or plane should have its own.
    """
    return _Levels(shape, counts, seed).run()


def likely_next(shape: Shape, counts: Counts, current: Refinement, seed: int) -> list[Node]:
    """Return the nodes that the level after the current one will probably ask for, the likeliest first.

    What the nodes of the current level will show is taken to be known, whatever it is. Nodes that are measured on this
    ground do not influence any level before that level asks for them. There are none before anything is measured, and
    none while an audit is measured, because most often it is the end.

    Args:
        shape: The line or plane.
        counts: Verdict counts of the measured nodes.
        current: What `refine` returns for these counts or for a part of them.
        seed: Seed of the audit's sample.
    """
    if not counts or current.done or set(current.missing) & set(current.audited):
        return []
    waiting = [node for node in current.missing if node not in counts]
    nodes = nodes_to_measure(Posterior.of(shape, counts), waiting)
    if nodes or current.audited:
        return nodes
    return [node for node in audit.sample(_mask(shape, current.needed), seed, 0) if node not in counts]


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
            sample = audit.sample(_mask(self._shape, self._needed), self._seed, number)
            if not sample:
                return
            self._audited += sample
            yield sample
            failed = self._failures(before, sample, number)
            self._failed += failed
            if not failed:
                return
            while failed:  # a region that nothing hinted at is followed to its border
                around = dict.fromkeys(node for each in failed for node in audit.neighbors(self._shape, each))
                new = [node for node in around if node not in self._needed]
                if new:
                    yield new
                failed = self._failures(before, new, number)

    def _known(self) -> Known:
        return tuple(sorted((node, self._counts[node]) for node in self._needed))

    def _failures(self, before: Known, nodes: list[Node], number: int) -> list[Node]:
        counts = tuple((node, self._counts[node]) for node in nodes)
        return list(_failed(self._shape, before, counts, number))


def _mask(shape: Shape, nodes: Iterable[Node]) -> np.ndarray:
    """Return an array of the shape that is true at these nodes."""
    mask = np.zeros(shape.sizes, dtype=bool)
    mask[tuple(np.transpose(list(nodes)))] = True
    return mask


@functools.lru_cache(maxsize=1024)
def _chosen(shape: Shape, counts: Known) -> tuple[Node, ...]:
    return tuple(nodes_to_measure(Posterior.of(shape, dict(counts)))) if len(counts) < shape.size else ()


@functools.lru_cache(maxsize=1024)
def _failed(shape: Shape, before: Known, counts: Known, number: int) -> tuple[Node, ...]:
    audited = dict(counts)
    return tuple(audit.failures(Posterior.of(shape, dict(before)), audited, list(audited), number))


def lattice(shape: Shape) -> list[Node]:
    """Return the nodes of level 0: evenly spaced on each axis, with its ends and the center's place."""
    parts = LINE_PARTS if shape.is_line else PLANE_PARTS
    axes = [
        sorted({c, *np.rint(np.linspace(0, n - 1, parts + 1)).astype(int).tolist()})
        for n, c in zip(shape.sizes, shape.center, strict=True)
    ]
    return list(itertools.product(*axes))
