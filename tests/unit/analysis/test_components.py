"""Variance components against an analysis of variance by least squares, and against the true ones by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from orchestrator.analysis.components import Precision, Wanted, decompose, plan_precision
from orchestrator.analysis.results.precision import VarianceComponents

TRUE = {"direction": 36.0, "probe": 225.0, "interaction": 64.0, "residual": 400.0}


def residual_sum(y: np.ndarray, *factors: np.ndarray) -> float:
    """Return the residual sum of squares of a regression on indicators of these factors, by least squares."""
    columns = [np.ones(len(y))]
    for factor in factors:
        columns += [(factor == level).astype(float) for level in np.unique(factor)]
    design = np.stack(columns, axis=1)
    return float(np.square(y - design @ np.linalg.lstsq(design, y, rcond=None)[0]).sum())


def anova(responses: np.ndarray) -> dict[str, float]:
    """Return the components of balanced responses [line, point, probe] from sums of squares of nested regressions.

    Mean squares and their expectations are those of a textbook (two crossed random factors, points fixed within lines).
    """
    lines, points, probes = responses.shape
    line, point, probe = (index.ravel() for index in np.indices(responses.shape))
    y, cell, spot = responses.ravel(), line * probes + probe, line * points + point
    alone = residual_sum(y)
    of_line, of_both = residual_sum(y, line), residual_sum(y, line, probe)
    full, of_cells = residual_sum(y, cell, spot), residual_sum(y, cell)
    ms_line = (alone - of_line) / (lines - 1)
    ms_probe = (of_line - of_both) / (probes - 1)
    ms_mixed = (of_both - of_cells) / ((lines - 1) * (probes - 1))
    ms_rest = full / (lines * (points - 1) * (probes - 1))
    return {
        "direction": (ms_line - ms_mixed) / (points * probes),
        "probe": (ms_probe - ms_mixed) / (points * lines),
        "interaction": (ms_mixed - ms_rest) / points,
        "residual": ms_rest,
    }


def simulate(rng: np.random.Generator, lines: int, points: int, probes: int) -> np.ndarray:
    """Return responses [line, point, probe] with the components TRUE, and a fixed curve along each line."""
    shapes = {"direction": (lines, 1, 1), "probe": (1, 1, probes), "interaction": (lines, 1, probes)}
    curve = 10.0 * np.sin(np.arange(points))[:, None]
    total = 50.0 + curve + np.sqrt(TRUE["residual"]) * rng.standard_normal((lines, points, probes))
    return total + sum(np.sqrt(TRUE[name]) * rng.standard_normal(shape) for name, shape in shapes.items())


def test_the_components_are_those_of_an_analysis_of_variance() -> None:
    responses = np.abs(simulate(np.random.default_rng(1), 4, 5, 12))
    components = decompose(responses / 100)
    assert (components.lines, components.points, components.probes, components.reason) == (4, 5.0, 12, None)
    for name, value in anova(responses).items():
        assert value > 0, "choose another seed: this one tests a component that is cut at 0"
        assert getattr(components, name) == pytest.approx(value)


def test_the_components_are_unbiased() -> None:
    rng = np.random.default_rng(2)
    components = [decompose(simulate(rng, 8, 6, 40) / 100) for _ in range(300)]
    for name, true in TRUE.items():
        values = np.array([getattr(estimate, name) for estimate in components])
        assert values.mean() == pytest.approx(true, abs=4 * values.std() / np.sqrt(300)), name


def test_points_that_count_and_missing_verdicts() -> None:
    """Points where nothing is refused, padding, and probes without a verdict are left out."""
    refused = (simulate(np.random.default_rng(3), 3, 4, 20) > 50).astype(float)
    expected = decompose(refused)
    padded = np.concatenate([refused, np.zeros((3, 2, 20)), np.full((3, 1, 20), np.nan)], axis=1)
    incomplete = np.concatenate([padded, np.where(np.arange(7)[:, None] == 0, np.nan, padded[..., :1])], axis=2)
    assert decompose(padded) == expected
    everywhere = decompose(padded, everywhere=True)
    assert everywhere.points == 6.0 and everywhere.probe == pytest.approx(expected.probe * (4 / 6) ** 2, rel=0.2)
    assert decompose(incomplete) == expected


def test_one_direction_tells_nothing_about_others() -> None:
    components = decompose((simulate(np.random.default_rng(4), 1, 6, 30) > 50).astype(float))
    assert components.direction is None and components.interaction is None and components.probe is not None
    assert "one direction" in str(components.reason)
    plan = plan_precision(components, 5.0, 30, 21, Wanted(2.0))
    assert plan.directions is None and "one direction" in str(plan.reason)
    assert decompose(np.zeros((2, 5, 10))).reason == "too few probes or points"
    agreeing = decompose(np.ones((2, 5, 10)))
    plan = plan_precision(agreeing, 20.0, 10, 21, Wanted(2.0))
    assert plan.probes is None and "all probes agree" in str(plan.reason)


COMPONENTS = VarianceComponents(lines=3, probes=40, points=10.0, **TRUE)


def test_the_half_width_is_that_of_repeated_sweeps() -> None:
    """With many directions and probes (Student's t is near 2), 95% of simulated means are within the half-width."""
    rng = np.random.default_rng(5)
    means = np.array([simulate(rng, 30, 10, 60).mean() for _ in range(1500)])
    half = float(Precision(COMPONENTS).half_width(np.array(30.0), np.array(60.0)))
    inside = np.mean(np.abs(means - 50.0 - 10.0 * np.sin(np.arange(10)).mean()) <= half)
    assert 0.945 <= inside <= 0.99, "the part of a probe on a direction is counted twice, so it may be more than 95%"


def test_the_plan_is_the_cheapest_that_reaches_the_target() -> None:
    plan = plan_precision(COMPONENTS, None, 40, 21, Wanted(5.0))
    assert plan.directions is None and plan.reason
    half = float(Precision(COMPONENTS).over_probes(np.array(3.0), np.array(40.0)))
    plan = plan_precision(COMPONENTS, half, 40, 21, Wanted(5.0))
    assert (
        plan.seconds is None
        and plan_precision(COMPONENTS, half, 40, 21, Wanted(5.0, 0.5)).seconds == plan.responses / 2
    )
    assert plan.half_width <= 5.0 and plan.responses == plan.directions * plan.probes * 21
    precision = Precision(COMPONENTS)
    cheaper = [
        (k, n)
        for k, n in itertools.product(range(2, 120), range(2, 400))
        if k * n < plan.directions * plan.probes and precision.half_width(np.array(k), np.array(n)) <= 5.0
    ]
    assert not cheaper
    assert plan.present_half_width == pytest.approx(
        np.hypot(half, stats.t.ppf(0.975, 2) * np.sqrt((36 + 2 * (64 + 40) / 40 + 2.5**2 / 12) / 3))
    )


def test_clusters_and_jumps_ask_for_more_probes() -> None:
    half = float(Precision(COMPONENTS).over_probes(np.array(3.0), np.array(40.0)))
    plain, inflated = (plan_precision(COMPONENTS, half * factor, 40, 21, Wanted(3.0)) for factor in (1.0, 2.0))
    assert inflated.responses > 2 * plain.responses and inflated.half_width <= 3.0
    assert (
        plan_precision(COMPONENTS, half, 40, 21, Wanted(0.001)).reason == "more than 1000 directions or 100,000 probes"
    )
