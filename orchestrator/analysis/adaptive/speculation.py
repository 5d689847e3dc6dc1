"""Which nodes the levels after the current one will probably ask for, so that idle actors can measure them ahead."""

from __future__ import annotations

import collections
from collections.abc import Mapping

import numpy as np

from orchestrator.analysis.adaptive.errors import complete
from orchestrator.analysis.adaptive.geometry import Counts, Node, Shape
from orchestrator.analysis.adaptive.inference import final_surface
from orchestrator.analysis.adaptive.rule import refine

DRAWS = 8
"""Number of full grids that are drawn. More take longer than a visit may, and order the nodes hardly better."""


def chances(shape: Shape, counts: Counts, seed: int) -> Mapping[Node, float]:
    """Return the probability that a later level asks for each node, best first.

    Full grids are drawn at random that agree with the measured nodes, as for the errors of the numbers
    (`errors.complete`), and the rule is run on each to its end. The probability of a node is the share of the grids in
    which the rule asks for it. Among equal ones, nodes that are asked for earlier come first.

    Nodes that are measured on this ground do not influence any level before that level asks for them (see `rule`).

    Args:
        shape: The line or plane.
        counts: Verdict counts of the measured nodes.
        seed: Seed of the audit's sample, as for `refine`.

    Returns:
        Node -> probability, above 0. Nodes that are measured, or that the current level asks for, are not in it.
    """
    current = refine(shape, counts, seed)
    if current.done:
        return {}
    surface = final_surface(shape, counts)
    probes = surface.measured.probes
    known = {*counts, *current.missing}
    times: collections.Counter[Node] = collections.Counter()
    places: collections.Counter[Node] = collections.Counter()  # sum over the grids
    for grid in complete(surface, DRAWS, np.random.default_rng([seed, len(counts)])):
        guessed = {node: (round(float(grid[node]) * probes / 100.0), probes) for node in shape.nodes()}
        needed = [node for node in refine(shape, guessed | dict(counts), seed).needed if node not in known]
        times.update(needed)
        places.update({node: place for place, node in enumerate(needed)})
    order = sorted(times, key=lambda node: (-times[node], places[node] / times[node], node))
    return {node: times[node] / DRAWS for node in order}
