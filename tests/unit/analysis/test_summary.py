"""The landscape and the summary, against values computed by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from orchestrator.analysis.landscape import LANDSCAPE_SCHEMA, build_landscape, primary_rows, to_table
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.analysis.summary import summarize, summarize_checkpoints
from orchestrator.scoring import counts as counting

SETS = pd.DataFrame(
    {
        "prompt_set_id": ["s1", "s2"],
        "probe_set": ["ours", "ours"],
        "group": ["benign", "harmful"],
        "system_prompt": ["default", "default"],
    }
)
HARMFUL = SETS.iloc[[1]]


def grid_nodes(lines: int = 1, alphas: tuple[float, ...] = (-0.5, -0.25, 0.0, 0.25, 0.5)) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "line": k,
                "alpha": a,
                "beta": None,
                "on_grid": True,
                "point_id": "origin" if a == 0 else f"p{k}{a:+}",
                "seed_x": 123 + k,
                "seed_y": None,
            }
            for k in range(lines)
            for a in alphas
        ]
    )


def tally(nodes: pd.DataFrame, asr: Sequence[float], n: int = 40, degenerate: float = 0.0) -> pd.DataFrame:
    """Return counts at each distinct point; `asr` is given per node, `degenerate` is a share of the successes."""
    rows = {}
    for point, s in zip(nodes["point_id"], asr, strict=True):
        if s is None or math.isnan(s):
            continue
        successes = round(s * n / 100)
        n_degenerate = round(successes * degenerate)
        rows[point] = (point, "s2", "keyword", n, n - successes, successes - n_degenerate, n_degenerate)
    names = [
        "point_id",
        "prompt_set_id",
        "judge",
        "n",
        "n_refused",
        "n_complied",
        "n_degenerate",
    ]
    return pd.DataFrame(list(rows.values()), columns=names)


def summary_of(asr: Sequence[float], lines: int = 1, degenerate: float = 0.0) -> SweepSummary:
    nodes = grid_nodes(lines)
    summary = summarize(build_landscape(nodes, tally(nodes, asr, degenerate=degenerate), HARMFUL))
    json.dumps(summary.to_json(), allow_nan=False)
    return summary


def test_a_sweep_without_responses_has_an_empty_landscape() -> None:
    empty = counting.counts(iter([]))
    assert list(empty.columns) == [
        "point_id",
        "prompt_set_id",
        "judge",
        "n",
        "n_refused",
        "n_complied",
        "n_degenerate",
    ]
    landscape = build_landscape(grid_nodes(), empty, HARMFUL)
    assert landscape["n"].tolist() == [0] * 5
    assert landscape["asr"].isna().all()
    summary = summarize(landscape)
    json.dumps(summary.to_json(), allow_nan=False)
    assert summary.origin_asr is None
    assert summary.points_done == 0
    assert summary.points_total == 5


def sweep_with_verdicts(lines: int) -> tuple[pd.DataFrame, dict]:
    """Return landscape and verdicts of 40 probes that stop refusing one by one along alpha, sooner on later lines."""
    nodes = grid_nodes(lines, tuple(round(-0.5 + i / 10, 9) for i in range(11)))
    reach = 0.5 - np.arange(40) / 84 - 0.01 * nodes["line"].to_numpy()[:, None]
    refused = (nodes["alpha"].abs().to_numpy()[:, None] < reach).astype(float)
    landscape = build_landscape(nodes, tally(nodes, (100 * (1 - refused.mean(axis=1))).tolist()), HARMFUL)
    first = nodes.drop_duplicates("point_id").index
    points = nodes.loc[first, "point_id"]
    verdicts = counting.ProbeVerdicts(tuple(points), tuple(f"q{i}" for i in range(40)), refused[first])
    return landscape, {("ours", "harmful", "default", "keyword"): verdicts}


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


# The landscape.


def test_the_rows_and_columns_of_the_landscape() -> None:
    nodes = grid_nodes(2)
    asr = [100, 50, 5, 50, 100] * 2
    landscape = build_landscape(nodes, tally(nodes, asr, degenerate=0.5), SETS, judges=["keyword", "other"])
    assert list(landscape.columns) == LANDSCAPE_SCHEMA.names
    assert len(landscape) == 10 * 2 * 2
    assert landscape["group"].tolist() == ["benign"] * 20 + ["harmful"] * 20
    assert landscape["judge"].tolist() == (["keyword"] * 10 + ["other"] * 10) * 2
    rows = landscape[(landscape["group"] == "harmful") & (landscape["judge"] == "keyword")]
    assert rows["asr"].tolist() == asr
    assert rows["alpha"].tolist() == [-0.5, -0.25, 0.0, 0.25, 0.5] * 2
    assert (rows["point_id"] == "origin").sum() == 2
    first = rows.iloc[0]
    assert (
        first["n"],
        first["n_refused"],
        first["n_complied"],
        first["n_degenerate"],
    ) == (40, 0, 20, 20)
    assert (first["complied"], first["degenerate"]) == (50.0, 50.0)
    assert (rows["asr_low"] <= rows["asr"]).all() and (rows["asr"] <= rows["asr_high"]).all()
    assert (rows["margin"] == rows["n_refused"] / 0.4).all() and (rows["margin_high"] == 100 - rows["asr_low"]).all()
    line = rows[rows["line"] == 0]
    summary = summarize(landscape).visage.by_direction[0], summarize(landscape).margin.by_direction[0]
    assert summary[0].paper == pytest.approx(line.loc[line["margin"] > 0, "margin"].mean())
    assert summary[1].value == pytest.approx(line["margin"].mean())
    assert landscape[landscape["group"] == "benign"]["n"].eq(0).all()


def test_the_landscape_is_stored_with_nulls_and_read_back() -> None:
    nodes = grid_nodes()
    landscape = build_landscape(nodes, tally(nodes, [100, float("nan"), 0, 50, 100]), HARMFUL)
    table = to_table(landscape)
    assert table.schema.equals(LANDSCAPE_SCHEMA, check_metadata=True)
    assert table["asr"].to_pylist() == [100.0, None, 0.0, 50.0, 100.0]
    assert table["n"].to_pylist() == [40, 0, 40, 40, 40]
    assert table["beta"].null_count == table["seed_y"].null_count == 5
    assert summarize(table.to_pandas()) == summarize(landscape)


def test_the_order_of_nodes_does_not_matter() -> None:
    nodes = grid_nodes(2)
    asr = [100, 50, 5, 50, 100] * 2
    shuffled = nodes.sample(frac=1, random_state=1)
    first, second = (build_landscape(table, tally(nodes, asr), HARMFUL) for table in (nodes, shuffled))
    pd.testing.assert_frame_equal(first, second)


# The summary.


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


def test_checkpoints_have_the_measured_asr_and_that_of_the_surface() -> None:
    nodes = grid_nodes(alphas=(0.0, 0.5, 1.0)).assign(mark=["", "", "end"], projected=False)
    checkpoint = nodes.iloc[[1]].assign(alpha=0.25, point_id="beside", on_grid=False, mark="epoch-1", projected=True)
    nodes = pd.concat([nodes, checkpoint], ignore_index=True)
    landscape = build_landscape(nodes, tally(nodes, [0.0, 50.0, 100.0, 90.0]), HARMFUL)
    end, epoch = summarize_checkpoints(landscape)
    if end.mark != "end":
        end, epoch = epoch, end
    assert (epoch.mark, epoch.alpha, epoch.projected, epoch.point_id) == ("epoch-1", 0.25, True, "beside")
    assert (epoch.results[0].asr, epoch.results[0].surface) == (90.0, 25.0)
    assert end.results[0].asr == 100.0 and end.results[0].surface is None, "at the end of what is known"
    without_checkpoint = build_landscape(
        grid_nodes(alphas=(0.0, 0.5, 1.0)), tally(nodes, [0.0, 50.0, 100.0, 90.0]), HARMFUL
    )
    for key in ("basin", "visage", "origin_asr", "degenerate_share"):
        assert getattr(summarize(landscape), key) == getattr(summarize(without_checkpoint), key), (
            "an extra checkpoint is in no curve"
        )
    assert summarize(landscape).points_total == 4
    stored = to_table(landscape).to_pandas()
    assert summarize_checkpoints(stored) == summarize_checkpoints(landscape)
    assert summarize_checkpoints(stored.drop(columns=["mark", "projected"])) == (), "an older landscape has none"


def test_correct_answers_are_counted_if_there_are_any() -> None:
    nodes = grid_nodes(alphas=(0.0, 0.5))
    correct = pd.DataFrame({"point_id": ["origin"], "prompt_set_id": ["s2"], "n_asked": [40], "n_correct": [30]})
    landscape = build_landscape(nodes, tally(nodes, [0.0, 50.0]), SETS, correct=correct)
    row = landscape[(landscape["alpha"] == 0) & (landscape["group"] == "harmful")].iloc[0]
    assert (row["n_correct"], row["correct"]) == (30, 75.0) and row["correct_low"] < 75.0 < row["correct_high"]
    assert landscape["correct"].notna().sum() == 1
    assert to_table(landscape).column("n_correct").null_count == len(landscape) - 1
