"""ASR at the nodes that were not measured."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.analysis.adaptive.geometry import Counts, Node, Shape
from orchestrator.analysis.adaptive.posterior import Posterior


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
    posterior = Posterior.of(shape, counts)
    values, errors = posterior.inferred, posterior.errors
    return {
        node: Inferred(float(values[node]), float(errors[node])) for node in shape.nodes() if not posterior.known[node]
    }
