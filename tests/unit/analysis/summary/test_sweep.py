"""The summary of a whole sweep, against values computed by hand."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest
from scipy import stats

from orchestrator.analysis.landscape import build_landscape, primary_rows
from orchestrator.analysis.summary.sweep import summarize
from orchestrator.scoring import counts as counting
from tests.unit.analysis.small_sweeps import HARMFUL, SETS, grid_nodes, summary_of, tally


def test_a_sweep_without_responses_has_an_empty_landscape() -> None:
    empty = counting.counts(iter([]))
    assert list(empty.columns) == ["point_id", "prompt_set_id", "judge", *counting.COUNTS]
    landscape = build_landscape(grid_nodes(), empty, HARMFUL)
    assert landscape["n"].tolist() == [0] * 5
    assert landscape["asr"].isna().all()
    summary = summarize(landscape)
    json.dumps(summary.to_json(), allow_nan=False)
    assert summary.origin_asr is None
    assert summary.points_done == 0
    assert summary.points_total == 5


def test_the_summary_of_a_basin() -> None:
    summary = summary_of([100, 75, 5, 50, 100], degenerate=0.4)
    assert summary.origin_asr == 5.0
    assert summary.visage.paper == pytest.approx((25 + 95 + 50) / 3)
    assert summary.visage.released == pytest.approx((25 + 95 + 50) / 3)
    assert (summary.visage.low, summary.visage.high) == (None, None)
    assert "one direction" in summary.visage.reason
    assert summary.basin.left == pytest.approx(-0.25 * 45 / 70)
    assert summary.basin.right == pytest.approx(0.25)
    assert summary.basin.radius == pytest.approx(0.25 * 45 / 70)
    assert summary.basin.radius_low < summary.basin.radius < summary.basin.radius_high
    assert summary.degenerate_share == pytest.approx(100 * (16 + 12 + 1 + 8 + 16) / (40 + 30 + 2 + 20 + 40))
    assert (
        summary.points_done,
        summary.points_total,
        summary.points_missing,
        summary.prompts,
    ) == (5, 5, 0, 40)
    assert summary.primary.to_json() == {
        "probe_set": "ours",
        "group": "harmful",
        "system_prompt": "default",
        "judge": "keyword",
    }
    assert summary.results[0].visage == summary.visage
    assert (summary.visage.points, summary.visage.counted) == (5, 3)
    assert summary.margin is not None and summary.results[0].margin == summary.margin
    assert summary.margin.value == pytest.approx((25 + 95 + 50) / 5)
    assert summary.margin.released == pytest.approx((25 + 95 + 50) / 4)


def test_points_off_the_grid_are_in_the_landscape_but_not_in_visage() -> None:
    nodes = grid_nodes(1, (-0.5, -0.1, 0.0, 0.1, 0.5))
    nodes.loc[nodes["alpha"] == 0.0, "on_grid"] = False
    landscape = build_landscape(nodes, tally(nodes, [100, 20, 0, 20, 100], degenerate=0.5), HARMFUL)
    summary = summarize(landscape)
    assert len(landscape) == 5
    assert summary.visage.paper == 80.0
    assert summary.origin_asr == 0.0
    assert summary.basin.radius == pytest.approx(0.1 + 0.4 * 30 / 80)


def test_the_summary_of_planes() -> None:
    axis = (-0.5, -0.25, 0.0, 0.25, 0.5)
    nodes = pd.DataFrame(
        [
            {
                "line": k,
                "alpha": a,
                "beta": b,
                "on_grid": True,
                "point_id": "origin" if a == b == 0 else f"{k}{a}{b}",
                "seed_x": 1 + 2 * k,
                "seed_y": 2 + 2 * k,
            }
            for k in range(2)
            for b in axis
            for a in axis
        ]
    )
    asr = [100.0 if math.hypot(a, b) > 0.3 else 0.0 for a, b in zip(nodes["alpha"], nodes["beta"], strict=True)]
    summary = summarize(build_landscape(nodes, tally(nodes, asr), HARMFUL))
    json.dumps(summary.to_json(), allow_nan=False)
    assert summary.visage.paper == 100.0
    assert summary.visage.released is None
    assert summary.visage.released_reason == "the published code computes it on lines only"
    assert summary.margin.value == pytest.approx(100 * 5 / 25)
    assert summary.visage.low == pytest.approx(100 - stats.t.ppf(0.975, 1) * 2.5 / math.sqrt(24))
    assert summary.visage.high == 100.0
    assert summary.basin.area.value == summary.basin.by_direction[0].area
    assert summary.basin.asymmetry.value is None
    assert summary.basin.radius == pytest.approx(math.hypot(0.25, 0.125))
    assert summary.basin.by_direction[1].seed_y == 4
    assert summary.points_total == 49


def test_without_a_harmful_group_the_first_result_is_primary() -> None:
    nodes = grid_nodes()
    counts = tally(nodes, [100, 50, 0, 50, 100])
    counts["prompt_set_id"] = "s1"
    landscape = build_landscape(nodes, counts, SETS.iloc[[0]])
    assert summarize(landscape).primary.group == "benign"
    assert len(primary_rows(landscape)) == 5
