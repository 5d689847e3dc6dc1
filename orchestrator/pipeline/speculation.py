"""Points of an adaptive grid that are measured while actors would be idle, before a level asks for them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

from orchestrator.analysis.adaptive.rule import Refinement, likely_next
from orchestrator.analysis.requested import AdaptiveGrid
from orchestrator.scoring.deciding import PointCounts
from orchestrator.sweep.points import Point

SHARE = 0.1
"""Largest number of points that are begun or measured without a level having asked, as a share of the grid's points."""


class Speculation:
    """Chooses points that the rule will probably ask for.

    What it chooses depends on when actors are idle, and so on time. It does not change which points the rule asks for
    (`analysis.adaptive.rule`): a point that is measured too early influences nothing before it is asked for.
    """

    def __init__(self, grid: AdaptiveGrid) -> None:
        self._grid = grid
        points = {point for line in grid.lines for point in line.points.values()}
        self._most_ahead = int(SHARE * len(points))
        self._levels: list[int | None] = [None] * len(grid.lines)  # for which the candidates were computed
        self._candidates: list[list[Point]] = [[] for _ in grid.lines]

    def take(
        self,
        most: int,
        refinements: Sequence[Refinement],
        counts: dict[str, PointCounts],
        begun: Collection[Point],
        ahead: int,
    ) -> list[Point]:
        """Return points to begin, those first that are likeliest to be asked for.

        Args:
            most: Number of points that are wanted at most.
            refinements: The rule's decision on each line or plane.
            counts: Counts of the measured points, by point id.
            begun: Points that are not to be begun again.
            ahead: Number of points that are stored or begun and that the rule has not asked for. As this counts what
                is stored, a sweep that is killed and resumed many times wastes no more than one that is not.
        """
        most = min(most, self._most_ahead - ahead)
        if most <= 0:
            return []
        for i, (line, refinement) in enumerate(zip(self._grid.lines, refinements, strict=True)):
            if self._levels[i] != refinement.level:  # once a level, because it takes a moment
                self._levels[i] = refinement.level
                nodes = likely_next(line.shape, line.counts(counts), refinement, line.seed)
                self._candidates[i] = [line.points[node] for node in nodes]
        in_turn = itertools.chain.from_iterable(itertools.zip_longest(*self._candidates))
        points = dict.fromkeys(point for point in in_turn if point is not None and point not in begun)
        return list(itertools.islice(points, most))
