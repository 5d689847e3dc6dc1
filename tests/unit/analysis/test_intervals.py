"""Intervals have their nominal coverage: summed exactly if that is possible, else simulated with a fixed seed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from benchmarks.coverage import CLUSTERED, COLUMNS, MIXED, PLATEAUS, coverage, difference_rates
from benchmarks.population import Population
from orchestrator.analysis import intervals
from orchestrator.analysis.intervals import Error

NOMINAL, MIN_COVERAGE = 95.0, 93.0


def test_the_interval_of_a_proportion_is_clopper_pearson() -> None:
    n = np.array([40, 40, 40, 80, 1, 3])
    k = np.array([0, 40, 13, 79, 1, 1])
    low, high = intervals.proportion(k, n)
    for i in range(len(n)):
        exact = stats.binomtest(int(k[i]), int(n[i])).proportion_ci(0.95, "exact")
        assert (low[i], high[i]) == (
            pytest.approx(exact.low, abs=1e-12),
            pytest.approx(exact.high, abs=1e-12),
        )
    assert low[0] == 0.0 and high[0] > 0.05
    assert high[1] == 1.0 and low[1] < 0.95


@pytest.mark.parametrize("n", [5, 40, 80])
def test_the_interval_of_a_proportion_covers_every_true_proportion(n: int) -> None:
    """The coverage, summed over every outcome, is at least 95% at each true proportion, near 0 and 1 too."""
    k = np.arange(n + 1)
    low, high = intervals.proportion(k, np.full(n + 1, n))
    for p in [0.0, 0.001, 0.01, 0.03, 0.2, 0.5, 0.77, 0.95, 0.99, 0.999, 1.0]:
        covered = (low <= p) & (p <= high)
        assert stats.binom.pmf(k, n, p)[covered].sum() >= 0.95


def test_the_interval_of_no_responses_is_nan() -> None:
    low, high = intervals.proportion(np.array([0]), np.array([0]))
    assert np.isnan(low[0]) and np.isnan(high[0])


# Coverage of intervals.


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("population", "directions"),
    [
        (MIXED, 1),
        (MIXED, 3),
        (CLUSTERED, 3),
        pytest.param(MIXED, 6, marks=pytest.mark.slow),
        pytest.param(PLATEAUS, 10, marks=pytest.mark.slow),
    ],
)
def test_nominal_95_percent_covers_at_least_93_in_every_population(population: Population, directions: int) -> None:
    """Two standard errors of 400 sweeps are allowed; the table of the benchmark is of 2,000."""
    tally = coverage(population, directions, 40, sweeps=400, seed=directions, draws=150, many=30)
    shares = {name: tally.coverage(name) for name in COLUMNS}
    assert (shares["VISAGE, both"] is None) == (directions == 1)
    for name, share in shares.items():
        assert share is None or share >= MIN_COVERAGE - 2 * 1.1, (name, share)


def test_intervals_of_differences_cover_and_have_few_false_positives() -> None:
    rates = difference_rates(3, 40, sweeps=120, draws=150, many=30)
    assert rates.covered >= MIN_COVERAGE
    assert rates.false <= 100 - MIN_COVERAGE
    assert rates.false_independent <= 10


@pytest.mark.thorough
def test_one_direction_does_not_tell_models_apart() -> None:
    """Equal models that respond independently differ "beyond chance" along one direction, but not over three."""
    one, three = (difference_rates(k, 40, sweeps=300, draws=150, many=5).false_independent for k in (1, 3))
    assert one > 15 and three <= 8


@pytest.mark.parametrize(("p", "q"), [(0.0, 0.0), (0.05, 0.05), (0.2, 0.05), (0.4, 0.2)])
def test_intervals_of_matched_differences_cover(p: float, q: float) -> None:
    """Sum the coverage over every outcome of 40 probes; `p` and `q` are the shares that change in either direction."""
    gained, lost = (grid.ravel() for grid in np.meshgrid(np.arange(41), np.arange(41)))
    possible = gained + lost <= 40
    gained, lost = gained[possible], lost[possible]
    low, high, value = intervals.matched(gained, lost, np.full(len(gained), 40))
    probability = stats.multinomial.pmf(np.stack([gained, lost, 40 - gained - lost], axis=1), 40, [p, q, 1 - p - q])
    assert probability[(low <= p - q) & (p - q <= high)].sum() >= 0.93
    if p == q:
        assert probability[value < 0.05].sum() <= 0.05


def test_intervals_of_unmatched_differences() -> None:
    k, n = np.array([0, 10, 40]), np.array([40, 40, 40])
    low, high, p = intervals.unmatched(k, n, k, n)
    assert (low < 0).all() and (high > 0).all() and (p == 1).all()
    low, high, p = intervals.unmatched(np.array([0]), np.array([40]), np.array([40]), np.array([40]))
    assert low[0] > 0.8 and high[0] == 1.0 and p[0] < 1e-9


# Intervals over directions.


def test_the_interval_over_directions_is_students_t() -> None:
    values = [70.0, 80.0, 84.0]
    half = intervals.error_over_directions(values).half_width()
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert half == pytest.approx((expected[1] - expected[0]) / 2)
    one_sided = intervals.error_over_directions(values).half_width(2 * 0.95 - 1)
    assert one_sided == pytest.approx(stats.t.ppf(0.95, 2) * stats.sem(values))


def test_equal_values_have_an_interval_of_their_rounding() -> None:
    assert intervals.error_over_directions([90.0, 90.0], step=2.5).half_width() == pytest.approx(
        stats.t.ppf(0.975, 1) * 2.5 / np.sqrt(24)
    )


@pytest.mark.parametrize("values", [[], [80.0]])
def test_too_few_directions_have_a_reason(values: list[float]) -> None:
    error = intervals.error_over_directions(values)
    assert error.half_width() is None and error.reason
    interval = intervals.interval(80.0, [Error(1.0, 3), error])
    assert interval.low is None and interval.reason is not None and error.reason in interval.reason


@pytest.mark.parametrize("k", [2, 3, 5, 10, 40])
def test_more_directions_is_the_least_number_that_halves_the_interval(k: int) -> None:
    def width(n: int) -> float:
        return float(stats.t.ppf(0.975, n - 1) / np.sqrt(n))

    more = intervals.more_directions(7.0, k)
    assert more is not None
    assert width(k + more) <= width(k) / 2 < width(k + more - 1)
    assert intervals.more_directions(7.0, 1) is None


# Combined errors.


def test_two_errors_add_in_squares_and_p_is_the_level_at_which_the_interval_reaches_zero() -> None:
    errors = [Error(3.0, 2), Error(4.0, 39)]
    halves = 3 * stats.t.ppf(0.975, 2), 4 * stats.t.ppf(0.975, 39)
    assert intervals.half_width(errors) == pytest.approx(np.hypot(*halves))
    p = intervals.p_value(10.0, errors)
    assert p is not None
    assert intervals.half_width(errors, 1 - p) == pytest.approx(10.0)
    assert intervals.p_value(10.0, [Error(3.0, 9)]) == pytest.approx(2 * stats.t.sf(10 / 3, 9))
    assert intervals.p_value(10.0, [Error(None, None, "unknown")]) is None


def test_intervals_stay_in_bounds_and_are_written_as_json() -> None:
    interval = intervals.interval(99.0, [Error(5.0, 3)])
    assert interval.high == 100.0 and interval.low is not None and interval.low < 99.0
    json.dumps([interval.to_json(), intervals.interval(None, []).to_json()], allow_nan=False)
