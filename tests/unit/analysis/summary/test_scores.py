"""VISAGE and the mean margin in the summary, against values computed by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from orchestrator.analysis.landscape import build_landscape
from orchestrator.analysis.summary.sweep import summarize
from tests.unit.analysis.small_sweeps import HARMFUL, grid_nodes, summary_of, sweep_with_verdicts, tally


def test_intervals_over_directions_probes_and_both() -> None:
    landscape, verdicts = sweep_with_verdicts(3)
    summary = summarize(landscape, verdicts)
    json.dumps(summary.to_json(), allow_nan=False)
    over, score = summary.visage.over, summary.visage.paper
    assert over is not None and score is not None
    assert (summary.visage.low, summary.visage.high) == (over.directions.low, over.directions.high)
    halves = [score - interval.low for interval in (over.directions, over.probes, over.both)]
    assert halves[2] == pytest.approx(math.hypot(*halves[:2])) and min(halves) > 1
    assert over.probes.df == 39 and over.directions.df == 2
    assert summary.visage.enough.more == 2
    assert summary.visage.enough.half_width == pytest.approx(halves[0])
    without = summarize(landscape).visage.over
    assert without.probes.low is None and "not at hand" in without.both.reason
    parts = summary.visage.enough.components
    noise = (parts.interaction + parts.residual / parts.points) / 40
    assert over.directions.se**2 == pytest.approx(without.directions.se**2 + noise / 3)


def test_the_margin_has_intervals_over_directions_probes_and_both() -> None:
    """The error over probes is near that of a mean over probes: each probe's own margin varies by sd / sqrt(40)."""
    landscape, verdicts = sweep_with_verdicts(3)
    margin = summarize(landscape, verdicts).margin
    assert margin is not None and margin.value is not None and margin.reason is None
    refused = next(iter(verdicts.values()))
    lines = [part["point_id"].tolist() for _, part in landscape.groupby("line")]
    by_probe = 100 * np.mean([refused.at(points, refused.prompts) for points in lines], axis=(0, 1))
    assert margin.value == pytest.approx(by_probe.mean())
    assert margin.over.probes.se == pytest.approx(stats.sem(by_probe), rel=0.35)
    by_line = [d.value for d in margin.by_direction]
    cells = 100 * np.array([refused.at(points, refused.prompts).mean(axis=0, dtype=float) for points in lines])
    rest = cells - cells.mean(axis=1, keepdims=True) - cells.mean(axis=0) + cells.mean()
    single_responses = np.square(rest).sum() / (2 * 39) / 40  # in the variance of a line's mean
    expected = math.sqrt((np.var(by_line, ddof=1) + 2.5**2 / 12 + single_responses) / 3)
    assert margin.over.directions.se == pytest.approx(expected) and margin.over.directions.df == 2
    halves = [
        margin.value - interval.low for interval in (margin.over.directions, margin.over.probes, margin.over.both)
    ]
    assert halves[2] == pytest.approx(math.hypot(*halves[:2])) and min(halves) > 1


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        ({"kind": "interpolate_1d"}, "goes toward a checkpoint"),
        ({"kind": "interpolate_2d"}, "goes toward a checkpoint"),
        ({"kind": "interpolate_random", "norm": "layer"}, "goes toward a checkpoint"),
        ({"kind": "random_1d", "norm": "sigma"}, "norm sigma"),
        ({"kind": "random_1d", "match": {"fingerprint": "f"}}, "match a checkpoint"),
        ({"kind": "random_1d", "direction": "shuffled"}, "of kind shuffled"),
    ],
)
def test_other_grids_have_neither_visage_nor_margin_whatever_their_range(grid: dict[str, str], reason: str) -> None:
    landscape, verdicts = sweep_with_verdicts(3)
    summary = summarize(landscape, verdicts, grid)
    json.dumps(summary.to_json(), allow_nan=False)
    for score in (summary.visage, summary.margin):
        assert score is not None and score.value is None and score.released is None
        assert reason in score.reason and reason in score.released_reason and "range" not in score.reason
        assert score.over.both.low is None and all(reason in d.reason for d in score.by_direction)
    assert summary.basin.radius is not None, "the basin is measured along any line"


@pytest.mark.parametrize(("reach", "kind"), [(0.4, "random_1d"), (0.5, "interpolate_1d")])
def test_inferred_points_are_not_counted_if_visage_is_undefined(reach: float, kind: str) -> None:
    nodes = grid_nodes(1, (-reach, -reach / 2, 0.0, reach / 2, reach))
    landscape = build_landscape(nodes, tally(nodes, [100, math.nan, 0, math.nan, 100]), HARMFUL)
    left_out = landscape["n"] == 0
    values = {"asr_inferred": 40.0, "asr_inferred_error": 5.0}
    landscape = landscape.assign(inferred=left_out, **{key: np.where(left_out, v, np.nan) for key, v in values.items()})
    visage = summarize(landscape, grid={"kind": kind}).visage
    assert visage.paper is None
    assert (visage.points, visage.counted, visage.inferred, visage.inferred_counted) == (0, 0, 0, 0)


def test_one_direction_has_an_interval_over_probes_only() -> None:
    visage = summarize(*sweep_with_verdicts(1)).visage
    assert visage.low is None and visage.over.both.low is None
    assert visage.over.probes.low < visage.paper < visage.over.probes.high
    assert "one direction" in visage.enough.reason and visage.enough.more is None


def test_directions_towards_checkpoints_have_no_interval_over_directions() -> None:
    landscape, verdicts = sweep_with_verdicts(3)
    summary = summarize(landscape.assign(seed_x=pd.NA), verdicts)
    assert summary.visage.low is None and "chosen, not drawn" in summary.visage.over.directions.reason
    assert summary.visage.over.probes.low is not None
    assert summary.basin.mean_radius.value is not None and summary.basin.mean_radius.low is None


def test_the_interval_over_directions_is_students_t() -> None:
    asr = [100, 50, 0, 50, 100, 100, 0, 0, 0, 100, 100, 100, 0, 100, 100]
    summary = summary_of(asr, lines=3)
    scores = [d.paper for d in summary.visage.by_direction]
    assert scores == [pytest.approx(200 / 3), 100.0, 100.0]
    assert [d.seed_x for d in summary.visage.by_direction] == [123, 124, 125]
    expected = stats.t.interval(0.95, 2, loc=np.mean(scores), scale=stats.sem(scores))
    assert summary.visage.paper == pytest.approx(np.mean(scores))
    rounding = (100 / 40) ** 2 / 12
    half_width = stats.t.ppf(0.975, 2) * math.sqrt((np.var(scores, ddof=1) + rounding) / 3)
    assert summary.visage.low == pytest.approx(np.mean(scores) - half_width)
    assert summary.visage.low == pytest.approx(expected[0], abs=0.1)
    assert summary.visage.high == 100.0
    assert expected[1] > 100.0
    assert summary.visage.reason is None
    assert summary.basin.radius == pytest.approx(0.125)


def test_an_undefined_line_is_named() -> None:
    alphas = (-0.5, -0.25, 0.0, 0.25, 0.5)
    nodes = grid_nodes(2, alphas)
    asr = [100, 50, 0, 50, 100, float("nan"), 0, 0, 0, 100]
    summary = summarize(build_landscape(nodes, tally(nodes, asr), HARMFUL))
    assert summary.visage.by_direction[1].paper is None
    assert summary.visage.paper == pytest.approx(200 / 3)
    assert "line 1: 1 of 5 points are missing" in summary.visage.reason
    assert summary.visage.released is None, "the published code's score is no mean over some of the lines"
    assert summary.visage.released_reason.startswith("line 1: 1 of 5 points are missing")
    assert summary.margin.released is None and summary.margin.released_reason == summary.visage.released_reason
    assert summary.points_missing == 1
    assert summary.points_done == 8
    assert summary.points_total == 9
