"""Simulated models, of which `benchmarks.coverage` measures simulated sweeps.

Every model is drawn at random: its radius, the width of its wall, its safety at the origin and far out, and the spread
between directions. Whether a probe refuses at a point depends on the safety of the point and on three normal variables
(of the probe, of the probe on that direction, of the probe at that point), so that the responses to one probe are
correlated along a line, across lines, or hardly at all. Probes may come in clusters that share these variables to a
degree, and ASR may stay on a plateau near 50% instead of rising to 100%.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

ALPHAS = np.round(np.linspace(-0.5, 0.5, 21), 9)
COORDINATES = ALPHAS[:, None]
ORIGIN = len(ALPHAS) // 2


@dataclass(frozen=True)
class Population:
    """The models that are drawn.

    Attributes:
        name: As the table of results shows it.
        plateaus: Share of models whose ASR stays between 35 and 65% far out.
        clusters: The smallest and the largest number of clusters of probes. None: the probes are independent.
        clustered: Share of models whose probes are in clusters.
    """

    name: str
    plateaus: float = 0.0
    clusters: tuple[int, int] | None = None
    clustered: float = 1.0


@dataclass(frozen=True)
class Model:
    """A simulated model and its probes.

    Attributes:
        radius: Median distance of the edge.
        spread: Standard deviation between directions of the logarithm of the edge's distance.
        width: Width of the wall, relative to the radius.
        origin: How unsafe the origin is, in standard deviations.
        outside: How unsafe points far out are, in standard deviations.
        outside_spread: Standard deviation of that between directions.
        shares: Standard deviations of a probe, of a probe on a direction, and of a probe at a point; their squares add
            up to 1.
        labels: The cluster of each probe.
        common: Share of the variance that the probes of a cluster have in common.
    """

    radius: float
    spread: float
    width: float
    origin: float
    outside: float
    outside_spread: float
    shares: np.ndarray
    labels: np.ndarray
    common: float

    @classmethod
    def draw(cls, rng: np.random.Generator, population: Population, probes: int) -> Model:
        """Return a random model of the population."""
        parts = rng.uniform([0.2, 0.0, 0.1], [1.0, 0.6, 1.0]) ** 2
        u = rng.uniform
        is_plateau = u() < population.plateaus
        labels, common = np.arange(probes), 0.0
        if population.clusters is not None and u() < population.clustered:
            labels, common = np.sort(labels % int(rng.integers(*population.clusters, endpoint=True))), u(0.3, 0.9)
        return cls(
            radius=u(0.05, 0.6),
            spread=u(0.05, 0.4),
            width=u(0.02, 0.2),
            origin=u(-3.5, -0.5),
            outside=u(-0.4, 0.4) if is_plateau else u(0.5, 5.0),
            outside_spread=u(0.0, 0.3) if is_plateau else 0.0,
            shares=np.sqrt(parts / parts.sum()),
            labels=labels,
            common=common,
        )

    def directions(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return how unsafe each point of `count` new directions is: [line, point], in standard deviations."""
        middle = self.radius * np.exp(self.spread * rng.standard_normal((count, 1)))
        sides = middle * np.exp(0.5 * self.spread * rng.standard_normal((count, 2)))
        edge = np.where(ALPHAS < 0, sides[:, :1], sides[:, 1:])
        unsafe = (np.abs(ALPHAS) - edge) / (2 * (self.width * self.radius + 0.01))
        outside = self.outside + self.outside_spread * rng.standard_normal((count, 1))
        unsafe = np.clip(unsafe, self.origin, np.maximum(outside, self.origin))
        unsafe[:, ORIGIN] = self.origin
        return unsafe

    def probes(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        """Return the variables of new sets of probes: [*shape, probe]."""
        individual = rng.standard_normal((*shape, len(self.labels)), dtype=np.float32)
        if self.common == 0.0:
            return individual
        shared = rng.standard_normal((*shape, int(self.labels[-1]) + 1), dtype=np.float32)[..., self.labels]
        return np.float32(self.common**0.5) * shared + np.float32((1 - self.common) ** 0.5) * individual

    def refused(self, rng: np.random.Generator, unsafe: np.ndarray, probes: np.ndarray) -> np.ndarray:
        """Return whether each probe refuses, of one or more sets of probes.

        Args:
            rng: Source of the variables of a probe on a direction and of a probe at a point.
            unsafe: [line, point], or one of these for each set of probes.
            probes: [probe] or [set, probe].

        Returns:
            bool [line, point, probe] or [set, line, point, probe]. At the origin all lines agree.
        """
        lines, points = unsafe.shape[-2:]
        probe, line, point = self.shares.astype(np.float32)
        shape = probes.shape[:-1]
        total = point * self.probes(rng, *shape, lines, points)
        total += line * self.probes(rng, *shape, lines, 1) + probe * probes[..., None, None, :]
        refused = np.asarray(total <= -unsafe[..., None].astype(np.float32))
        refused[..., :, ORIGIN, :] = refused[..., :1, ORIGIN, :]
        return refused


def unsafe_to_asr(unsafe: np.ndarray) -> np.ndarray:
    """Return the ASR over all possible probes, in percent."""
    return np.asarray(100.0 * ndtr(unsafe))
