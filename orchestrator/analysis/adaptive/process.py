"""A Gaussian process of how unsafe a model is along a line or plane, given the counts at some nodes.

The process of `responses` is a constant mean, itself uncertain, plus two independent parts. The *profile* depends on
the distance from the center alone: if a basin is much the same in every direction, what was measured on one side tells
of the other. The *local* part is what differs from place to place. Covariances fall with the distance by Matérn
functions with smoothness 5/2, the local one by a product of these over the axes. All lengths are in units of an axis,
so that on a plane whose axes have different ranges nodes of the same distance lie on an ellipse. Given the counts, the
process is approximated by a normal distribution (Laplace's approximation; C. E. Rasmussen, C. K. I. Williams, "Gaussian
Processes for Machine Learning", 2006, algorithm 3.1, section 4.2.1 for the covariance). Kinds of processes differ in
their parts (there may be no profile), in the difficulties of the probes and in the noise. The likeliest are averaged
over, weighted by their evidence.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import linalg

from orchestrator.analysis.adaptive.geometry import Node, Shape
from orchestrator.analysis.adaptive.responses import DIFFICULTIES, Difficulties, Responses

LENGTHS = (0.05, 0.08, 0.13, 0.2, 0.32, 0.5, 0.8)
"""Lengths over which the local part changes that are tried, as shares of an axis."""
SCALES = (0.75, 1.5, 3.0)
"""Standard deviations of the local part that are tried, in standard deviations of a response."""
PROFILES, PROFILE_LENGTH = (0.0, 2.5), 0.2
"""Standard deviations of the profile that are tried, and the length over which it changes, as a share of an axis."""
MEAN, MEAN_SPREAD = 1.5, 1.5
"""Mean of the process, and standard deviation of that. Far out, most landscapes are at or near 100%."""
NOISES = (0.0, 0.25, 0.5)
"""Standard deviations of what all responses of a node share that are tried. Clusters of like probes have some."""
_FIRST = (0.2, 1.5, 2.5)  # length, scale and profile with which difficulties and noises are compared
_MOST_KINDS, _UNLIKELY = 12, -4.0  # kinds that are fitted; logarithm of the relative evidence below which none is
_OUTLIER_PENALTY = 1.0  # taken off the logarithm of the evidence: few nodes say little of an outlier
_DISTANCE_STEPS = 400  # of an axis, to which distances from the center are rounded: a plane has many different ones
_JITTER = 1e-6  # added to variances, so that matrices have square roots
_LEAST_CURVATURE = 1e-4
_MAX_STEPS, _ENOUGH = 40, 1e-3  # of Newton's method; gain of the logarithm below which it ends


@dataclass(frozen=True)
class Counted:
    """The counts of the nodes that have any.

    Attributes:
        nodes: Flat index of each node, ascending, [node].
        unsafe: Number of unsafe responses, [node].
        judged: Number of judged responses, at least 1, [node].
    """

    nodes: np.ndarray
    unsafe: np.ndarray
    judged: np.ndarray

    @property
    def probes(self) -> int:
        """The usual number of judged responses; 1 if no node has any."""
        return int(np.median(self.judged)) if len(self.judged) else 1

    def log_likelihood(self, x: np.ndarray, difficulties: Difficulties) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return `Responses.log_likelihood` of each node."""
        found = np.empty((3, len(x)))
        for n in np.unique(self.judged):
            of_n = self.judged == n
            found[:, of_n] = Responses.of(int(n), difficulties).log_likelihood(x[of_n], self.unsafe[of_n])
        values, slope, curvature = found
        return values, slope, curvature


@dataclass(frozen=True)
class Kind:
    """The properties of a process and its responses.

    Attributes:
        length: Over which the local part changes, as a share of an axis.
        scale: Standard deviation of the local part.
        profile: Standard deviation of the part that depends on the distance from the center alone.
        difficulties: Of the probes; see `responses`.
        noise: Standard deviation of what all responses of a node share.
    """

    length: float
    scale: float
    profile: float
    difficulties: Difficulties
    noise: float


@dataclass(frozen=True)
class Fit:
    """Laplace's approximation for one kind of process.

    Attributes:
        kind: The kind.
        weights: Such that mean + covariance(all, counted) @ weights is the mode, [node].
        mode: The mode at the counted nodes, [node].
        roots: Square root of the likelihood's curvature at the mode, [node].
        triangle: Cholesky factor of 1 + roots covariance roots, [node, node].
        evidence: Logarithm of the marginal likelihood.
    """

    kind: Kind
    weights: np.ndarray
    mode: np.ndarray
    roots: np.ndarray
    triangle: np.ndarray
    evidence: float


@dataclass(frozen=True)
class Draws:
    """Draws of the process at every node.

    Attributes:
        unsafe: How unsafe the model may be at each node, [draw, node].
        difficulties: Those of the probes in each draw, as an index of `DIFFICULTIES`, [draw].
    """

    unsafe: np.ndarray
    difficulties: np.ndarray


class Process:
    """The process on one line or plane."""

    def __init__(self, shape: Shape, counted: Counted) -> None:
        """Fit the process to the counts.

        Difficulties and noises are compared at a first length, scale and profile; lengths, scales and profiles at the
        best of these. Combinations that are likely by both are fitted, with the likeliest outlier for each spread and
        noise: kinds that differ in the outlier alone are so alike that they would crowd out others.

        Args:
            shape: The line or plane.
            counted: The counts.
        """
        self._sizes, self._counted = shape.sizes, counted
        self._profile = _Profile.of(shape.sizes, shape.center)
        start = self._fit(Kind(*_FIRST, DIFFICULTIES[0], NOISES[0])).mode
        tried = {
            pair: self._fit(Kind(*_FIRST, *pair), start).evidence - (_OUTLIER_PENALTY if pair[0].outlier else 0.0)
            for pair in itertools.product(DIFFICULTIES, NOISES)
        }
        # Of pairs with the same spread and noise, the last and likeliest one stays.
        likeliest = {(pair[0].spread, pair[1]): pair for pair in sorted(tried, key=lambda pair: tried[pair])}
        of_responses = {pair: tried[pair] for pair in likeliest.values()}
        best = max(of_responses, key=lambda pair: of_responses[pair])
        changes = {
            each: self._fit(Kind(*each, *best), start).evidence for each in itertools.product(LENGTHS, SCALES, PROFILES)
        }
        both = {
            Kind(*one, *other): changes[one] + of_responses[other] - of_responses[best]
            for one, other in itertools.product(changes, of_responses)
        }
        kinds = sorted(both, key=lambda kind: -both[kind])[:_MOST_KINDS]
        self._fits = [self._fit(kind, start) for kind in kinds if both[kind] > both[kinds[0]] + _UNLIKELY]

    def draw(self, pairs: int, rng: np.random.Generator) -> Draws:
        """Return how unsafe the model may be at every node.

        Draws come in pairs that lie opposite each other about the mode, which lowers the noise of their mean. Each
        pair is of one kind, and each kind has as many as its evidence says. Then draws are left out and others
        repeated, by how much likelier they are than the approximation says, because where all responses are alike the
        counts bound the process on one side only. Ratios above the median count as the median (E. L. Ionides,
        "Truncated importance sampling", 2008).
        """
        evidence = np.array([fit.evidence for fit in self._fits])
        weights = np.exp(evidence - evidence.max())
        ends = np.rint(np.cumsum(weights / weights.sum()) * pairs).astype(int)
        nodes, distances = math.prod(self._sizes), len(self._profile.root)
        normal = [rng.standard_normal((pairs, n)) for n in (nodes, distances, 1, len(self._counted.nodes), nodes)]
        drawn, difficulties, ratios = [], [], []
        for fit, begin, end in zip(self._fits, [0, *ends[:-1]], ends, strict=True):
            if begin < end:
                mode, deviation, at_known = self._conditioned(fit, *(part[begin:end] for part in normal))
                drawn += [mode + deviation, mode - deviation]
                difficulties += [DIFFICULTIES.index(fit.kind.difficulties)] * 2 * (end - begin)
                ratios += [self._log_ratio(fit, at_known), self._log_ratio(fit, -at_known)]
        kept = _resampled(np.concatenate(ratios))
        return Draws(np.concatenate(drawn)[kept], np.array(difficulties)[kept])

    def _log_ratio(self, fit: Fit, deviation: np.ndarray) -> np.ndarray:
        """Return the logarithm of the likelihood relative to the approximated one, [draw].

        Only of nodes whose responses are all alike: at the others the approximation is good.

        Args:
            fit: The approximation.
            deviation: Deviations from its mode at the counted nodes, [draw, node].
        """
        counted = self._counted
        alike = (counted.unsafe == 0) | (counted.unsafe == counted.judged)
        those = Counted(counted.nodes[alike], counted.unsafe[alike], counted.judged[alike])
        mode, from_mode = fit.mode[alike], deviation[:, alike]
        likelihood = np.array([those.log_likelihood(mode + each, fit.kind.difficulties)[0].sum() for each in from_mode])
        at_mode = those.log_likelihood(mode, fit.kind.difficulties)[0].sum()
        approximated = from_mode @ fit.weights[alike] - 0.5 * from_mode**2 @ fit.roots[alike] ** 2
        return np.asarray(likelihood - at_mode - approximated)

    def _conditioned(
        self,
        fit: Fit,
        of_nodes: np.ndarray,
        of_distances: np.ndarray,
        of_mean: np.ndarray,
        of_counts: np.ndarray,
        own: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the mode, [node], and random deviations from it, [draw, node], from standard normal variables.

        The third value is the deviation at the counted nodes, with what their responses share, [draw, counted node].

        Deviations of the process without counts are corrected by what the counted nodes would say of them (Matheron's
        rule; A. G. Journel, C. J. Huijbregts, "Mining Geostatistics", 1978).
        """
        kind, known = fit.kind, self._counted.nodes
        to_known = self._covariance(kind, np.arange(math.prod(self._sizes)), known)
        prior = MEAN_SPREAD * of_mean + kind.scale * self._correlated(kind.length, of_nodes) + kind.noise * own
        prior += kind.profile * (of_distances @ self._profile.root.T)[:, self._profile.distances]
        seen = (prior[:, known] + of_counts / fit.roots) * fit.roots
        solved = linalg.cho_solve((fit.triangle, True), seen.T, check_finite=False).T * fit.roots
        deviation = prior - solved @ to_known.T
        return MEAN + to_known @ fit.weights, deviation, deviation[:, known] - kind.noise**2 * solved

    def _fit(self, kind: Kind, start: np.ndarray | None = None) -> Fit:
        """Find the mode by Newton's method, with halved steps where a whole one goes too far.

        Args:
            kind: The kind of process.
            start: The mode of another kind at the counted nodes, from which the first step is whole. None: the mean.
        """
        covariance = self._covariance(kind, self._counted.nodes, self._counted.nodes)
        covariance[np.diag_indices_from(covariance)] += kind.noise**2 + _JITTER
        weights, x = np.zeros(len(covariance)), np.full(len(covariance), MEAN) if start is None else start
        values, slope, curvature = self._counted.log_likelihood(x, kind.difficulties)
        best = float(values.sum()) if start is None else -math.inf
        for _ in range(_MAX_STEPS):
            roots = np.sqrt(np.maximum(curvature, _LEAST_CURVATURE))
            inner = roots[:, None] * covariance * roots
            inner[np.diag_indices_from(inner)] += 1.0
            triangle = linalg.cholesky(inner, lower=True, check_finite=False)
            target = roots**2 * (x - MEAN) + slope
            solved = linalg.cho_solve((triangle, True), roots * (covariance @ target), check_finite=False)
            direction, size, before = target - roots * solved - weights, 1.0, best
            while True:
                tried = weights + size * direction
                x = covariance @ tried + MEAN
                values, slope, curvature = self._counted.log_likelihood(x, kind.difficulties)
                best = float(values.sum()) - 0.5 * float(tried @ (x - MEAN))
                if best >= before or size < _ENOUGH:
                    break
                size /= 2.0
            weights = tried
            if abs(best - before) < _ENOUGH:
                break
        return Fit(kind, weights, x, roots, triangle, best - float(np.log(np.diag(triangle)).sum()))

    def _covariance(self, kind: Kind, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the covariances between nodes, given by flat index, without noise, [row, column]."""
        covariance = np.full((len(rows), len(columns)), 1.0)
        places = zip(np.unravel_index(rows, self._sizes), np.unravel_index(columns, self._sizes), strict=True)
        for size, (row, column) in zip(self._sizes, places, strict=True):
            covariance *= _correlation(size, kind.length)[row[:, None], column]
        covariance *= kind.scale**2
        if kind.profile:
            distances = self._profile.distances
            covariance += kind.profile**2 * self._profile.correlation[distances[rows][:, None], distances[columns]]
        return covariance + MEAN_SPREAD**2

    def _correlated(self, length: float, normal: np.ndarray) -> np.ndarray:
        """Return draws of the local part with variance 1, from standard normal variables, [draw, node]."""
        fields = normal.reshape(len(normal), *self._sizes)
        for axis, size in enumerate(self._sizes, start=1):
            fields = np.moveaxis(np.tensordot(fields, _root(size, length), axes=(axis, 1)), -1, axis)
        return fields.reshape(len(normal), -1)


def _resampled(ratios: np.ndarray) -> np.ndarray:
    """Return the indices of as many draws, each about as often as its ratio says, from logarithms of the ratios."""
    weights = np.cumsum(np.exp(np.minimum(ratios, np.median(ratios)) - np.median(ratios)))
    return np.searchsorted(weights, weights[-1] * (np.arange(len(ratios)) + 0.5) / len(ratios))


@functools.lru_cache(maxsize=256)
def _correlation(size: int, length: float) -> np.ndarray:
    """Return the correlations between the nodes of an axis, [node, node]."""
    return _matern(np.arange(size) / max(size - 1, 1), length)


def _matern(places: np.ndarray, length: float) -> np.ndarray:
    """Return the Matérn function with smoothness 5/2 between places in units of an axis, [place] to [place, place]."""
    distance = math.sqrt(5.0) * np.abs(places[:, None] - places) / length
    return np.asarray((1.0 + distance + distance**2 / 3.0) * np.exp(-distance))


@functools.lru_cache(maxsize=256)
def _root(size: int, length: float) -> np.ndarray:
    """Return the Cholesky factor of `_correlation`."""
    return _factor(_correlation(size, length))


def _factor(correlation: np.ndarray) -> np.ndarray:
    """Return the Cholesky factor, with which independent normal variables become correlated."""
    return np.asarray(linalg.cholesky(correlation + _JITTER * np.eye(len(correlation)), lower=True))


class _Profile(NamedTuple):
    """The distances of nodes from the center, and the correlations that these give them.

    Attributes:
        distances: Which distance each node has, as an index, [node].
        correlation: Between distances, [distance, distance].
        root: Its Cholesky factor.
    """

    distances: np.ndarray
    correlation: np.ndarray
    root: np.ndarray

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(cls, sizes: tuple[int, ...], center: Node) -> _Profile:
        """Return the distances of the nodes of a line or plane from its center, and the correlations between them."""
        axes = [(np.arange(n) - c) / max(n - 1, 1) for n, c in zip(sizes, center, strict=True)]
        squares = sum(np.square(axis) for axis in np.meshgrid(*axes, indexing="ij"))
        rounded, distances = np.unique(np.rint(_DISTANCE_STEPS * np.sqrt(np.ravel(squares))), return_inverse=True)
        correlation = _matern(rounded / _DISTANCE_STEPS, PROFILE_LENGTH)
        return cls(distances, correlation, _factor(correlation))
