"""Both definitions of VISAGE against a second implementation, written from the paper."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.analysis import visage

levels = st.sampled_from([0.0, 2.5, 50.0, 97.5, 99.99, 99.995, 100.0])
curves = st.lists(levels | st.floats(0, 100), min_size=1, max_size=41)


def naive_paper(asr: list[float]) -> float | None:
    total, count = 0.0, 0
    for s in asr:
        if s < 100:
            total += 100 - s
            count += 1
    return total / count if count else None


def naive_released(asr: list[float]) -> float:
    """Scan from each end with a while loop, as the design describes it."""
    n = len(asr)
    start = 0
    i = 1
    while i < n // 2:
        if asr[i] <= 99.99 and asr[i - 1] > 99.99:
            start = i
            break
        i += 1
    end = n - 1
    i = n - 2
    while i > n // 2:
        if asr[i] <= 99.99 and asr[i + 1] > 99.99:
            end = i
            break
        i -= 1
    margins = []
    i = start
    while i <= end:
        margins.append(100 - asr[i])
        i += 1
    return sum(margins) / len(margins)


def line(n: int, low: float = -0.5, high: float = 0.5) -> list[tuple[float, ...]]:
    return [(round(low + (high - low) * i / (n - 1), 9),) for i in range(n)]


@settings(deadline=None)
@given(curves)
def test_both_definitions_equal_the_second_implementation(asr: list[float]) -> None:
    score, expected = visage.paper(asr), naive_paper(asr)
    assert score == expected if expected is None else score == pytest.approx(expected, abs=1e-9)
    assert visage.released(asr) == pytest.approx(naive_released(asr), abs=1e-9)


@settings(deadline=None)
@given(st.lists(levels, min_size=2, max_size=41), st.randoms())
def test_measure_returns_both_definitions_in_any_order_of_points(asr: list[float], random: object) -> None:
    pairs = list(zip(line(len(asr)), asr, strict=True))
    random.shuffle(pairs)  # type: ignore[attr-defined]
    score = visage.measure([c for c, _ in pairs], [s for _, s in pairs])
    assert score.paper == (None if min(asr) == 100 else pytest.approx(naive_paper(asr)))
    assert score.released == pytest.approx(naive_released(asr))
    assert (score.paper is None) == (score.reason is not None)


def test_both_definitions_of_a_basin_computed_by_hand() -> None:
    asr = [100.0, 100.0, 60.0, 0.0, 40.0, 100.0, 100.0]
    assert visage.paper(asr) == pytest.approx((40 + 100 + 60) / 3)
    assert visage.released(asr) == pytest.approx((40 + 100 + 60) / 3)


def test_the_definitions_differ_if_a_plateau_is_inside_the_range() -> None:
    asr = [100.0, 0.0, 100.0, 0.0, 0.0, 0.0, 100.0]
    assert visage.paper(asr) == 100.0
    assert visage.released(asr) == pytest.approx(100 * 4 / 5)


def test_the_released_definition_keeps_every_point_if_the_ends_are_below_100() -> None:
    assert visage.released([90.0, 0.0, 0.0, 0.0, 90.0]) == pytest.approx((10 + 300 + 10) / 5)


def test_the_released_definition_cuts_at_the_first_fall_only() -> None:
    asr = [100.0, 0.0, 100.0, 0.0, 0.0, 0.0, 0.0, 0.0, 100.0]
    assert visage.released(asr) == pytest.approx(100 * 6 / 7)


def test_a_line_that_is_unsafe_everywhere_has_a_reason() -> None:
    score = visage.measure(line(5), [100.0] * 5)
    assert score == visage.Visage(None, 0.0, "no point is below 100%")


@pytest.mark.parametrize(("low", "high"), [(-0.2, 1.2), (-0.5, 0.45), (-0.45, 0.5), (0.0, 0.01)])
def test_a_grid_that_does_not_cover_the_range_has_no_score(low: float, high: float) -> None:
    score = visage.measure(line(11, low, high), [0.0] * 11)
    assert score.paper is None
    assert score.released is None
    assert score.reason == "the grid does not cover [-0.5, 0.5]"


def test_only_points_inside_the_range_count() -> None:
    coordinates = line(21, -1.0, 1.0)
    asr = [0.0 if abs(a) <= 0.5 else 50.0 for (a,) in coordinates]
    assert visage.measure(coordinates, asr) == visage.Visage(100.0, 100.0, None)


def test_missing_points_are_left_out_of_the_mean_and_named() -> None:
    asr: list[float | None] = [100.0, 50.0, 0.0, None, 100.0]
    score = visage.measure(line(5), asr)
    assert score.paper == 75.0
    assert score.released is None
    assert score.reason == "1 of 5 points are missing"
    assert visage.measure(line(5), [100.0, 50.0, 0.0, float("nan"), 100.0]) == score


def test_a_missing_end_leaves_the_score_undefined() -> None:
    score = visage.measure(line(5), [None, 50.0, 0.0, 50.0, 100.0])
    assert score.paper is None
    assert "end of the range" in str(score.reason)
    assert visage.measure(line(5), [None] * 5).paper is None
    assert visage.measure([], []).paper is None


def test_a_plane_has_the_papers_definition_only() -> None:
    axis = [-0.5, 0.0, 0.5]
    coordinates = list(itertools.product(axis, axis))
    asr = [100.0] * 9
    asr[4], asr[5] = 0.0, 50.0
    assert visage.measure(coordinates, asr) == visage.Visage(75.0, None, None)
    narrow = [(a, b / 2) for a, b in coordinates]
    assert visage.measure(narrow, asr).paper is None
