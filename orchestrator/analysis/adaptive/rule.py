"""Which nodes of a line or plane an adaptive sweep measures.

The rule works in levels. Level 0 asks for the corners, the ends of the axes through the origin and the origin; each
further level is computed from the counts of the nodes that all earlier levels asked for, and from nothing else. Nodes
that were measured without having been asked for (an earlier full sweep, speculation) do not influence a level before
the levels themselves ask for them. Therefore the set of chosen nodes does not depend on the order of visits, on the
number of actors or on interruptions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from orchestrator.analysis.adaptive import audit, budget, released
from orchestrator.analysis.adaptive.geometry import Cell, Counts, Node, Shape, is_smallest, split, touches
from orchestrator.analysis.adaptive.surface import Measured, NoiseRatio, Surface, corner_nodes

RULE_VERSION = 1
"""Version of the rule. Another rule that chooses other nodes gets another version."""


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
    return Replay(shape, counts, seed).run()


class Replay:
    """The levels of one line or plane, computed anew from its counts.

    Attributes:
        needed: The nodes asked for so far, in order.
        cells: The cells between them.
        complete: The surface of the last complete level. None before level 0 is complete.
    """

    def __init__(self, shape: Shape, counts: Counts, seed: int) -> None:
        self.shape, self.counts, self.seed = shape, counts, seed
        self.needed: dict[Node, None] = {}
        self.cells: list[Cell] = shape.first_cells()
        self.complete: Surface | None = None
        self._ratio = NoiseRatio(shape)
        self._level = 0
        self._audits = 0
        self._open_audit: tuple[list[Node], Surface] | None = None
        self._passed = False
        self._audited: list[Node] = []
        self._failed: list[Node] = []

    @property
    def noise_ratio(self) -> float:
        """Variance of a node's noise relative to a binomial's, from the complete levels."""
        return self._ratio.value

    def run(self) -> Refinement:
        """Go through the levels until one is incomplete or none is left."""
        missing = self._ask([*corner_nodes(self.cells), self.shape.center])
        while not missing:
            surface = self._complete_level()
            requested = self._next_level(surface)
            if not requested:
                break
            self._level += 1
            missing = self._ask(requested)
        found = tuple(self._audited), tuple(self._failed)
        return Refinement(tuple(self.needed), missing, self._level, not missing, *found)

    def _ask(self, nodes: Iterable[Node]) -> tuple[Node, ...]:
        """Add nodes to those needed; return those without counts."""
        new = [node for node in dict.fromkeys(nodes) if node not in self.needed]
        self.needed.update(dict.fromkeys(new))
        return tuple(node for node in new if node not in self.counts)

    def _complete_level(self) -> Surface:
        """Return the surface of the level that has just become complete."""
        measured = Measured.of(self.shape, self.counts, self.needed)
        if self.complete is not None:
            self._ratio.add(self.complete, measured)
        if self.shape.is_line:
            self.cells = line_cells(measured)
        self.complete = Surface(self.shape, measured, tuple(self.cells), self._ratio.value)
        return self.complete

    def _next_level(self, surface: Surface) -> list[Node]:
        """Return the nodes of the next level. Empty if nothing is left to ask.

        The level after 0 halves every cell. Then follow the cells that the error budget names, until it names none;
        then audits, whose failures are followed by more levels of refinement.
        """
        if self._level == 0:
            return self._split(range(len(self.cells))) or self._audit(surface)
        if self._open_audit is not None:
            nodes = self._split(self._around_failures(surface.measured))
            if nodes:
                return nodes
        nodes = self._split(budget.cells_to_split(surface))
        if not nodes and self.shape.is_line:
            nodes = released.nodes_to_scan(surface)
        return nodes or self._audit(surface)

    def _split(self, chosen: Iterable[int]) -> list[Node]:
        """Halve these cells; return the corners of the halves that are not needed yet."""
        old = {i for i in chosen if not is_smallest(self.cells[i])}
        new = [half for i in sorted(old) for half in split(self.cells[i])]
        self.cells = [cell for i, cell in enumerate(self.cells) if i not in old] + new
        return [node for node in corner_nodes(new) if node not in self.needed]

    def _audit(self, surface: Surface) -> list[Node]:
        """Return a random sample of the nodes that were not measured. Empty if the last audit found no fault."""
        if self._passed:
            return []
        sample = audit.sample(surface.measured.known, self.seed, self._audits)
        self._audits += 1
        self._open_audit = sample, surface
        self._audited += sample
        return sample

    def _around_failures(self, measured: Measured) -> set[int]:
        """Judge the audit that was measured last; return the indices of the cells around the nodes that failed."""
        assert self._open_audit is not None
        sample, before = self._open_audit
        failed = audit.failures(before, measured, sample, self._audits - 1)
        self._open_audit, self._passed = None, not failed
        self._failed += failed
        hit = [before.cells[before.owner[node]] for node in failed]
        return {i for i, cell in enumerate(self.cells) if any(touches(cell, other) for other in hit)}


def line_cells(measured: Measured) -> list[Cell]:
    """Return the cells of a line: from each measured node to the next."""
    known = np.flatnonzero(measured.known).tolist()
    return [((low, high),) for low, high in itertools.pairwise(known)] or [((0, 0),)]
