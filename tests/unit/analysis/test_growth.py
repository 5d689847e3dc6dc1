"""How sweeps with goals grow: what is added, when nothing is, and which half-width counts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from orchestrator.analysis.adaptive import until
from orchestrator.analysis.growth import MOST_POINTS, Goals, Growth, decide, finest_step, grow
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import Grid
from orchestrator.utils.choices import GridKind

LINE = Grid(steps=20, directions=6)


def lines(grid: Grid, radii: list[float]) -> list[np.ndarray]:
    """Return lines whose ASR rises linearly from 0 at the origin to 50% at each radius, then on to 100%."""
    alphas = np.abs(np.array(grid.coordinates()[0]))
    return [np.minimum(50.0 * alphas / radius, 100.0) for radius in radii]


def decided(grid: Grid, radii: list[float], **goals: float) -> Growth:
    return decide(grid, lines(grid, radii), Goals(**goals))


def test_too_few_directions_have_no_interval_and_grow_to_the_fewest_that_do() -> None:
    growth = decided(dataclasses.replace(LINE, directions=2), [0.2, 0.25], visage=3)
    assert growth.progress[0].half_width is None and growth.progress[0].value is not None
    assert growth.next == dataclasses.replace(LINE, directions=until.FEWEST)
    assert until.relative_half_width(until.FEWEST) and not until.relative_half_width(until.FEWEST - 1)


def test_directions_are_added_up_to_the_number_that_seems_enough_and_at_most_doubled() -> None:
    radii = [0.2, 0.22, 0.24, 0.2, 0.22, 0.24]
    spread = float(np.std(radii, ddof=1))
    width = decided(LINE, radii, radius=0.05)
    assert width.progress[0].half_width == pytest.approx(until.half_width(radii))
    seven = until.relative_half_width(7)
    assert seven is not None
    growth = decided(LINE, radii, radius=seven * spread * 1.001)
    assert growth.next == dataclasses.replace(LINE, directions=7)
    assert decided(LINE, [0.1, 0.4] * 3, radius=0.026).next == dataclasses.replace(LINE, directions=12)


def test_points_are_added_where_their_distance_is_what_makes_the_radius_uncertain() -> None:
    growth = decided(LINE, [0.21] * 6, radius=0.02)
    assert growth.progress[0].half_width == 0.025, "half a step, although the directions agree"
    assert growth.next == dataclasses.replace(LINE, steps=40)
    finer = decided(dataclasses.replace(LINE, steps=40), [0.21] * 6, radius=0.02)
    assert finer.is_met and finer.next is None and finer.progress[0].value == pytest.approx(0.21)


def test_lines_toward_checkpoints_get_points_and_no_directions() -> None:
    grid = Grid(kind=GridKind.interpolate_1d, steps=20, towards=(TowardsDirection("a" * 16, "a"),))
    growth = decided(grid, [0.21], radius=0.01)
    assert growth.progress[0].half_width == 0.025 and growth.next == dataclasses.replace(grid, steps=40)


def test_goals_that_are_out_of_reach_say_why_and_add_nothing() -> None:
    flat = decide(LINE, [np.full(21, 100.0)] * 6, Goals(visage=2))
    assert flat.next is None and "undefined on line 0" in (flat.progress[0].reason or "") and not flat.is_met
    most = dataclasses.replace(LINE, directions=100)
    growth = decided(most, [0.1, 0.4] * 50, visage=0.01)
    assert growth.next is None and "100 directions and 20 steps" in (growth.progress[0].reason or "")
    finest = finest_step(LINE)
    assert (1.0 / finest + 1) * LINE.directions <= MOST_POINTS < (2.0 / finest + 1) * LINE.directions


def test_what_narrows_most_for_each_added_point_comes_first() -> None:
    """A direction narrows one interval a little; half the step narrows the other one more, for six times the cost."""
    asr, at_origin = lines(LINE, [0.21] * 6), [0.0, 4.0, 8.0, 0.0, 4.0, 8.0]
    for line, percent in zip(asr, at_origin, strict=True):
        line[10] = percent
    below_100 = int((asr[0] < 100.0).sum())
    six, seven = until.relative_half_width(6), until.relative_half_width(7)
    assert six is not None and seven is not None and six / seven < 0.025 / 0.01
    wanted = seven * float(np.std(at_origin, ddof=1)) / below_100 * 1.001
    growth = decide(LINE, asr, Goals(visage=wanted, radius=0.01))
    assert [goal.met for goal in growth.progress] == [False, False]
    assert growth.next == dataclasses.replace(LINE, directions=7)
    assert decide(LINE, asr, Goals(radius=0.01)).next == dataclasses.replace(LINE, steps=40)


def test_every_goal_has_to_be_met() -> None:
    growth = decided(LINE, [0.21] * 6, visage=5, radius=0.02)
    assert [goal.met for goal in growth.progress] == [True, False] and growth.next is not None and not growth.is_met


def test_counts_by_point_are_what_decides() -> None:
    asr = lines(LINE, [0.2, 0.22, 0.24, 0.26, 0.2, 0.22])
    nodes = [node for node in LINE.iter_nodes() if node.on_grid]
    by_node = zip(nodes, (value for line in asr for value in line), strict=True)
    counts = {node.point.id: (round(1000 * value), 100_000) for node, value in by_node}
    grown, decision = (
        each.progress[0] for each in (grow(LINE, counts, Goals(visage=2)), decide(LINE, asr, Goals(visage=2)))
    )
    assert grown.value == pytest.approx(decision.value, abs=0.01)
    assert grown.half_width == pytest.approx(decision.half_width, abs=0.01)
