"""Full grids drawn at random that agree with the measured nodes, and the values to report."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from orchestrator.analysis.adaptive.geometry import Counts, Node, Shape
from orchestrator.analysis.adaptive.numbers import around
from orchestrator.analysis.adaptive.process import Counted, Draws, Process
from orchestrator.analysis.adaptive.responses import DIFFICULTIES, Responses

DRAWS = 400
"""Number of full grids that are drawn."""
WIDER = 1.3
"""By how much how unsafe the model is at an audited node varies more than in the draws, because the process is
approximate. Simulations chose it (docs/adaptive.md)."""
_SEED = 19  # fixed, so that the same counts give the same values
_SELDOM = 0.02  # probability of being in the basin below which a node is beyond it
_MOST_STRETCH = 1.3  # by which values are multiplied at most so that their sum is that of the draws


@dataclass(frozen=True)
class Posterior:
    """One line or plane given some counts.

    Attributes:
        shape: The line or plane.
        known: Whether each node was measured, even if it has no verdict.
        asr: ASR in percent of each node that has verdicts; NaN elsewhere.
        draws: Draws of how unsafe the model may be at every node.
        drawn: ASR of full grids that agree with the counts, [draw, *sizes], percent.
    """

    shape: Shape
    known: np.ndarray
    asr: np.ndarray
    draws: Draws
    drawn: np.ndarray

    @classmethod
    def of(cls, shape: Shape, counts: Counts) -> Posterior:
        """Return what these counts say. The same counts give the same draws."""
        return _posterior(shape, tuple(sorted(counts.items())))

    @functools.cached_property
    def has_refusals_beyond(self) -> bool:
        """True if an attack failed at a measured node that is not connected with the basin around the center."""
        inside = around(self.shape.center, self.drawn < 100.0)
        return bool(((self.asr < 100.0) & (inside.mean(axis=0) < _SELDOM)).any())

    @functools.cached_property
    def connected(self) -> np.ndarray:
        """`drawn` without failing attacks beyond the basin, [draw, *sizes], unless some have been measured there.

        One that nothing hints at cannot be aimed at: the audit looks for it. See `has_refusals_beyond`.
        """
        if self.has_refusals_beyond:
            return self.drawn
        inside = around(self.shape.center, self.drawn < 100.0)
        return np.where(inside | ~np.isnan(self.asr), self.drawn, 100.0)

    @functools.cached_property
    def inferred(self) -> np.ndarray:
        """The ASR to report at each node, percent: measured, or the mean of the draws, but 100 where that is likelier.

        As many nodes are below 100 as on average in the draws, those first that are most often; each has the mean ASR
        of the draws in which it is. The mean of all margins stays that of the draws.
        """
        margins = 100.0 - self.connected
        below = (margins > 0.0).mean(axis=0)
        free = np.isnan(self.asr)
        expected = margins.mean(axis=0)[free]
        order = np.argsort(-np.round(below[free], 9), kind="stable")[: round(float(below[free].sum()))]
        found = np.zeros(len(expected))
        found[order] = expected[order] / below[free][order]
        if found.any():
            stretch = float(expected.sum() / found.sum())
            found = np.minimum(found * np.clip(stretch, 1.0 / _MOST_STRETCH, _MOST_STRETCH), 100.0)
        inferred = self.asr.copy()
        inferred[free] = 100.0 - found
        return inferred

    @property
    def errors(self) -> np.ndarray:
        """Standard deviation of the full grid's ASR from `inferred` at each node, percent, as an array of the shape."""
        return np.asarray(np.sqrt(np.mean((self.drawn - self.inferred) ** 2, axis=0)))

    def p_value(self, node: Node, unsafe: int, judged: int) -> float:
        """Return the probability of a count at a node that was not measured and of all less likely ones.

        How unsafe the model is at the node varies more than in the draws, by `WIDER`.
        """
        drawn = self.draws.unsafe[:, np.ravel_multi_index(node, self.shape.sizes)]
        unsafe_at_node = drawn.mean() + WIDER * (drawn - drawn.mean())
        chance = np.zeros(judged + 1)
        for each in np.unique(self.draws.difficulties):
            responses = Responses.of(judged, DIFFICULTIES[each])
            levels = responses.levels(unsafe_at_node[self.draws.difficulties == each])
            chance += responses.probability[levels].sum(axis=0) / len(unsafe_at_node)
        return float(chance[chance <= chance[unsafe] * (1.0 + 1e-9)].sum())


@functools.lru_cache(maxsize=16)
def _posterior(shape: Shape, counts: tuple[tuple[Node, tuple[int, int]], ...]) -> Posterior:
    known, asr = np.zeros(shape.sizes, dtype=bool), np.full(shape.sizes, np.nan)
    for node, (k, n) in counts:
        known[node] = True
        if n:
            asr[node] = 100.0 * k / n
    valued = {node: count for node, count in counts if count[1]}
    places = [int(np.ravel_multi_index(node, shape.sizes)) for node in valued]
    unsafe, judged = (np.array([count[i] for count in valued.values()], dtype=int) for i in (0, 1))
    counted, rng = Counted(np.array(places, dtype=int), unsafe, judged), np.random.default_rng(_SEED)
    draws = Process(shape, counted).draw(DRAWS // 2, rng)
    numbers = np.empty_like(draws.unsafe)
    for each in np.unique(draws.difficulties):
        chosen = draws.difficulties == each
        numbers[chosen] = Responses.of(counted.probes, DIFFICULTIES[each]).draw(draws.unsafe[chosen], rng)
    drawn = (100.0 / counted.probes * numbers).reshape(-1, *shape.sizes)
    return Posterior(shape, known, asr, draws, np.where(np.isnan(asr), drawn, asr))
