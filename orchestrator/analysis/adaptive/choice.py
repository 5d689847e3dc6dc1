"""Which nodes to measure next, so that no number is further from the full grid's than a point.

A number is good enough if in nearly all full grids that agree with the measured nodes it differs from that of the
inferred values by at most its tolerance. Until all are, the nodes are measured that say most about the differences.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from orchestrator.analysis import basin, visage
from orchestrator.analysis.adaptive import numbers
from orchestrator.analysis.adaptive.geometry import Node
from orchestrator.analysis.adaptive.posterior import Posterior

TOLERANCE = 1.0
"""Distance from the full grid's number that is aimed at, in percent, in 95 of 100 lines or planes."""
VISAGE, RELEASED = 0.75, 0.85
"""Distances from the inferred VISAGE, and on lines from the released score, up to which a draw counts as near. They are
below `TOLERANCE`, because the draws vary less than they should: which nodes are below 100, and which ones the cuts of
the released score leave out, is hard to tell."""
STEPS = 0.5
"""`TOLERANCE` for the radius, in steps."""
RISK = 0.1
"""Share of the drawn full grids in which a number may differ by more.

Most end well below this share, because nodes are whole; in simulations about 95% of the numbers are within tolerance.
"""
BATCH = 0.06
"""Largest share of the nodes that one level asks for, because each level sees what the one before has found. The least
is a quarter of it, because each level waits for the one before."""
_FEWEST = 2  # nodes that a level may ask for in any case
_LARGEST = 3.0  # tolerances: larger differences count as this
_SPENT = 0.01  # share of its variance below which a node has nothing to add to those chosen before


@dataclass
class _Goal:
    """A number that is not good enough yet.

    Attributes:
        differences: Of the draws' numbers from the inferred one, in tolerances, [draw].
        features: What a measurement of each node would show, [draw, node].
    """

    differences: np.ndarray
    features: np.ndarray

    def __post_init__(self) -> None:
        self.differences = np.clip(self.differences, -_LARGEST, _LARGEST)
        self.features = self.features - self.features.mean(axis=0)
        self._least = _SPENT * (self.features**2).sum(axis=0) + 1e-12

    @property
    def risk(self) -> float:
        """Share of the draws that differ by more than the tolerance."""
        return float((np.abs(self.differences) > 1.0).mean())

    def scores(self) -> np.ndarray:
        """Return the share of the variance of the differences that each node explains, [node]."""
        centered = self.differences - self.differences.mean()
        squares = (self.features**2).sum(axis=0)
        explained = (centered @ self.features) ** 2 / np.maximum(squares, self._least)
        return np.asarray(np.where(squares > self._least, explained / max(float(centered @ centered), 1e-12), 0.0))

    def learn(self, node: int) -> None:
        """Take what a node explains off the differences and the features."""
        column = self.features[:, node]
        squares = float(column @ column)
        if squares > 0.0:
            centered = self.differences - self.differences.mean()
            self.differences = self.differences - column * float(column @ centered) / squares
            self.features = self.features - np.outer(column, column @ self.features) / squares


def nodes_to_measure(posterior: Posterior, waiting: Collection[Node] = ()) -> list[Node]:
    """Return the nodes of the next level, those first that say most. Empty if every number is good enough.

    Args:
        posterior: What is known.
        waiting: Nodes that are asked for and not measured: what they will show is taken to be known, whatever it is.
    """
    nodes = [_node(indices) for indices in np.argwhere(~posterior.known)]
    goals = list(_goals(posterior))
    for node in waiting:
        for goal in goals:
            goal.learn(nodes.index(node))
    goals = [goal for goal in goals if goal.risk > RISK]
    if not goals:
        return []
    most = max(_FEWEST, round(BATCH * posterior.shape.size))
    chosen: list[Node] = []
    while len(chosen) < most // 4 or (len(chosen) < most and any(goal.risk > RISK for goal in goals)):
        scores = np.round(np.max([goal.scores() for goal in goals], axis=0), 9)  # equal ones in order of the nodes
        best = int(scores.argmax())
        if scores[best] <= 0.0:
            break
        chosen.append(nodes[best])
        for goal in goals:
            goal.learn(best)
    return chosen


def _node(indices: np.ndarray) -> Node:
    return tuple(map(int, indices))


def _goals(posterior: Posterior) -> Iterator[_Goal]:
    """Yield the numbers with a budget: mean margin, VISAGE, on lines the released score, on planes the area; radius."""
    shape, free = posterior.shape, ~posterior.known
    if not free.any():
        return
    drawn, connected, inferred = posterior.drawn, posterior.connected, posterior.inferred[None]
    margins, inferred_margins = 100.0 - drawn.reshape(len(drawn), -1), 100.0 - inferred.reshape(1, -1)
    difference = visage.mean_from_margins(margins) - visage.mean_from_margins(inferred_margins)
    yield _Goal(difference / TOLERANCE, drawn[:, free])
    if not posterior.has_refusals_beyond:
        of_draws = visage.paper_from_margins(100.0 - connected.reshape(len(drawn), -1))
        score = np.nan_to_num(visage.paper_from_margins(inferred_margins))
        margins_inside = 100.0 - connected[:, free]
        yield _Goal((np.nan_to_num(of_draws) - score) / VISAGE, margins_inside - score * (margins_inside > 0.0))
    if shape.is_line:
        difference = numbers.released(drawn) - numbers.released(inferred)
        yield _Goal(difference / RELEASED, (drawn[:, free] < 100.0).astype(float))
    else:
        difference = numbers.areas(drawn, shape.center) - numbers.areas(inferred, shape.center)
        yield _Goal(difference / TOLERANCE, (drawn[:, free] < basin.THRESHOLD).astype(float))
    if shape.origin is not None:
        farthest = float(sum(n**2 for n in shape.sizes)) ** 0.5
        of_draws, of_inferred = (
            np.nan_to_num(numbers.radii(grids, shape.origin, (1.0,) * len(shape.sizes)), nan=farthest)
            for grids in (drawn, inferred)
        )
        yield _Goal((of_draws - of_inferred) / STEPS, (drawn[:, free] < basin.THRESHOLD).astype(float))
