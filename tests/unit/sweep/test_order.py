"""The points of a sweep and the order in which it visits them."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sweep.grid import Grid, Sweep, spaced
from orchestrator.sweep.points import ORIGIN
from orchestrator.utils.choices import Norm

grids = st.builds(
    Grid,
    kind=st.sampled_from(["random_1d", "random_2d"]),
    steps=st.integers(1, 12),
    range=st.sampled_from([(-0.5, 0.5), (0.1, 0.4), (-1.0, 0.25)]),
    directions=st.integers(1, 3),
    seed=st.integers(0, 10**6),
    norm=st.sampled_from(Norm),
    orthogonal=st.booleans(),
)


def test_lines_include_both_ends_and_have_consecutive_seeds() -> None:
    grid = Grid(steps=20, directions=3, seed=123)
    assert len(grid.nodes) == 63
    for k in range(3):
        line = [n for n in grid.nodes if n.line == k]
        assert [n.alpha for n in line] == [round(-0.5 + i / 20, 9) for i in range(21)]
        assert {n.seed_x for n in line} == {123 + k} and {n.seed_y for n in line} == {None}
        assert all(n.beta is None and n.on_grid for n in line)
    assert len(grid.points()) == 61  # the three lines share one origin


def test_each_plane_has_two_seeds_and_orthogonal_axes() -> None:
    grid = Grid(kind="random_2d", steps=4, directions=2, seed=10)
    for k in range(2):
        plane = [n for n in grid.nodes if n.line == k]
        assert len(plane) == 25
        assert {(n.seed_x, n.seed_y) for n in plane} == {(10 + 2 * k, 11 + 2 * k)}
        x, y = grid.axes(k)
        assert y is not None and y.orthogonal_to == x.seed
    assert len(grid.points()) == 49
    free = Grid(kind="random_2d", orthogonal=False).axes(0)[1]
    assert free is not None and free.orthogonal_to is None


def test_the_second_axis_of_a_plane_can_have_its_own_range() -> None:
    grid = Grid(kind="random_2d", steps=2, directions=1, range=(-1, 1), range_y=(0, 0.5))
    assert sorted({n.beta for n in grid.nodes if n.beta is not None}) == [0.0, 0.25, 0.5]


def test_an_origin_off_the_grid_is_measured_and_marked() -> None:
    grid = Grid(steps=3, directions=2)
    off = [n for n in grid.nodes if not n.on_grid]
    assert [(n.line, n.alpha, n.point) for n in off] == [(0, 0.0, ORIGIN), (1, 0.0, ORIGIN)]


@given(grids)
def test_every_node_is_visited_once_and_the_origin_first(grid: Grid) -> None:
    points = grid.points()
    assert points[0] == ORIGIN
    assert len(points) == len(set(points)) == len({p.id for p in points})
    assert set(points) == {node.point for node in grid.nodes}


@given(grids)
def test_a_sweep_is_restored_from_json(grid: Grid) -> None:
    sweep = Sweep(grid, ("a", "b"), ("keyword",), "mine")
    restored = Sweep.from_json(json.loads(json.dumps(sweep.to_json())), "other")
    assert restored.to_json() == sweep.to_json() and restored.id == sweep.id
    assert [t.key for t in restored.tasks()] == [t.key for t in sweep.tasks()]


@pytest.mark.parametrize("steps", [2, 4, 8, 10, 16, 20, 40])
def test_every_prefix_is_evenly_spread(steps: int) -> None:
    """An interrupted sweep is a usable landscape.

    The widest gap of a prefix of n points is at most 4 times the smallest gap possible with n points. Both ends are
    included from the fourth point on.
    """
    grid = Grid(steps=steps, directions=1)
    order = [point.coefficients[0][1] if point.coefficients else 0.0 for point in grid.points()]
    for n in range(3, len(order) + 1):
        visited = sorted(order[:n])
        assert (visited[0], visited[-1]) == (-0.5, 0.5)
        widest = max(b - a for a, b in itertools.pairwise(visited))
        assert widest <= 4 / (n - 1) + 1e-9


def test_all_lines_grow_together() -> None:
    grid = Grid(steps=16, directions=3)
    line_of = {n.point: n.line for n in grid.nodes}
    order = [line_of[p] for p in grid.points()[1:]]
    for n in range(0, len(order), 3):
        counts = [order[:n].count(k) for k in range(3)]
        assert max(counts) - min(counts) <= 8


def test_a_finer_grid_contains_the_points_of_the_coarser_one() -> None:
    coarse, fine = Grid(steps=20), Grid(steps=40)
    assert set(coarse.points()) < set(fine.points())


def test_tasks_are_points_times_prompt_sets() -> None:
    sweep = Sweep(Grid(steps=4, directions=1), ("a", "b"))
    tasks = sweep.tasks()
    assert len(tasks) == 10 == len({t.key for t in tasks})
    assert [t.prompt_set_id for t in tasks] == ["a", "b"] * 5


def test_a_name_is_not_part_of_the_identity() -> None:
    assert Sweep(Grid(), ("a",), name="x").id == Sweep(Grid(), ("a",), name="y").id
    assert Sweep(Grid(), ("a",)).id != Sweep(Grid(), ("b",)).id
    assert Sweep(Grid(), ("a",)).id != Sweep(Grid(seed=124), ("a",)).id
    assert Sweep(Grid(), ("a",)).id != Sweep(Grid(), ("a",), ("other",)).id


def test_values_are_rounded_and_zero_has_no_sign() -> None:
    values = spaced((-0.3, 0.3), 6)
    assert values == (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)
    assert str(values[3]) == "0.0"
