"""ASR at the nodes that were not measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.analysis.adaptive.geometry import Cell, Counts, Node, Shape, is_smallest, split
from orchestrator.analysis.adaptive.rule import Replay, line_cells
from orchestrator.analysis.adaptive.surface import Measured, Surface, corner_nodes


@dataclass(frozen=True)
class Inferred:
    """A value at a node that was not measured, in percent.

    Attributes:
        asr: The inferred ASR, 0 to 100.
        standard_error: Standard deviation of what the full grid would have there, about it. It contains the sampling
            noise of the node's own responses.
    """

    asr: float
    standard_error: float


def infer(shape: Shape, counts: Counts) -> dict[Node, Inferred]:
    """Return the values of all nodes without counts, from all that have counts, in order of their indices."""
    surface = final_surface(shape, counts)
    errors = node_errors(surface)
    return {
        node: Inferred(float(surface.inferred[node]), float(errors[node]))
        for node in shape.nodes()
        if node not in counts
    }


def final_surface(shape: Shape, counts: Counts) -> Surface:
    """Return the surface through all measured nodes, those that the rule did not ask for included.

    Cells are halved as far as the corners of the halves are measured.
    """
    measured = Measured.of(shape, counts, counts)
    replay = Replay(shape, counts, 0)
    replay.run()
    cells = line_cells(measured) if shape.is_line else _halved_where_measured(shape.first_cells(), measured)
    return Surface(shape, measured, tuple(cells), replay.noise_ratio)


def _halved_where_measured(cells: list[Cell], measured: Measured) -> list[Cell]:
    found, queue = [], list(cells)
    while queue:
        cell = queue.pop()
        halves = [] if is_smallest(cell) else split(cell)
        if halves and all(measured.known[node] for node in corner_nodes(halves)):
            queue += halves
        else:
            found.append(cell)
    return sorted(found)


def node_errors(surface: Surface) -> np.ndarray:
    """Return the standard error of each node that was not measured, percent, as an array of the shape; 0 elsewhere."""
    corner_noise = surface.noise * (2.0 / 3.0) ** (len(surface.shape.sizes) / 2)  # its mean over a cell
    errors = np.sqrt(surface.noise**2 + corner_noise**2 + surface.bias**2)
    return np.where(surface.measured.known, 0.0, errors[surface.owner])
