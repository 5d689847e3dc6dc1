"""Test that the numbers of many grids at once are those that `visage` and `basin` compute one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.analysis import basin, visage
from orchestrator.analysis.adaptive import numbers


def grids(seed: int, sizes: tuple[int, ...]) -> np.ndarray:
    """Return random grids: some are basins, some have steps of 2.5%, some are noise."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*(np.linspace(-0.5, 0.5, n) for n in sizes), indexing="ij"), axis=-1)
    distance = np.linalg.norm(places, axis=-1)
    slope, noise = rng.uniform(100, 800, size=(2, 20, *[1] * len(sizes)))
    asr = slope * (distance - rng.uniform(0, 0.5)) + 0.1 * noise * rng.standard_normal((20, *sizes)) + 50
    return np.round(np.clip(asr, 0, 100) / 2.5) * 2.5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 25))
def test_the_released_score_of_lines(seed: int, n: int) -> None:
    drawn = grids(seed, (n,))
    assert numbers.released(drawn) == pytest.approx([visage.released(line) for line in drawn.tolist()])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9).map(lambda k: 2 * k + 1), st.booleans())
def test_the_radius_of_lines_and_planes(seed: int, n: int, is_plane: bool) -> None:
    axes = [np.linspace(-0.5, 0.5, n), np.linspace(-0.25, 0.25, 5)][: 1 + is_plane]
    drawn = grids(seed, tuple(map(len, axes)))
    steps = [float(axis[1] - axis[0]) for axis in axes]
    coordinates = [axis.ravel().tolist() for axis in np.meshgrid(*axes, indexing="ij")]
    measure = basin.measure_plane if is_plane else basin.measure_line
    expected = [measure(*coordinates, grid.ravel().tolist()).radius for grid in drawn]
    found = numbers.radii(drawn, [len(axis) // 2 for axis in axes], steps)
    assert found == pytest.approx([math.nan if r is None else r for r in expected], nan_ok=True)


def test_the_area_counts_nodes_of_the_region_around_the_center_only() -> None:
    grid = np.full((1, 5, 5), 100.0)
    grid[0, 2, 1:4] = 10.0
    grid[0, 0, 0] = grid[0, 3, 4] = 10.0  # apart, and touching by a corner only
    assert numbers.areas(grid, (2, 2)) == pytest.approx(100.0 * 3 / 25)
    assert numbers.areas(grid, (0, 4)) == pytest.approx(0.0)
