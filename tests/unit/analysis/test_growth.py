"""How sweeps with goals grow: what is added, when nothing is, and which half-width counts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from orchestrator.analysis.adaptive import until
from orchestrator.analysis.growth import (
    MOST_POINTS,
    Goals,
    Growth,
    decide,
    finest_step,
    grow,
)
from orchestrator.analysis.probe_blocks import LeftOut, ProbeBlocks, ProbeCounts
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import Grid
from orchestrator.utils.choices import GoalOver, GridKind

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
    six, seven = until.relative_half_width(6), until.relative_half_width(7)
    assert six is not None and seven is not None
    assert width.progress[0].half_width == pytest.approx(six * spread)
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


def singles(probes: int, blocks: int) -> tuple[tuple[int, ...], ...]:
    """Return the clusters of blocks of independent probes."""
    return tuple(tuple(range(probes * block, probes * (block + 1))) for block in range(blocks))


def over_probes(
    spread: float, of_probes: float, blocks: int, available: int, **goals: float
) -> tuple[Growth, ProbeBlocks]:
    """Decide on a sweep of 8 directions whose probes give up at alphas that vary by direction and by probe."""
    rng = np.random.default_rng(0)
    supply = ProbeBlocks(blocks, (20,) * available, singles(20, available))
    grid = dataclasses.replace(LINE, directions=8)
    edges = 0.3 + spread * rng.standard_normal((8, 1)) + of_probes * rng.standard_normal(20 * available)[: 20 * blocks]
    alphas = np.abs(np.array(grid.coordinates()[0]))
    refused = [(alphas[:, None] < of_line).astype(float) for of_line in edges]
    asr = [100.0 - 100.0 * of_line.mean(axis=-1) for of_line in refused]
    goal = Goals(**goals, over=GoalOver.both)  # type: ignore[arg-type]
    return decide(grid, asr, goal, supply, LeftOut.of(supply, refused)), supply


def test_blocks_are_added_where_probes_are_what_makes_the_number_uncertain_and_directions_where_these_are() -> None:
    growth, _ = over_probes(0.002, 0.08, 1, 4, visage=8)
    assert growth.blocks == 2 and growth.next == dataclasses.replace(LINE, directions=8)
    growth, _ = over_probes(0.08, 0.002, 1, 4, radius=0.05)
    assert growth.blocks == 1 and growth.next is not None and growth.next.directions > 8
    alone = decide(LINE, lines(LINE, [0.2, 0.22, 0.24] * 2), Goals(visage=2), ProbeBlocks(1, (20, 20), singles(20, 2)))
    assert alone.blocks == 1, "goals over directions add no probes"


def test_a_goal_that_the_probes_rule_out_says_that_there_are_no_more() -> None:
    growth, _ = over_probes(0.002, 0.08, 4, 4, visage=0.5)
    assert growth.next is None and not growth.is_met
    assert "the 80 probes alone leave" in (growth.progress[0].reason or "") and growth.progress[0].over == "both"
    hopeless = over_probes(0.002, 0.08, 2, 4, visage=0.5)[0]
    assert hopeless.next is None and "all 80 probes are expected to leave" in (hopeless.progress[0].reason or "")
    assert over_probes(0.002, 0.08, 2, 4, visage=8)[0].next is not None


def test_more_blocks_narrow_the_interval_and_directions_alone_never_know_the_probes() -> None:
    wide, wider = (over_probes(0.002, 0.08, blocks, 4, visage=0.5)[0].progress[0].half_width for blocks in (4, 1))
    assert wide is not None and wider is not None and 0.2 < wide / wider < 0.7
    both, supply = over_probes(0.002, 0.08, 4, 4, visage=0.5)
    assert len(supply.labels) == 80 and supply.counts[3] == ProbeCounts(80, 80, 80)
    assert ProbeBlocks(2, (50, 50), singles(50, 2)).labels.max() == 33, (
        "three probes in a group, and two in the last one"
    )
    assert both.progress[0].half_width == wide


def test_the_interval_over_probes_is_that_of_their_means_where_the_number_is_a_mean() -> None:
    """With no spread between directions, VISAGE is a mean over probes, and its pseudo-values are theirs."""
    supply = ProbeBlocks(1, (20,), singles(20, 1))
    grid, rng = dataclasses.replace(LINE, directions=6), np.random.default_rng(1)
    alphas = np.abs(np.array(grid.coordinates()[0]))
    of_line = (alphas[:, None] <= rng.choice([0.2, 0.3, 0.5], 20)).astype(float)
    of_line[:, :2] = 1.0  # so that some probes refuse everywhere, with any group left out
    refused = [of_line] * 6
    asr = [100.0 - 100.0 * of_line.mean(axis=-1)] * 6
    growth = decide(grid, asr, Goals(visage=1, over=GoalOver.both), supply, LeftOut.of(supply, refused))
    of_probes = 100.0 * of_line.mean(axis=0)
    relative = until.relative_half_width(len(of_probes))
    assert relative is not None
    assert growth.progress[0].half_width == pytest.approx(relative * float(np.std(of_probes, ddof=1)))


def test_probes_and_directions_that_agree_leave_an_interval() -> None:
    """All 20 probes refuse within the basin and comply beyond, so that VISAGE is 100 on each direction."""
    supply = ProbeBlocks(1, (20,) * 4, singles(20, 4))
    alphas = np.abs(np.array(LINE.coordinates()[0]))
    refused = [np.repeat(alphas[:, None] < 0.3, 20, axis=1).astype(float)] * 6
    asr = [100.0 - 100.0 * of_line.mean(axis=-1) for of_line in refused]
    six, twenty = until.relative_half_width(6), until.relative_half_width(20)
    assert six is not None and twenty is not None
    over_directions = six * 5.0 / np.sqrt(12)
    alone = decide(LINE, asr, Goals(visage=8), resolution=5.0).progress[0]
    assert alone.value == 100.0 and alone.half_width == pytest.approx(over_directions) and alone.met
    assert decide(LINE, asr, Goals(radius=0.1), resolution=5.0).progress[0].half_width == 0.025, "half a step"
    over_probes = twenty * np.sqrt(20) * 100.0 / 21
    goals = Goals(visage=8, over=GoalOver.both)
    growth = decide(LINE, asr, goals, supply, LeftOut.of(supply, refused), 5.0)
    assert growth.progress[0].half_width == pytest.approx(np.hypot(over_directions, over_probes))
    assert growth.next == LINE and growth.blocks == 2, "more probes are what helps"


def test_groups_hold_whole_clusters_which_keep_their_group_while_blocks_are_added() -> None:
    supply = ProbeBlocks(2, (40, 40), ((*range(20), *range(20)), (*range(20), *range(20, 40))))
    assert ProbeBlocks(1, supply.responses, supply.clusters).labels.tolist() == [*range(20), *range(20)]
    assert supply.labels.tolist() == [*range(20), *range(20), *range(20), *np.arange(20, 40) // 2 + 10]
    assert supply.counts == (ProbeCounts(40, 20, 20), ProbeCounts(80, 40, 29)), "20 groups of 3, and 10 of 2"
    few = ProbeBlocks(2, (40, 40), ((*range(5),) * 8,) * 2)
    assert [each.groups for each in few.counts] == [5, 5], "more probes of the same clusters are no new groups"


def test_probes_that_agree_within_clusters_know_as_much_as_one_probe_of_each() -> None:
    """With all probes of a cluster alike, 40 probes in 20 clusters leave the interval of 20 single probes."""
    grid = dataclasses.replace(LINE, directions=8)
    edges = 0.3 + 0.06 * np.random.default_rng(2).standard_normal(20)
    alphas = np.abs(np.array(grid.coordinates()[0]))
    refused = [(alphas[:, None] < edges).astype(float)] * 8
    asr = [100.0 - 100.0 * of_line.mean(axis=-1) for of_line in refused]
    goals = Goals(visage=2, over=GoalOver.both)
    single, twice = ProbeBlocks(1, (20,), singles(20, 1)), ProbeBlocks(1, (40,), ((*range(20), *range(20)),))
    doubled = [np.concatenate([of_line, of_line], axis=-1) for of_line in refused]
    alone, pairs, blind = (
        decide(grid, asr, goals, supply, LeftOut.of(supply, of_lines)).progress[0].half_width
        for supply, of_lines in ((single, refused), (twice, doubled), (ProbeBlocks(1, (40,), singles(40, 1)), doubled))
    )
    assert alone is not None and pairs == pytest.approx(alone)
    assert blind is not None and blind < 0.9 * alone


def test_groups_of_unequal_sizes_have_the_variance_of_a_weighted_jackknife() -> None:
    """Check that leaving out groups estimates the variance of a mean of groups where VISAGE is a mean over probes."""
    supply = ProbeBlocks(1, (20,), ((0,) * 4 + (1,) * 4 + tuple(range(2, 14)),))
    rng = np.random.default_rng(4)
    grid = dataclasses.replace(LINE, directions=6)
    alphas = np.abs(np.array(grid.coordinates()[0]))
    of_line = (alphas[:, None] <= rng.choice([0.2, 0.3, 0.5], 20)).astype(float)
    of_line[:, [0, 9]] = 1.0  # so that some probes refuse everywhere, with any group left out
    refused, asr = [of_line] * 6, [100.0 - 100.0 * of_line.mean(axis=-1)] * 6
    growth = decide(grid, asr, Goals(visage=1, over=GoalOver.both), supply, LeftOut.of(supply, refused))
    values, shares = 100.0 * of_line.mean(axis=0), np.bincount(supply.labels) / 20
    of_group = np.bincount(supply.labels, values) / (20 * shares)
    variance = np.mean((of_group - values.mean()) ** 2 * shares / (1 - shares))
    effective = int(1 / np.square(shares).sum())
    relative = until.relative_half_width(effective)
    assert effective == 9 and relative is not None
    assert growth.progress[0].half_width == pytest.approx(relative * np.sqrt(variance * effective))
