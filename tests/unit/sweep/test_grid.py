"""Lines and planes: the positions and points of their nodes, and the fields that form their identity."""

from __future__ import annotations

import json

import numpy as np
import pytest

from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import ExtraCheckpoint, Grid, Node, Sweep
from orchestrator.sweep.points import ORIGIN, Point

A, B = TowardsDirection("aa", "first"), TowardsDirection("bb", "second")
C = TowardsDirection("cc", "c")
RANGE = (-0.5, 1.5)


def coefficients(point: Point) -> dict[str, float]:
    return {d.fingerprint if isinstance(d, TowardsDirection) else str(d.seed): c for d, c in point.coefficients}


def extra_marks(grid: Grid) -> list[Node]:
    return [node for node in grid.nodes if not node.on_grid]


def test_random_lines_share_one_origin() -> None:
    grid = Grid(steps=4, directions=2)
    assert [(n.line, n.alpha, n.beta, n.seed_x, n.seed_y) for n in grid.nodes] == [
        (k, alpha, None, 123 + k, None) for k in (0, 1) for alpha in (-0.5, -0.25, 0.0, 0.25, 0.5)
    ]
    assert len(grid.points()) == 9 and grid.points()[0] == ORIGIN
    assert extra_marks(Grid(steps=4, range=(0.1, 0.5)))[0].point == ORIGIN


def test_random_planes_have_orthogonal_axes_by_default() -> None:
    plane = Grid("random_2d", steps=2, directions=2)
    assert plane.axes(1) == (RandomDirection(125), RandomDirection(126, orthogonal_to=125))
    assert plane.directions_used == tuple(d for k in (0, 1) for d in plane.axes(k))
    assert Grid("random_2d", orthogonal=False).axes(0)[1] == RandomDirection(124)


def test_interpolation_reaches_each_checkpoint() -> None:
    grid = Grid("interpolate_1d", steps=4, range=RANGE, towards=(A, B))
    assert [(n.line, n.alpha, n.mark) for n in grid.nodes if n.mark] == [(0, 1.0, "first"), (1, 1.0, "second")]
    assert {n.point for n in grid.nodes if n.alpha == 1.0} == {
        Point.from_coefficients([(A, 1.0)]),
        Point.from_coefficients([(B, 1.0)]),
    }
    assert all(n.seed_x is None and n.seed_y is None and n.beta is None and n.on_grid for n in grid.nodes)
    assert grid.directions_used == ()
    short = Grid("interpolate_1d", steps=3, range=(0.1, 0.7), towards=(A,))
    assert [(n.alpha, n.mark, coefficients(n.point)) for n in extra_marks(short)] == [
        (0.0, "", {}),
        (1.0, "first", {"aa": 1.0}),
    ]
    assert [coefficients(p) for p in short.points()[:2]] == [{}, {"aa": 1.0}], "origin first, then the checkpoint"


def test_plane_coordinates_are_coefficients_of_the_two_checkpoints() -> None:
    grid = Grid("interpolate_2d", steps=2, range=(0.0, 1.0), range_y=(0.0, 0.5), towards=(A, B))
    assert [coefficients(n.point) for n in grid.nodes if n.on_grid] == [
        {k: v for k, v in (("aa", alpha), ("bb", beta)) if v} for beta in (0.0, 0.25, 0.5) for alpha in (0.0, 0.5, 1.0)
    ]
    assert [(n.alpha, n.beta, n.mark) for n in extra_marks(grid)] == [(0.0, 1.0, "second")]


def test_eq4_is_an_orthogonal_frame_through_both_checkpoints() -> None:
    """Compare with explicit vectors d1 and d2 in the plane, where d2' = s (d2 - c d1)."""
    d1, d2 = np.array([2.0, 0.0, 1.0]), np.array([1.0, 3.0, 0.0])
    c = d1 @ d2 / (d1 @ d1)
    s = np.linalg.norm(d1) / np.linalg.norm(d2 - c * d1)
    grid = Grid("interpolate_2d", steps=4, range=RANGE, towards=(A, B), eq4=(round(c, 9), round(s, 9)))
    second = s * (d2 - c * d1)
    assert abs(second @ d1) < 1e-12
    for node in grid.nodes:
        by_target = coefficients(node.point)
        assert node.beta is not None
        displacement = by_target.get("aa", 0.0) * d1 + by_target.get("bb", 0.0) * d2
        assert displacement == pytest.approx(node.alpha * d1 + node.beta * second, abs=1e-7)
    marked = {node.mark: node for node in grid.nodes if node.mark}
    assert coefficients(marked["first"].point) == {"aa": 1.0} and marked["first"].on_grid
    assert coefficients(marked["second"].point) == {"bb": 1.0} and not marked["second"].on_grid
    assert marked["second"].alpha == pytest.approx(c, abs=1e-9)


def test_one_axis_towards_a_checkpoint_one_random() -> None:
    grid = Grid(
        "interpolate_random", steps=2, range=(0.0, 1.0), range_y=(-0.2, 0.2), directions=2, norm="filter", towards=(A,)
    )
    assert grid.axes(1) == (A, RandomDirection(124, "filter"))
    assert {(n.line, n.seed_x, n.seed_y) for n in grid.nodes} == {(0, None, 123), (1, None, 124)}
    assert [(n.alpha, n.beta) for n in grid.nodes if n.mark] == [(1.0, 0.0), (1.0, 0.0)]
    assert grid.directions_used == (RandomDirection(123, "filter"), RandomDirection(124, "filter"))
    assert len(grid.points()) == 3 + 2 * 6  # the axis to the checkpoint is the same in both planes


@pytest.mark.parametrize(
    "grid",
    [
        Grid(),
        Grid("random_2d", range_y=(0.0, 1.0), orthogonal=False),
        Grid("interpolate_1d", towards=(A, B)),
        Grid("interpolate_2d", towards=(A, B), eq4=(0.25, 1.5)),
        Grid("interpolate_random", towards=(A,), norm="sigma", exclude=("norm", "embed")),
        Grid("interpolate_1d", towards=(A,), extra_checkpoints=(ExtraCheckpoint(B, 0.4),)),
        Grid(
            "interpolate_2d",
            towards=(A, B),
            extra_checkpoints=(ExtraCheckpoint(TowardsDirection("cc", "c"), 0.4, -0.1),),
            hidden=True,
        ),
    ],
    ids=lambda grid: grid.kind,
)
def test_a_grid_is_restored_from_json(grid: Grid) -> None:
    read = json.loads(json.dumps(grid.to_json()))
    restored = Grid.from_json(read, {"aa": "first", "bb": "second", "cc": "c"})
    assert restored == grid and restored.nodes == grid.nodes
    assert [n.mark for n in restored.nodes] == [n.mark for n in grid.nodes]
    assert Sweep(restored, ("p",)).id == Sweep(grid, ("p",)).id


def test_fields_without_effect_are_not_part_of_the_identity() -> None:
    def sweep_id(**fields: object) -> str:
        return Sweep(Grid("interpolate_1d", towards=(A,), **fields), ("p",)).id  # type: ignore[arg-type]

    assert sweep_id() == sweep_id(seed=5, directions=9, norm="sigma", orthogonal=False)
    assert sweep_id() != sweep_id(steps=5)
    relabeled = Grid("interpolate_1d", towards=(TowardsDirection("aa", "another name"),))
    assert Sweep(relabeled, ("p",)).id == sweep_id()


@pytest.mark.parametrize(
    ("kind", "towards"), [("interpolate_1d", ()), ("interpolate_2d", (A,)), ("interpolate_random", (A, B))]
)
def test_the_number_of_targets_must_match_the_grid_kind(kind: str, towards: tuple[TowardsDirection, ...]) -> None:
    with pytest.raises(AssertionError):
        Grid(kind, towards=towards)  # type: ignore[arg-type]


def test_extra_checkpoints_of_a_line_are_measured_and_shown_at_their_nearest_point() -> None:
    grid = Grid("interpolate_1d", steps=2, range=(0.0, 1.0), towards=(A,), extra_checkpoints=(ExtraCheckpoint(B, 0.4),))
    (node,) = (node for node in grid.nodes if node.projected)
    assert (node.line, node.alpha, node.beta, node.mark, node.on_grid) == (0, 0.4, None, "second", False)
    assert coefficients(node.point) == {"bb": 1.0}, "the checkpoint itself, not the place on the line"
    assert [coefficients(p) for p in grid.points()[:3]] == [{}, {"aa": 1.0}, {"bb": 1.0}], "before the rest of the line"
    plain = Grid("interpolate_1d", steps=2, range=(0.0, 1.0), towards=(A,))
    assert Sweep(grid, ("p",)).id != Sweep(plain, ("p",)).id
    assert "beside" not in plain.to_json() and "hidden" not in plain.to_json(), "older sweeps keep their ids"


def test_the_axes_of_a_principal_plane_are_not_checkpoints() -> None:
    grid = Grid("interpolate_2d", steps=2, range=(0.0, 1.0), towards=(A, B), hidden=True)
    assert not any(node.mark for node in grid.nodes) and all(node.on_grid for node in grid.nodes)
