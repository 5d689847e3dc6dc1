"""Simulated lines and planes for `benchmarks.adaptive`: the models of `benchmarks.population`, in more shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from benchmarks.population import Model, Population
from orchestrator.analysis.adaptive.geometry import Counts, Node, Shape
from orchestrator.sweep.grid import spaced

PROBES = 40
MODELS = Population("all kinds", plateaus=0.1, clusters=(8, 20), clustered=0.25)
KINDS = ("plain", "plain", "plain", "plain", "plain", "plain", "island", "re-entrant", "open", "trickle")
"""Kinds of landscapes, each as likely as its share of this list: nothing in particular; a small region of refusals
beyond the basin; a large one; no wall on one side; single refusals far out."""
KINDS_OF_PLANES = (*KINDS, "elongated")
"""Kinds of planes: a basin may also be 2 to 4 times as long as wide."""


@dataclass(frozen=True)
class Landscape:
    """One simulated line or plane.

    Attributes:
        kind: A word of `KINDS_OF_PLANES`.
        radius: Median distance of the model's edge.
        axes: Coordinates of the nodes on each axis.
        asr: The full grid's ASR in percent, an array of the line's or plane's shape.
        refusing: Probability of each response to be a refusal, given what the probes have in common, [*sizes, probe].
    """

    kind: str
    radius: float
    axes: list[list[float]]
    asr: np.ndarray
    refusing: np.ndarray

    @property
    def shape(self) -> Shape:
        """The shape that the rule gets."""
        return Shape(self.asr.shape, tuple(n // 2 for n in self.asr.shape))

    def counts(self) -> dict[Node, tuple[int, int]]:
        """Return the full grid's counts."""
        return {node: (round(float(self.asr[node]) * PROBES / 100.0), PROBES) for node in self.shape.nodes()}

    @classmethod
    def draw(cls, rng: np.random.Generator, steps: int, is_plane: bool) -> Landscape:
        """Return a random landscape on an even number of steps from -0.5 to 0.5 on each axis."""
        model = Model.draw(rng, MODELS, PROBES)
        kind = str(rng.choice(KINDS_OF_PLANES if is_plane else KINDS))
        axis = np.array(spaced((-0.5, 0.5), steps))
        places = np.stack(np.meshgrid(*[axis] * (2 if is_plane else 1), indexing="ij"), axis=-1)
        unsafe = _unsafe(rng, model, kind, places)
        probe, line, point = model.shares
        common = probe * model.probes(rng) + line * model.probes(rng)
        refused = point * model.probes(rng, *unsafe.shape) + common <= -unsafe[..., None]
        chance = ndtr((-unsafe[..., None] - common) / point)
        asr = 100.0 * (PROBES - refused.sum(axis=-1)) / PROBES
        return cls(kind, model.radius, [axis.tolist()] * places.shape[-1], asr, chance)


def _unsafe(rng: np.random.Generator, model: Model, kind: str, places: np.ndarray) -> np.ndarray:
    """Return how unsafe each node is, in standard deviations.

    Args:
        rng: Source of randomness.
        model: The model.
        kind: A word of `KINDS_OF_PLANES`.
        places: Coordinates of the nodes, [..., axis].
    """
    distance = np.linalg.norm(places, axis=-1)
    edge = (
        _edge_of_line(rng, model, kind, places) if places.shape[-1] == 1 else _edge_of_plane(rng, model, kind, places)
    )
    outside = rng.uniform(2.3, 3.5) if kind == "trickle" else model.outside
    unsafe = (distance - edge) / (2 * (model.width * model.radius + 0.01))
    unsafe = np.clip(unsafe, model.origin, max(outside, model.origin))
    if kind in ("island", "re-entrant"):
        center = rng.uniform(-0.5, 0.5, size=places.shape[-1])
        width = rng.uniform(0.02, 0.1) if kind == "island" else rng.uniform(0.15, 0.3)
        inland = np.exp(-(np.linalg.norm(places - center, axis=-1) ** 2) / width**2)
        unsafe = unsafe - rng.uniform(1.0, 5.0) * inland * (distance > edge)
    unsafe[distance < 1e-9] = model.origin
    return np.asarray(unsafe)


def _edge_of_line(rng: np.random.Generator, model: Model, kind: str, places: np.ndarray) -> np.ndarray:
    middle = model.radius * np.exp(model.spread * rng.standard_normal())
    left, right = middle * np.exp(0.5 * model.spread * rng.standard_normal(2))
    return np.where(places[..., 0] < 0, left, 5.0 if kind == "open" else right)


def _edge_of_plane(rng: np.random.Generator, model: Model, kind: str, places: np.ndarray) -> np.ndarray:
    """Return the distance of the edge in the direction of each node: a random curve of three frequencies."""
    angle = np.arctan2(places[..., 1], places[..., 0])
    middle = model.radius * np.exp(model.spread * rng.standard_normal())
    a, b = rng.standard_normal((2, 3))
    curve = sum((a[k] * np.cos((k + 1) * angle) + b[k] * np.sin((k + 1) * angle)) / (k + 1) for k in range(3))
    edge = middle * np.exp(0.5 * model.spread * curve / np.sqrt(1 + 1 / 4 + 1 / 9))
    direction = rng.uniform(0.0, 2 * np.pi)
    if kind == "open":
        return np.where(np.cos(angle - direction) > 0.7, 8 * edge, edge)
    if kind == "elongated":
        ratio = rng.uniform(2.0, 4.0)
        along, across = np.cos(angle - direction), np.sin(angle - direction)
        return np.asarray(edge / np.sqrt(along**2 / ratio + across**2 * ratio))
    return np.asarray(edge)


def known(landscape: Landscape, nodes: tuple[Node, ...]) -> Counts:
    """Return the counts of some nodes of a landscape."""
    counts = landscape.counts()
    return {node: counts[node] for node in nodes}
