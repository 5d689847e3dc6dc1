"""Test the model of responses and the Gaussian process against exact computations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import ndtr, ndtri

from orchestrator.analysis.adaptive.geometry import Shape
from orchestrator.analysis.adaptive.process import MEAN, MEAN_SPREAD, PROFILE_LENGTH, Counted, Kind, Process
from orchestrator.analysis.adaptive.responses import DIFFICULTIES, Difficulties, Responses


def test_the_distribution_of_unsafe_responses_is_that_of_all_their_combinations() -> None:
    spread, outlier, x = 1.0, 2.0, 0.3
    unsafe = ndtr(x - spread * ndtri((np.arange(4) + 0.5) / 4) - np.array([0.0, 0.0, 0.0, outlier]))
    expected = np.zeros(5)
    for answers in itertools.product((0, 1), repeat=4):
        expected[sum(answers)] += np.prod([p if a else 1 - p for p, a in zip(unsafe, answers, strict=True)])
    responses = Responses.of(4, Difficulties(spread, outlier))
    log, _, _ = responses.log_likelihood(np.full(5, x), np.arange(5))
    assert np.exp(log) == pytest.approx(expected, rel=1e-6)
    assert responses.probability[responses.levels(np.array([x]))[0]] == pytest.approx(expected, rel=1e-6)


def test_the_derivatives_are_those_of_the_logarithm() -> None:
    responses, unsafe, h = Responses.of(40, Difficulties(0.6)), np.array([0, 7, 33, 40]), 1e-4
    x = np.array([-1.03, 0.21, 1.17, 2.48])
    low, at, high = (responses.log_likelihood(x + d, unsafe) for d in (-h, 0.0, h))
    assert at[1] == pytest.approx((high[0] - low[0]) / (2 * h), abs=1e-5)
    assert at[2] == pytest.approx(-(high[1] - low[1]) / (2 * h), abs=1e-3)


def test_drawn_numbers_have_the_distribution() -> None:
    responses = Responses.of(10, Difficulties(1.0))
    drawn = responses.draw(np.full((400, 50), 0.5), np.random.default_rng(0))
    expected = responses.probability[responses.levels(np.array([0.5]))[0]]
    assert stats.chisquare(np.bincount(drawn.ravel(), minlength=11), 20000 * expected).pvalue > 1e-3


@pytest.mark.parametrize("profile", [0.0, 2.5])
def test_one_node_has_the_exact_posterior(profile: float) -> None:
    """With a single node the process is one normal variable, whose posterior is an integral over a line."""
    kind = Kind(0.2, 0.75, profile, Difficulties(1.0), 0.25)
    process = Process(Shape((1,)), Counted(np.array([0]), np.array([1]), np.array([2])))
    rng = np.random.default_rng(0)
    mode, deviation, _ = process._conditioned(process._fit(kind), *(rng.standard_normal((20000, 1)) for _ in range(5)))
    drawn = (mode + deviation)[:, 0]
    prior = stats.norm(MEAN, float(np.sqrt(kind.scale**2 + kind.profile**2 + MEAN_SPREAD**2 + kind.noise**2)))

    def weight(x: float) -> float:
        log, _, _ = Responses.of(2, kind.difficulties).log_likelihood(np.array([x]), np.array([1]))
        return float(np.exp(log[0]) * prior.pdf(x))

    total = integrate.quad(weight, -4, 6)[0]
    mean = integrate.quad(lambda x: x * weight(x), -4, 6)[0] / total
    variance = integrate.quad(lambda x: (x - mean) ** 2 * weight(x), -4, 6)[0] / total
    assert drawn.mean() == pytest.approx(mean, abs=0.1)
    assert drawn.std() == pytest.approx(np.sqrt(variance), rel=0.06)


def test_draws_agree_with_certain_counts_and_spread_where_there_are_none() -> None:
    nodes = np.array([0, 1, 2, 3, 17, 18, 19, 20])
    unsafe = np.array([20, 18, 21, 19, 60, 62, 58, 61])
    process = Process(Shape((21,)), Counted(nodes, unsafe, np.full(8, 80)))
    drawn = process.draw(200, np.random.default_rng(0)).unsafe
    deviation = drawn.std(axis=0)
    assert deviation[nodes].max() < 0.5 * deviation[10]
    assert drawn[:, :4].mean() < drawn[:, 10].mean() < drawn[:, -4:].mean()


def matern(places: np.ndarray, length: float) -> np.ndarray:
    d = np.sqrt(5.0) * np.abs(places[:, None] - places) / length
    return (1 + d + d**2 / 3) * np.exp(-d)


def test_draws_vary_together_as_the_covariance_says() -> None:
    """A plane with sides of different sizes and its center off the middle, of which nothing is known."""
    shape, kind = Shape((3, 5), (1, 1)), Kind(0.3, 1.5, 2.5, Difficulties(1.0), 0.0)
    process = Process(shape, Counted(np.array([], dtype=int), np.array([], dtype=int), np.array([], dtype=int)))
    rng = np.random.default_rng(0)
    distances = len(process._profile.root)
    _, drawn, _ = process._conditioned(
        process._fit(kind), *(rng.standard_normal((40000, n)) for n in (15, distances, 1, 0, 15))
    )
    places = np.array([((i - 1) / 2, (j - 1) / 4) for i, j in shape.nodes()])
    x, y = places.T
    local = 1.5**2 * matern(x, 0.3) * matern(y, 0.3)
    expected = local + 2.5**2 * matern(np.hypot(x, y), PROFILE_LENGTH) + MEAN_SPREAD**2
    assert process._covariance(kind, np.arange(15), np.arange(15)) == pytest.approx(expected, abs=0.03)
    assert np.cov(drawn.T) == pytest.approx(expected, abs=0.04 * expected.max())


def test_a_basin_that_is_the_same_on_every_measured_side_is_expected_on_the_others() -> None:
    """Only the left half of a plane is measured, where the wall is at a quarter of an axis."""
    places = np.linspace(-0.5, 0.5, 21)
    distance = np.hypot(places[:, None], places)
    unsafe = np.where(distance < 0.25, 4, 39)
    left = np.flatnonzero(np.broadcast_to(places < 0.01, (21, 21)))
    process = Process(Shape((21, 21), (10, 10)), Counted(left, unsafe.ravel()[left], np.full(len(left), 40)))
    drawn = process.draw(100, np.random.default_rng(0)).unsafe.reshape(-1, 21, 21)
    right = places > 0.09
    inside, outside = (drawn[:, right[None] & of].mean(axis=1) for of in (distance < 0.2, distance > 0.3))
    assert (inside < outside - 3.0).mean() > 0.95
    assert all(fit.kind.profile > 0.0 for fit in process._fits[:3])


def test_counts_that_differ_from_side_to_side_are_not_taken_for_a_profile() -> None:
    nodes = np.array([0, 2, 4, 8, 12, 16, 18, 20])
    unsafe = np.array([39, 40, 38, 5, 3, 2, 1, 2])
    process = Process(Shape((21,), (10,)), Counted(nodes, unsafe, np.full(8, 40)))
    assert all(fit.kind.profile == 0.0 for fit in process._fits[:3])


def test_few_counts_seldom_make_an_outlier() -> None:
    usual = []
    for seed in range(20):
        unsafe = Responses.of(40, Difficulties(1.0)).draw(np.linspace(0.0, 3.0, 6)[None], np.random.default_rng(seed))
        process = Process(Shape((6,)), Counted(np.arange(6), unsafe[0], np.full(6, 40)))
        drawn = process.draw(50, np.random.default_rng(0))
        usual += [DIFFICULTIES[each].outlier == 0.0 for each in drawn.difficulties]
    assert np.mean(usual) > 0.6


def test_a_probe_that_is_always_refused_keeps_every_node_below_100() -> None:
    """Without the outlier, 14% of the nodes that were not measured would be expected at 100."""
    rng = np.random.default_rng(0)
    unsafe = rng.binomial(39, 0.99, size=60)
    measured = np.arange(0, 121, 2)[:60]
    process = Process(Shape((121,)), Counted(measured, unsafe, np.full(60, 40)))
    drawn = process.draw(100, rng)
    numbers = np.concatenate(
        [
            Responses.of(40, DIFFICULTIES[each]).draw(drawn.unsafe[drawn.difficulties == each], rng)
            for each in np.unique(drawn.difficulties)
        ]
    )
    assert (numbers == 40).mean() < 0.02
