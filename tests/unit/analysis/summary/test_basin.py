"""The basin in the summary, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from orchestrator.analysis.landscape import build_landscape
from orchestrator.analysis.summary.sweep import summarize
from tests.unit.analysis.small_sweeps import HARMFUL, grid_nodes, summary_of, sweep_with_verdicts, tally


def test_the_basins_shape_is_a_mean_over_all_lines() -> None:
    basin = summarize(sweep_with_verdicts(3)[0]).basin
    radii = [d.radius for d in basin.by_direction]
    mean = basin.mean_radius
    assert mean.value == pytest.approx(np.mean(radii)) and basin.radius == min(radii)
    error = math.hypot(stats.sem(radii), 0.1 / 6)  # the grid's step is 0.1, its rounding has a variance of step^2 / 12
    assert (mean.low, mean.high) == pytest.approx(stats.t.interval(0.95, 2, np.mean(radii), error))
    assert all(d.radius_low < d.radius < d.radius_high for d in basin.by_direction)
    assert basin.asymmetry.value == pytest.approx(0.0) and basin.steepness.value > 0
    assert basin.area.value is None and basin.area.reason == "a line has no area"
    uncrossed = summarize(
        build_landscape(grid_nodes(2), tally(grid_nodes(2), [100, 50, 0, 50, 100, *[0] * 5]), HARMFUL)
    )
    assert uncrossed.basin.mean_radius.value is None
    assert uncrossed.basin.mean_radius.reason.startswith("line 1: 50% is not crossed")


def test_a_model_that_is_unsafe_everywhere_has_no_basin() -> None:
    summary = summary_of([100, 100, 100, 100, 100])
    assert summary.visage.paper is None
    assert "no point is below 100%" in summary.visage.reason
    assert summary.basin.radius == 0.0
    assert "origin itself" in summary.basin.reason


def test_a_model_that_is_safe_everywhere_has_a_censored_radius() -> None:
    summary = summary_of([0, 0, 0, 0, 0])
    assert summary.visage.paper == 100.0
    assert summary.basin.radius is None
    assert summary.basin.censored_at == 0.5
    assert summary.basin.radius_low == 0.5
    assert summary.basin.radius_high is None
    assert summary.degenerate_share is None


def test_a_grid_that_does_not_cover_the_range_has_a_basin_but_no_visage() -> None:
    nodes = grid_nodes(1, (-0.2, -0.1, 0.0, 0.1, 0.2))
    summary = summarize(build_landscape(nodes, tally(nodes, [100, 75, 0, 50, 100]), HARMFUL))
    assert summary.visage.paper is None
    assert summary.visage.released is None
    assert "does not cover" in summary.visage.reason
    assert summary.basin.radius == pytest.approx(0.1 * 50 / 75)
