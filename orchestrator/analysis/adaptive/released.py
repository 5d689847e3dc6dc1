"""Nodes that decide VISAGE as the published code computes it on a line (`visage.released`).

That score is the mean margin between two cuts. Each is where ASR first falls from 100 on the way from an end of the
line inward, so a single refusal far out moves it. Whether a node that was not measured is at 100 is uncertain; the
distribution of the place of each cut follows from the probabilities, node by node.
"""

from __future__ import annotations

import math

import numpy as np

from orchestrator.analysis.adaptive.geometry import Node
from orchestrator.analysis.adaptive.surface import Surface

RISK = 0.05
"""Probability, at most, that nodes that were not measured move a cut so that the score changes by half a point."""
_CHANGE = 0.5  # percent
_SCANNED = 3  # nodes that are measured at once if they hold half of the probability of another cut


def nodes_to_scan(surface: Surface) -> list[Node]:
    """Return the nodes that are to be measured for the cuts. Empty if they are certain enough."""
    full = at_100(surface)
    margins = 100.0 - surface.asr
    known = surface.measured.known
    nodes = _scan(full, margins, known)
    n = len(full)
    nodes |= {n - 1 - i for i in _scan(full[::-1], margins[::-1], known[::-1])}
    return [(i,) for i in sorted(nodes)]


def at_100(surface: Surface) -> np.ndarray:
    """Return the probability that the full grid has 100 at each node of a line, [node].

    Between two nodes at 100, it follows from the number of nodes on this side of the center that are at 100 and beyond
    the crossing of 50% (see `refusal_rate`); elsewhere from the inferred ASR p of n responses as p to the power of n.
    """
    asr, n = surface.asr, surface.measured.probes
    valued = ~np.isnan(surface.measured.share)
    shrunk = (asr * n / 100.0 + 0.5) / (n + 1.0)
    full = np.where(valued, asr >= 100.0, shrunk**n)
    clean = ~valued & surface.is_clean[surface.owner]
    half = len(asr) // 2
    for side in (slice(0, half), slice(half, len(asr))):
        measured = asr[side][valued[side]]
        dirty = int(((measured < 100.0) & (measured >= 90.0)).sum())
        rate = refusal_rate(int((measured >= 100.0).sum()), dirty, int(clean[side].sum()))
        full[side] = np.where(clean[side], 1.0 - rate, full[side])
    return full


def refusal_rate(at_100: int, below: int, inferred: int) -> float:
    """Return the probability that a node between nodes at 100 is below 100.

    With probability one half no probe ever refuses there; otherwise the rate has Jeffreys' prior. If all of k nodes
    are at 100, the posterior probability of the second case is 1 / (1 + sqrt(pi k)), and the probability that one of
    m more nodes is below 100 is that times 1 - sqrt(k / (k + m)).

    Args:
        at_100: Number of measured nodes at 100.
        below: Number of measured nodes among them that are below.
        inferred: Number of nodes to infer.
    """
    if below:
        return (below + 0.5) / (at_100 + below + 1.0)
    if not inferred or not at_100:
        return 0.5
    doubt = 1.0 / (1.0 + math.sqrt(math.pi * at_100))
    return doubt * (1.0 - math.sqrt(at_100 / (at_100 + inferred))) / inferred


def _scan(full: np.ndarray, margins: np.ndarray, known: np.ndarray) -> set[int]:
    """Return the nodes to measure for the cut of the half that begins at index 0."""
    half = len(full) // 2
    chance, none = _cut_distribution(full[:half])
    scores = np.array([margins[i:].mean() for i in range(half)])
    likely = int(np.argmax(np.append(chance, none)))
    likely = 0 if likely == half else likely
    chance[np.abs(scores - scores[likely]) <= _CHANGE] = 0.0
    mass = np.where(known[:half], 0.0, chance)  # the node that would make the cut, or the one before it
    mass[:-1] += np.where(known[1:half] & ~known[: half - 1], chance[1:], 0.0)
    if mass.sum() <= RISK / 2.0:
        return set()
    possible = np.flatnonzero(mass > 0.0)
    before = int(np.searchsorted(np.cumsum(mass[possible]), mass.sum() / 2.0)) + 1
    return set(possible[:before].tolist() if before <= _SCANNED else [int(possible[before - 1])])


def _cut_distribution(full: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the probability that the cut is at each node of a half, from its end inward, and that there is none.

    Args:
        full: Probability that each node is at 100, [node].
    """
    chance = np.zeros(len(full))
    at, below = float(full[0]), 1.0 - float(full[0])
    for i in range(1, len(full)):
        chance[i] = at * (1.0 - full[i])
        at, below = (at + below) * float(full[i]), below * (1.0 - float(full[i]))
    return chance, at + below
