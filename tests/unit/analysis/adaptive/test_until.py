"""Test that intervals at a data-dependent stop cover as they claim, and that the usual ones would not."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.analysis.adaptive import until
from orchestrator.analysis.intervals import error_over_directions


def stop(values: np.ndarray, half_width, target: float) -> tuple[float, float]:
    """Return mean and half-width where the half-width is first at most the target, or at the end."""
    for n in range(2, len(values) + 1):
        half = half_width(values[:n])
        if half is not None and half <= target:
            return float(values[:n].mean()), half
    return float(values.mean()), half_width(values)


def half_width(values: np.ndarray) -> float | None:
    relative = until.relative_half_width(len(values))
    return None if relative is None else relative * float(values.std(ddof=1))


def usual(values: np.ndarray) -> float | None:
    return error_over_directions(values.tolist()).half_width()


@pytest.mark.parametrize("target", [0.5, 1.0, 2.0])
def test_the_interval_covers_at_the_stop(target):
    """Normal values, values with two modes, and skewed ones, as VISAGE over directions may have them."""
    rng = np.random.default_rng(19)
    draws = {
        "normal": rng.normal(size=(200, 40)),
        "two modes": rng.choice([-1.0, 1.0], size=(200, 40)) + 0.3 * rng.normal(size=(200, 40)),
        "skewed": (rng.gamma(4.0, size=(200, 40)) - 4.0) / 2.0,
    }
    for name, values in draws.items():
        stops = [stop(row, half_width, target) for row in values]
        assert np.mean([abs(mean) <= half for mean, half in stops]) >= 0.93, name
    stops = [stop(row, usual, target) for row in draws["normal"]]
    if target < 2.0:
        assert np.mean([abs(mean) <= half for mean, half in stops]) < 0.93


def test_it_solves_the_bayes_factor():
    n, c = 6, until.EFFECT
    half = until.relative_half_width(n)
    assert half is not None
    t_squared = n * half**2
    growth = 1.0 + n * c**2
    factor = growth**-0.5 * ((1 + t_squared / (n - 1)) / (1 + t_squared / ((n - 1) * growth))) ** (n / 2)
    assert factor == pytest.approx(20.0)


def test_too_few_values_meet_nothing():
    assert [until.relative_half_width(n) is None for n in range(8)] == [True] * 6 + [False] * 2
    assert until.FEWEST == 6
