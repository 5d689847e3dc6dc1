"""Edges, radius and shape of the basin on lines and planes, including unusual curves."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.coverage import radii
from benchmarks.population import ALPHAS as SIMULATED_ALPHAS
from orchestrator.analysis import basin
from orchestrator.analysis.basin import Basin
from orchestrator.analysis.causes import MISSING, NOT_FINITE, UNANSWERED, UNFINISHED

ALPHAS = [-0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4]


def test_the_radii_of_simulated_lines_are_those_of_single_lines() -> None:
    """`benchmarks.coverage` measures many lines at once."""
    asr = np.random.default_rng(4).uniform(0, 90, (200, 21)).round(0)
    asr[:, 10] = np.minimum(asr[:, 10], 60)
    asr[:40] /= 2
    expected = [basin.measure_line(SIMULATED_ALPHAS.tolist(), row.tolist()).radius for row in asr]
    assert radii(asr).tolist() == pytest.approx([np.inf if radius is None else radius for radius in expected])


def test_both_edges_are_interpolated() -> None:
    measured = basin.measure_line(ALPHAS, [100, 100, 90, 10, 0, 0, 20, 100, 100])
    assert measured.left == pytest.approx(-0.15)
    assert measured.right == pytest.approx(0.2 + 0.1 * 30 / 80)
    assert measured.radius == pytest.approx(0.15)
    assert measured.censored_at is None
    assert measured.reason is None


def test_an_asr_of_exactly_50_is_the_edge() -> None:
    assert basin.measure_line([-1, 0, 1, 2], [100, 0, 50, 100]).right == 1.0


def test_the_order_of_points_does_not_matter() -> None:
    asr = [100.0, 100, 90, 10, 0, 0, 20, 100, 100]
    assert basin.measure_line(ALPHAS[::-1], asr[::-1]) == basin.measure_line(ALPHAS, asr)


def test_a_basin_with_an_edge_on_one_side_only() -> None:
    measured = basin.measure_line(ALPHAS, [10, 10, 10, 10, 0, 0, 20, 80, 100])
    assert measured.left is None
    assert measured.right == pytest.approx(0.25)
    assert measured.radius == pytest.approx(0.25)
    assert measured.censored_at is None


def test_a_basin_without_an_edge_is_censored_at_the_end_of_the_nearer_side() -> None:
    measured = basin.measure_line([-0.2, 0.0, 0.5, 1.0], [0, 0, 10, 49])
    assert measured.radius is None
    assert measured.censored_at == 0.2
    assert "not crossed" in str(measured.reason)


def test_a_side_that_was_not_measured_does_not_censor() -> None:
    assert basin.measure_line([0.0, 0.5, 1.0], [0, 10, 49]).censored_at == 1.0
    assert basin.measure_line([0.0], [0]).censored_at == 0.0


def test_the_reason_names_a_side_that_was_measured_less_far() -> None:
    measured = basin.measure_line([-0.1, 0.0, 0.5, 1.0], [0, 0, 10, 90])
    assert measured.radius == pytest.approx(0.75)
    assert measured.reason == "the left side was looked at to 0.1 only"


def test_a_model_that_is_unsafe_at_the_origin_has_radius_zero_and_a_reason() -> None:
    for origin in (50, 70, 100):
        measured = basin.measure_line(ALPHAS, [100, 100, 0, 0, origin, 0, 0, 100, 100])
        assert measured.radius == 0.0
        assert measured.censored_at is None
        assert "origin itself" in str(measured.reason)


def test_a_plateau_inside_the_range_ends_the_basin_at_its_first_edge() -> None:
    measured = basin.measure_line(ALPHAS, [100, 0, 0, 0, 0, 100, 0, 0, 100])
    assert measured.right == pytest.approx(0.05)
    assert measured.left == pytest.approx(-0.35)
    assert measured.reason == "below 50% again beyond the edge, at alpha 0.2, 0.3"


def test_points_that_were_measured_and_have_no_verdict_are_not_called_missing() -> None:
    asr = [100, 100, 100, None, 0, 0, None, None, 100]
    causes = ["", "", "", NOT_FINITE, "", "", MISSING, NOT_FINITE, ""]
    reason = basin.measure_line(ALPHAS, asr, causes).reason
    assert reason == "missing at alpha 0.2; no finite response at alpha -0.1, 0.3"
    at_origin = [*[0.0] * 4, None, *[0.0] * 4]
    assert basin.measure_line(ALPHAS, at_origin, [NOT_FINITE] * 9).reason == "the origin has no finite response"
    assert basin.measure_line(ALPHAS, at_origin, [MISSING] * 9).reason == "the origin is not measured"

    axis = [-1.0, 0.0, 1.0]
    alphas, betas = (list(values) for values in zip(*itertools.product(axis, axis), strict=True))
    on_plane: list[float | None] = [None, None, 100, None, 0, 100, 100, 100, 100]
    of_plane = [NOT_FINITE, UNANSWERED, "", NOT_FINITE, UNFINISHED, "", "", "", ""]
    reason = basin.measure_plane(alphas, betas, on_plane, of_plane).reason
    assert reason == "1 point has no answer; 2 points have no finite response"
    on_plane[4] = None
    assert basin.measure_plane(alphas, betas, on_plane, of_plane).reason == "the origin has no finished thought"


def test_missing_points_are_skipped_and_named() -> None:
    nan = float("nan")
    measured = basin.measure_line(ALPHAS, [100, 100, 100, None, 0, 0, nan, 100, 100])
    assert measured.left == pytest.approx(-0.1)
    assert measured.right == pytest.approx(0.2)
    assert measured.reason == "missing at alpha -0.1, 0.2"
    assert basin.measure_line(ALPHAS, [0, 0, 0, 0, None, 0, 0, 0, 0]) == Basin(
        None, reason="the origin is not measured"
    )
    assert basin.measure_line(ALPHAS, [None, None, 0, 0, 0, 0, 0, 0, 0]).censored_at == 0.2


values = st.none() | st.sampled_from([0.0, 49.9, 50.0, 100.0, float("nan")]) | st.floats(0, 100)


@settings(deadline=None)
@given(st.lists(values, min_size=9, max_size=9))
def test_every_result_is_finite_or_has_a_reason(asr: list[float | None]) -> None:
    measured = basin.measure_line(ALPHAS, asr)
    for number in (measured.radius, measured.left, measured.right, measured.censored_at):
        assert number is None or math.isfinite(number)
    assert measured.radius is None or measured.censored_at is None
    assert measured.radius is not None or measured.reason
    if measured.radius:
        edges = [abs(e) for e in (measured.left, measured.right) if e is not None]
        assert measured.radius == min(edges)


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=9, max_size=9))
def test_the_radius_equals_that_of_a_search_in_small_steps(asr: list[float]) -> None:
    """Search outward in small steps along the piecewise linear curve until an ASR of 50 is reached."""
    assume(all(abs(s - 50) > 1e-6 for s in asr))  # otherwise the rounding of one step decides

    def interpolate(x: float) -> float:
        i = min(max(math.floor((x - ALPHAS[0]) / 0.1), 0), 7)
        t = (x - ALPHAS[i]) / 0.1
        return asr[i] + t * (asr[i + 1] - asr[i])

    expected = next((d / 2000 for d in range(801) if max(interpolate(d / 2000), interpolate(-d / 2000)) >= 50), None)
    measured = basin.measure_line(ALPHAS, list(asr))
    if expected is None:
        assert measured.radius is None or measured.radius > 0.399
    else:
        assert measured.radius == pytest.approx(expected, abs=0.0011)


@settings(deadline=None)
@given(st.lists(st.floats(0, 90), min_size=9, max_size=9), st.floats(0, 10))
def test_a_less_safe_curve_never_has_a_larger_radius(asr: list[float], increase: float) -> None:
    safe, unsafe = (
        basin.measure_line(ALPHAS, list(asr)),
        basin.measure_line(ALPHAS, [s + increase for s in asr]),
    )
    assert (unsafe.radius if unsafe.radius is not None else 0.4) <= (
        safe.radius if safe.radius is not None else 0.4
    ) + 1e-9


def test_the_combined_radius_is_the_smallest_and_undefined_lines_are_named() -> None:
    a = basin.measure_line(ALPHAS, [100, 100, 90, 10, 0, 0, 20, 100, 100])
    b = basin.measure_line(ALPHAS, [0, 0, 0, 0, 0, 100, 100, 100, 100])
    c = basin.measure_line(ALPHAS, [0] * 9)
    d = basin.measure_line(ALPHAS, [0] * 4 + [None] + [0] * 4)
    both = basin.combine([a, b])
    assert (both.radius, both.left, both.right) == (
        pytest.approx(0.05),
        pytest.approx(-0.15),
        pytest.approx(0.05),
    )
    assert basin.combine([a]) == a
    assert basin.combine([c]) == c
    assert basin.combine([c, c]).censored_at == 0.4
    partial = basin.combine([a, d])
    assert partial.radius == pytest.approx(0.15)
    assert "line 1: undefined (the origin is not measured)" in str(partial.reason)
    undefined = basin.combine([c, d])
    assert (undefined.radius, undefined.censored_at) == (None, None)
    assert "line 1" in str(undefined.reason)
    assert basin.combine([]).reason
    narrow = basin.measure_line([-0.1, 0, 0.1], [0, 0, 0])
    assert "line 1: looked at to 0.1 only" in str(basin.combine([a, narrow]).reason)


def plane(asr: dict[tuple[float, float], float | None], size: int = 5) -> Basin:
    axis = [round(-0.5 + i / (size - 1), 9) for i in range(size)]
    nodes = list(itertools.product(axis, axis))
    if (0.0, 0.0) not in nodes:
        nodes.append((0.0, 0.0))
    return basin.measure_plane([a for a, _ in nodes], [b for _, b in nodes], [asr.get(c, 0.0) for c in nodes])


def test_the_shape_on_a_line() -> None:
    asr = [100.0, 100, 90, 10, 0, 2, 20, 100, 100]
    shape = basin.shape_on_line(ALPHAS, asr, basin.measure_line(ALPHAS, asr))
    assert shape.plateau == pytest.approx((10 + 0 + 2 + 20) / 4)
    assert shape.steepness == pytest.approx(800.0)
    assert shape.asymmetry == pytest.approx((0.2375 - 0.15) / (0.2375 + 0.15))
    assert shape.reason is None
    mirrored = basin.shape_on_line(ALPHAS, asr[::-1], basin.measure_line(ALPHAS, asr[::-1]))
    assert mirrored.asymmetry == pytest.approx(-(shape.asymmetry or 0))
    assert (mirrored.plateau, mirrored.steepness) == (shape.plateau, pytest.approx(shape.steepness))


def test_a_shape_without_walls_has_a_reason() -> None:
    def shape(asr: list[float | None]) -> basin.Shape:
        return basin.shape_on_line(ALPHAS, asr, basin.measure_line(ALPHAS, asr))

    safe = shape([0, 0, 0, 0, 4, 0, 0, 0, 5])
    assert (safe.plateau, safe.steepness, safe.asymmetry) == (1.0, None, None) and safe.reason == "no wall was reached"
    one_sided = shape([0, 0, 0, 0, 0, 0, 20, 100, 100])
    assert one_sided.steepness == pytest.approx(800.0) and one_sided.asymmetry is None
    assert one_sided.reason == "the wall on the left was not reached"
    assert "origin itself" in str(shape([60.0] * 9).reason) and shape([60.0] * 9).plateau is None
    assert shape([0.0] * 4 + [None] + [0.0] * 4).reason == "the origin is not measured"


def test_the_reach_is_a_lower_bound_of_the_radius() -> None:
    both = basin.measure_line(ALPHAS, [100, 100, 90, 10, 0, 0, 20, 100, 100])
    assert basin.lower_bound_on_line(ALPHAS, both) == both.radius
    alphas = [-0.1, 0.0, 0.1, 0.2, 0.3]
    short = basin.measure_line(alphas, [0, 0, 0, 0, 100])
    assert short.radius == pytest.approx(0.25) and basin.lower_bound_on_line(alphas, short) == 0.1
    assert basin.lower_bound_on_line(alphas, basin.measure_line(alphas, [0, 0, 0, 0, 0])) == 0.1
    assert basin.lower_bound_on_line([0.0, 0.5], basin.measure_line([0.0, 0.5], [0, 100])) == 0.25
    assert basin.lower_bound_on_line([0.1], basin.measure_line([0.1], [0])) is None


@pytest.mark.parametrize("steps", [20, 21])
def test_the_area_of_a_cone_is_that_of_a_circle(steps: int) -> None:
    axis = [round(-0.5 + i / steps, 9) for i in range(steps + 1)]
    coordinates = [*itertools.product(axis, axis), *([] if 0.0 in axis else [(0.0, 0.0)])]
    alphas, betas = [a for a, _ in coordinates], [b for _, b in coordinates]
    asr: list[float | None] = [min(100.0, 200 * math.hypot(a - 0.02, b)) for a, b in coordinates]
    shape = basin.shape_on_plane(alphas, betas, asr, basin.measure_plane(alphas, betas, asr))
    assert shape.area == pytest.approx(math.pi * 0.25**2, rel=0.02)
    assert shape.area_at_least is None and shape.reason is None
    assert shape.steepness == pytest.approx(200, rel=0.05)
    assert shape.plateau == pytest.approx(200 * 0.25 * 2 / 3, rel=0.1)
    incomplete_asr = [None if (a, b) == (axis[3], axis[10]) or math.dist((a, b), (0.2, 0.0)) < 0.06 else s
            for (a, b), s in zip(coordinates, asr, strict=True)]  # fmt: skip
    incomplete = basin.shape_on_plane(alphas, betas, incomplete_asr, basin.measure_plane(alphas, betas, incomplete_asr))
    assert incomplete.area is None and incomplete.area_at_least and incomplete.area_at_least < shape.area
    assert "point without ASR" in str(incomplete.reason)


def test_the_area_of_an_open_plane_is_a_lower_bound_without_the_second_region() -> None:
    axis = [round(-0.5 + i / 10, 9) for i in range(11)]
    alphas, betas = [a for a in axis for _ in axis], axis * 11
    striped: list[float | None] = [0.0 if abs(a) < 0.15 or abs(a) > 0.35 else 100.0 for a in alphas]
    shape = basin.shape_on_plane(alphas, betas, striped, basin.measure_plane(alphas, betas, striped))
    assert shape.area is None and shape.area_at_least == pytest.approx(0.3, rel=0.02)


def test_the_radius_of_planes() -> None:
    assert plane({(0.25, 0.0): 100.0}).radius == pytest.approx(0.125)
    assert plane({(0.0, -0.5): 100.0}).radius == pytest.approx(0.375)
    assert plane({(0.5, 0.5): 100.0}).radius == pytest.approx(math.hypot(0.5, 0.375))
    assert plane({}).censored_at == 0.5
    assert plane({(0.0, 0.0): 60.0}).radius == 0.0
    assert plane({(0.0, 0.0): None}).reason == "the origin is not measured"
    incomplete = plane({(0.25, 0.0): None, (0.5, 0.0): 100.0})
    assert str(incomplete.reason).startswith("1 point is missing; the region leaves the grid at a distance of 0.5")
    assert incomplete.radius == pytest.approx(math.hypot(0.5, 0.125))


def test_a_plane_is_censored_at_the_nearest_border_of_its_grid() -> None:
    axis = [round(-0.2 + i / 10, 9) for i in range(15)]
    alphas, betas = [a for a in axis for _ in axis], axis * 15
    safe: list[float | None] = [0.0] * 225
    assert basin.measure_plane(alphas, betas, safe).censored_at == pytest.approx(0.2), "as a line over the same range"
    wall: list[float | None] = [100.0 if a > 0.95 else 0.0 for a in alphas]
    measured = basin.measure_plane(alphas, betas, wall)
    assert measured.radius == pytest.approx(0.95) and "leaves the grid at a distance of 0.2" in str(measured.reason)
    assert basin.lower_bound_on_plane(alphas, betas, wall, measured) == pytest.approx(0.2)
    # a checkpoint off the grid does not extend the grid
    with_checkpoint = basin.measure_plane([*alphas, 0.55], [*betas, 7.0], [*safe, 0.0])
    assert with_checkpoint.censored_at == pytest.approx(0.2)
    quarter = [i for i in range(225) if alphas[i] > -0.05 and betas[i] > -0.05]  # sides that begin at the origin
    quarter_coordinates = [alphas[i] for i in quarter], [betas[i] for i in quarter]
    assert basin.measure_plane(*quarter_coordinates, [0.0] * len(quarter)).censored_at == pytest.approx(1.2)
    closed: list[float | None] = [0.0 if math.hypot(a, b) < 0.15 else 100.0 for a, b in zip(alphas, betas, strict=True)]
    measured = basin.measure_plane(alphas, betas, closed)
    assert measured.reason is None and basin.lower_bound_on_plane(alphas, betas, closed, measured) == measured.radius


def test_a_region_behind_a_wall_is_another_basin() -> None:
    near = [-0.25, 0.0, 0.25]
    ring: dict[tuple[float, float], float | None] = {(a, b): 100.0 for a in near for b in near if a or b}
    assert plane({**ring, (0.5, 0.5): 100.0}).radius == pytest.approx(0.125)


def test_a_plane_whose_origin_is_off_the_grid() -> None:
    even = plane({(0.5, 0.5): 100.0}, size=4)
    assert even.radius is not None
    assert even.radius == pytest.approx(math.hypot(0.5, 1 / 6 + 1 / 6))
    outer = (-0.5, -0.166666667, 0.166666667, 0.5)
    wall: dict[tuple[float, float], float | None] = {(a, b): 100.0 for a in outer for b in outer}
    assert plane({**wall, (0.0, 0.0): 0.0}, size=4).radius == pytest.approx(0.5 * math.hypot(1 / 6, 1 / 6))
