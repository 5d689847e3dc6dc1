"""Counting, the landscape and the summary, against counting by hand."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from orchestrator.analysis.landscape import LANDSCAPE_SCHEMA, build_landscape, primary_rows, to_table
from orchestrator.analysis.results import SweepSummary
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


def nodes(lines: int = 1, alphas: tuple[float, ...] = (-0.5, -0.25, 0.0, 0.25, 0.5)) -> pd.DataFrame:
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


def tally(where: pd.DataFrame, asr: Sequence[float], n: int = 40, degenerate: float = 0.0) -> pd.DataFrame:
    """Counts at each distinct point; `asr` per node in order, `degenerate` the share of successes."""
    rows = {}
    for point, s in zip(where["point_id"], asr, strict=True):
        if s is None or math.isnan(s):
            continue
        successes = round(s * n / 100)
        bad = round(successes * degenerate)
        rows[point] = (point, "s2", "keyword", n, n - successes, successes - bad, bad)
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
    where = nodes(lines)
    found = summarize(build_landscape(where, tally(where, asr, degenerate=degenerate), HARMFUL))
    json.dumps(found.to_json(), allow_nan=False)
    return found


# Counting.


def judged_rows(seed: int = 0) -> list[tuple[str, str, str, str, bool]]:
    rng = random.Random(seed)
    return [
        (
            f"p{rng.randrange(5)}",
            f"s{rng.randrange(2)}",
            f"q{i}",
            rng.choice(["refused", "complied"]),
            rng.random() < 0.3,
        )
        for i in range(2000)
    ]


def as_tables(rows: list[tuple[str, str, str, str, bool]], size: int) -> Iterator[pa.Table]:
    for batch in _batched(rows, size):
        columns = list(zip(*batch, strict=True))
        yield pa.table(columns_of(columns))


def columns_of(columns: list[tuple]) -> dict[str, list]:
    names = ["point_id", "prompt_set_id", "prompt_id", "verdict", "degenerate"]
    return {name: list(column) for name, column in zip(names, columns, strict=True)}


def _batched(rows: list, size: int) -> Iterator[list]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


@pytest.mark.parametrize("size", [7, 500, 2000])
def test_counts_equal_counting_by_hand_however_rows_are_cut(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_FLUSH_ROWS", 50)
    rows = judged_rows()
    expected: dict[tuple[str, str], list[int]] = {}
    for point, prompts, _, verdict, degenerate in rows:
        tally = expected.setdefault((point, prompts), [0, 0, 0, 0])
        tally[0] += 1
        tally[1 if verdict == "refused" else 3 if degenerate else 2] += 1
    found = counting.counts(as_tables(rows, size))
    got = {(r.point_id, r.prompt_set_id): [r.n, r.n_refused, r.n_complied, r.n_degenerate] for r in found.itertuples()}
    assert got == expected
    assert set(found["judge"]) == {"keyword"}
    assert (found["n_refused"] + found["n_complied"] + found["n_degenerate"] == found["n"]).all()


def test_a_degenerate_refusal_counts_as_a_refusal() -> None:
    table = pa.table(columns_of([("p",), ("s",), ("q",), ("refused",), (True,)]))
    assert counting.counts([table]).iloc[0][["n", "n_refused", "n_complied", "n_degenerate"]].tolist() == [1, 1, 0, 0]


def test_counts_of_nothing_is_an_empty_frame_that_makes_an_empty_landscape() -> None:
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
    made = build_landscape(nodes(), empty, HARMFUL)
    assert made["n"].tolist() == [0] * 5
    assert made["asr"].isna().all()
    found = summarize(made)
    json.dumps(found.to_json(), allow_nan=False)
    assert found.origin_asr is None
    assert found.points_done == 0
    assert found.points_total == 5


def test_counts_refuses_what_it_does_not_know() -> None:
    good = ("p",), ("s",), ("q",)
    for verdict in ("unsure", None):
        with pytest.raises(ValueError, match="verdicts"):
            counting.counts([pa.table(columns_of([*good, (verdict,), (False,)]))])
    table = pa.table(columns_of([*good, ("refused",), (None,)]))
    table = table.set_column(4, "degenerate", table["degenerate"].cast(pa.bool_()))
    with pytest.raises(ValueError, match="degeneration"):
        counting.counts([table])


def test_counts_keeps_judges_apart() -> None:
    table = pa.table(
        columns_of(
            [
                ("p", "p"),
                ("s", "s"),
                ("q", "q"),
                ("refused", "complied"),
                (False, False),
            ]
        )
    )
    both = counting.counts([table.append_column("judge", pa.array(["keyword", "other"]))])
    assert dict(zip(both["judge"], both["n_refused"], strict=True)) == {
        "keyword": 1,
        "other": 0,
    }


def test_counting_streams() -> None:
    """Memory grows with tasks: a million rows of ten tasks leave next to nothing."""
    batch = pa.table(
        {
            "point_id": [f"p{i % 10}" for i in range(10_000)],
            "prompt_set_id": ["s"] * 10_000,
            "prompt_id": [f"q{i}" for i in range(10_000)],
            "verdict": ["refused", "complied"] * 5_000,
            "degenerate": [False] * 10_000,
        }
    )
    before, peaks = pa.total_allocated_bytes(), []

    def stream() -> Iterator[pa.Table]:
        for _ in range(100):
            peaks.append(pa.total_allocated_bytes() - before)
            yield batch

    assert counting.counts(stream())["n"].tolist() == [100_000] * 10
    assert max(peaks[50:]) < 2 * batch.nbytes


# Who refused what.


def test_verdicts_by_probe_however_rows_are_cut() -> None:
    rows = judged_rows()
    for size in (7, 2000):
        found = counting.probe_refusals(as_tables(rows, size))
        assert {key: v.refused.shape for key, v in found.items()} == {
            (s, "keyword"): (5, len({r[2] for r in rows if r[1] == s})) for s in ("s0", "s1")
        }
        for point, set_id, prompt, verdict, _ in rows[::40]:
            known = found[set_id, "keyword"]
            assert known.at([point], [prompt]).item() == (verdict == "refused")
        assert np.nansum(found["s0", "keyword"].refused) == sum(r[1] == "s0" and r[3] == "refused" for r in rows)
        nowhere = found["s0", "keyword"].at(["p0", "nowhere"], ["q0", "never asked"])
        assert np.isnan(nowhere[1]).all() and np.isnan(nowhere[:, 1]).all()


def sweep_with_verdicts(lines: int) -> tuple[pd.DataFrame, dict]:
    """Landscape and verdicts of 40 probes that fall one after another along alpha, sooner on later lines."""
    where = nodes(lines, tuple(round(-0.5 + i / 10, 9) for i in range(11)))
    reach = 0.5 - np.arange(40) / 84 - 0.01 * where["line"].to_numpy()[:, None]
    refused = (where["alpha"].abs().to_numpy()[:, None] < reach).astype(float)
    made = build_landscape(where, tally(where, (100 * (1 - refused.mean(axis=1))).tolist()), HARMFUL)
    first = where.drop_duplicates("point_id").index
    points = where.loc[first, "point_id"]
    verdicts = counting.ProbeVerdicts(tuple(points), tuple(f"q{i}" for i in range(40)), refused[first])
    return made, {("ours", "harmful", "default", "keyword"): verdicts}


def test_intervals_over_directions_probes_and_both() -> None:
    made, verdicts = sweep_with_verdicts(3)
    found = summarize(made, verdicts)
    json.dumps(found.to_json(), allow_nan=False)
    over, score = found.visage.over, found.visage.paper
    assert over is not None and score is not None
    assert (found.visage.low, found.visage.high) == (over.directions.low, over.directions.high)
    halves = [score - each.low for each in (over.directions, over.probes, over.both)]
    assert halves[2] == pytest.approx(math.hypot(*halves[:2])) and min(halves) > 1
    assert over.probes.df == 39 and over.directions.df == 2
    assert found.visage.enough.more == 2
    assert found.visage.enough.half_width == pytest.approx(halves[0])
    without = summarize(made).visage.over
    assert without.probes.low is None and "not at hand" in without.both.reason
    assert without.directions == over.directions


def test_one_direction_knows_its_probes_only() -> None:
    found = summarize(*sweep_with_verdicts(1)).visage
    assert found.low is None and found.over.both.low is None
    assert found.over.probes.low < found.paper < found.over.probes.high
    assert "one direction" in found.enough.reason and found.enough.more is None


def test_directions_towards_checkpoints_are_no_sample() -> None:
    made, verdicts = sweep_with_verdicts(3)
    found = summarize(made.assign(seed_x=pd.NA), verdicts)
    assert found.visage.low is None and "chosen, not drawn" in found.visage.over.directions.reason
    assert found.visage.over.probes.low is not None
    assert found.basin.mean_radius.value is not None and found.basin.mean_radius.low is None


def test_the_basins_shape_is_a_mean_over_lines_that_skips_none() -> None:
    found = summarize(sweep_with_verdicts(3)[0]).basin
    each = [d.radius for d in found.by_direction]
    mean = found.mean_radius
    assert mean.value == pytest.approx(np.mean(each)) and found.radius == min(each)
    assert (mean.low, mean.high) == pytest.approx(stats.t.interval(0.95, 2, np.mean(each), stats.sem(each)))
    assert all(d.radius_low < d.radius < d.radius_high for d in found.by_direction)
    assert found.asymmetry.value == pytest.approx(0.0) and found.steepness.value > 0
    assert found.area.value is None and found.area.reason == "a line has no area"
    uncrossed = summarize(build_landscape(nodes(2), tally(nodes(2), [100, 50, 0, 50, 100, *[0] * 5]), HARMFUL))
    assert uncrossed.basin.mean_radius.value is None
    assert uncrossed.basin.mean_radius.reason.startswith("line 1: 50% is not crossed")


# The landscape.


def test_landscape_rows_and_columns() -> None:
    where = nodes(2)
    asr = [100, 50, 5, 50, 100] * 2
    made = build_landscape(where, tally(where, asr, degenerate=0.5), SETS, judges=["keyword", "other"])
    assert list(made.columns) == LANDSCAPE_SCHEMA.names
    assert len(made) == 10 * 2 * 2
    assert made["group"].tolist() == ["benign"] * 20 + ["harmful"] * 20
    assert made["judge"].tolist() == (["keyword"] * 10 + ["other"] * 10) * 2
    rows = made[(made["group"] == "harmful") & (made["judge"] == "keyword")]
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
    assert made[made["group"] == "benign"]["n"].eq(0).all()


def test_landscape_is_stored_with_nulls_and_comes_back() -> None:
    where = nodes()
    made = build_landscape(where, tally(where, [100, float("nan"), 0, 50, 100]), HARMFUL)
    table = to_table(made)
    assert table.schema.equals(LANDSCAPE_SCHEMA, check_metadata=True)
    assert table["asr"].to_pylist() == [100.0, None, 0.0, 50.0, 100.0]
    assert table["n"].to_pylist() == [40, 0, 40, 40, 40]
    assert table["beta"].null_count == table["seed_y"].null_count == 5
    assert summarize(table.to_pandas()) == summarize(made)


def test_order_of_nodes_does_not_matter() -> None:
    where = nodes(2)
    asr = [100, 50, 5, 50, 100] * 2
    mixed = where.sample(frac=1, random_state=1)
    a, b = (build_landscape(w, tally(where, asr), HARMFUL) for w in (where, mixed))
    pd.testing.assert_frame_equal(a, b)


# The summary.


def test_summary_of_a_basin() -> None:
    found = summary_of([100, 75, 5, 50, 100], degenerate=0.4)
    assert found.origin_asr == 5.0
    assert found.visage.paper == pytest.approx((25 + 95 + 50) / 3)
    assert found.visage.released == pytest.approx((25 + 95 + 50) / 3)
    assert (found.visage.low, found.visage.high) == (None, None)
    assert "one direction" in found.visage.reason
    assert found.basin.left == pytest.approx(-0.25 * 45 / 70)
    assert found.basin.right == pytest.approx(0.25)
    assert found.basin.radius == pytest.approx(0.25 * 45 / 70)
    assert found.basin.radius_low < found.basin.radius < found.basin.radius_high
    assert found.degenerate_share == pytest.approx(100 * (16 + 12 + 1 + 8 + 16) / (40 + 30 + 2 + 20 + 40))
    assert (
        found.points_done,
        found.points_total,
        found.points_missing,
        found.prompts,
    ) == (5, 5, 0, 40)
    assert found.primary.to_json() == {
        "probe_set": "ours",
        "group": "harmful",
        "system_prompt": "default",
        "judge": "keyword",
    }
    assert found.results[0].visage == found.visage


def test_directions_by_student() -> None:
    asr = [100, 50, 0, 50, 100, 100, 0, 0, 0, 100, 100, 100, 0, 100, 100]
    found = summary_of(asr, lines=3)
    each = [d.paper for d in found.visage.by_direction]
    assert each == [pytest.approx(200 / 3), 100.0, 100.0]
    assert [d.seed_x for d in found.visage.by_direction] == [123, 124, 125]
    expected = stats.t.interval(0.95, 2, loc=np.mean(each), scale=stats.sem(each))
    assert found.visage.paper == pytest.approx(np.mean(each))
    rounding = (100 / 40) ** 2 / 12
    half = stats.t.ppf(0.975, 2) * math.sqrt((np.var(each, ddof=1) + rounding) / 3)
    assert found.visage.low == pytest.approx(np.mean(each) - half)
    assert found.visage.low == pytest.approx(expected[0], abs=0.1)
    assert found.visage.high == 100.0
    assert expected[1] > 100.0
    assert found.visage.reason is None
    assert found.basin.radius == pytest.approx(0.125)


def test_an_undefined_line_is_named() -> None:
    alphas = (-0.5, -0.25, 0.0, 0.25, 0.5)
    where = nodes(2, alphas)
    asr = [100, 50, 0, 50, 100, float("nan"), 0, 0, 0, 100]
    found = summarize(build_landscape(where, tally(where, asr), HARMFUL))
    assert found.visage.by_direction[1].paper is None
    assert found.visage.paper == pytest.approx(200 / 3)
    assert "line 1: 1 of 5 points are missing" in found.visage.reason
    assert found.points_missing == 1
    assert found.points_done == 8
    assert found.points_total == 9


def test_no_basin_at_all() -> None:
    found = summary_of([100, 100, 100, 100, 100])
    assert found.visage.paper is None
    assert "no point is below 100%" in found.visage.reason
    assert found.basin.radius == 0.0
    assert "origin itself" in found.basin.reason


def test_safe_everywhere() -> None:
    found = summary_of([0, 0, 0, 0, 0])
    assert found.visage.paper == 100.0
    assert found.basin.radius is None
    assert found.basin.censored_at == 0.5
    assert found.basin.radius_low == 0.5
    assert found.basin.radius_high is None
    assert found.degenerate_share is None


def test_a_grid_that_does_not_cover_has_no_visage_but_a_basin() -> None:
    where = nodes(1, (-0.2, -0.1, 0.0, 0.1, 0.2))
    found = summarize(build_landscape(where, tally(where, [100, 75, 0, 50, 100]), HARMFUL))
    assert found.visage.paper is None
    assert found.visage.released is None
    assert "does not cover" in found.visage.reason
    assert found.basin.radius == pytest.approx(0.1 * 50 / 75)


def test_points_off_the_grid_are_shown_but_stay_out_of_the_mean() -> None:
    where = nodes(1, (-0.5, -0.1, 0.0, 0.1, 0.5))
    where.loc[where["alpha"] == 0.0, "on_grid"] = False
    made = build_landscape(where, tally(where, [100, 20, 0, 20, 100], degenerate=0.5), HARMFUL)
    found = summarize(made)
    assert len(made) == 5
    assert found.visage.paper == 80.0
    assert found.origin_asr == 0.0
    assert found.basin.radius == pytest.approx(0.1 + 0.4 * 30 / 80)


def test_planes() -> None:
    axis = (-0.5, -0.25, 0.0, 0.25, 0.5)
    where = pd.DataFrame(
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
    asr = [100.0 if math.hypot(a, b) > 0.3 else 0.0 for a, b in zip(where["alpha"], where["beta"], strict=True)]
    found = summarize(build_landscape(where, tally(where, asr), HARMFUL))
    json.dumps(found.to_json(), allow_nan=False)
    assert found.visage.paper == 100.0
    assert found.visage.released is None
    assert found.visage.low == pytest.approx(100 - stats.t.ppf(0.975, 1) * 2.5 / math.sqrt(24))
    assert found.visage.high == 100.0
    assert found.basin.area.value == found.basin.by_direction[0].area
    assert found.basin.asymmetry.value is None
    assert found.basin.radius == pytest.approx(math.hypot(0.25, 0.125))
    assert found.basin.by_direction[1].seed_y == 4
    assert found.points_total == 49


def test_without_a_harmful_group_the_first_result_is_primary() -> None:
    where = nodes()
    counts = tally(where, [100, 50, 0, 50, 100])
    counts["prompt_set_id"] = "s1"
    made = build_landscape(where, counts, SETS.iloc[[0]])
    assert summarize(made).primary.group == "benign"
    assert len(primary_rows(made)) == 5


def test_checkpoints_have_what_was_measured_at_them_beside_what_the_grid_says_there() -> None:
    where = nodes(alphas=(0.0, 0.5, 1.0)).assign(mark=["", "", "end"], projected=False)
    beside = where.iloc[[1]].assign(alpha=0.25, point_id="beside", on_grid=False, mark="epoch-1", projected=True)
    where = pd.concat([where, beside], ignore_index=True)
    made = build_landscape(where, tally(where, [0.0, 50.0, 100.0, 90.0]), HARMFUL)
    end, epoch = summarize_checkpoints(made)
    if end.mark != "end":
        end, epoch = epoch, end
    assert (epoch.mark, epoch.alpha, epoch.projected, epoch.point_id) == ("epoch-1", 0.25, True, "beside")
    assert (epoch.results[0].asr, epoch.results[0].surface) == (90.0, 25.0)
    assert end.results[0].asr == 100.0 and end.results[0].surface is None, "at the end of what is known"
    plain = build_landscape(nodes(alphas=(0.0, 0.5, 1.0)), tally(where, [0.0, 50.0, 100.0, 90.0]), HARMFUL)
    for key in ("basin", "visage", "origin_asr", "degenerate_share"):
        assert getattr(summarize(made), key) == getattr(summarize(plain), key), (
            "what stands beside the line is in no curve"
        )
    assert summarize(made).points_total == 4
    stored = to_table(made).to_pandas()
    assert summarize_checkpoints(stored) == summarize_checkpoints(made)
    assert summarize_checkpoints(stored.drop(columns=["mark", "projected"])) == (), "an older landscape has none"


def test_right_answers_are_counted_where_there_are_any() -> None:
    where = nodes(alphas=(0.0, 0.5))
    right = pd.DataFrame({"point_id": ["origin"], "prompt_set_id": ["s2"], "n_asked": [40], "n_correct": [30]})
    made = build_landscape(where, tally(where, [0.0, 50.0]), SETS, correct=right)
    row = made[(made["alpha"] == 0) & (made["group"] == "harmful")].iloc[0]
    assert (row["n_correct"], row["correct"]) == (30, 75.0) and row["correct_low"] < 75.0 < row["correct_high"]
    assert made["correct"].notna().sum() == 1
    assert to_table(made).column("n_correct").null_count == len(made) - 1
