"""The landscape: its rows and columns, and what is stored of it."""

from __future__ import annotations

import pandas as pd
import pytest

from orchestrator.analysis.landscape import LANDSCAPE_SCHEMA, build_landscape, to_table, with_all_counts
from orchestrator.analysis.summary.sweep import summarize
from orchestrator.scoring.counts import SUMS
from tests.unit.analysis.small_sweeps import HARMFUL, SETS, grid_nodes, tally


def test_the_rows_and_columns_of_the_landscape() -> None:
    nodes = grid_nodes(2)
    asr = [100, 50, 5, 50, 100] * 2
    counts = tally(nodes, asr, degenerate=0.5, unclear=0.2)
    landscape = build_landscape(nodes, counts, SETS, judges=["keyword", "other"])
    assert list(landscape.columns) == LANDSCAPE_SCHEMA.names
    assert len(landscape) == 10 * 2 * 2
    assert landscape["group"].tolist() == ["benign"] * 20 + ["harmful"] * 20
    assert landscape["judge"].tolist() == (["keyword"] * 10 + ["other"] * 10) * 2
    rows = landscape[(landscape["group"] == "harmful") & (landscape["judge"] == "keyword")]
    assert rows["asr"].tolist() == asr
    assert rows["alpha"].tolist() == [-0.5, -0.25, 0.0, 0.25, 0.5] * 2
    assert (rows["point_id"] == "origin").sum() == 2
    first = rows.iloc[0]
    assert first[SUMS].tolist() == [40, 0, 12, 20, 8]
    assert (first["complied"], first["degenerate"], first["unclear"]) == (30.0, 50.0, 20.0)
    assert (rows["asr"] == rows["complied"] + rows["degenerate"] + rows["unclear"]).all()
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


def test_a_landscape_of_version_2_is_read_without_unclear_responses() -> None:
    nodes = grid_nodes()
    landscape = build_landscape(nodes, tally(nodes, [100, float("nan"), 0, 50, 100], unclear=0.5), HARMFUL)
    stored = to_table(landscape).to_pandas()
    assert stored["n_unclear"].tolist() == [20, 0, 0, 10, 20]
    pd.testing.assert_frame_equal(with_all_counts(stored), stored)
    assert to_table(landscape).schema.metadata[b"schema"] == b"landscape/5"
    earlier = with_all_counts(stored[stored.columns[: stored.columns.get_loc("n_unclear")]])
    assert earlier["n_unclear"].tolist() == [0] * 5
    assert earlier["unclear"].fillna(-1).tolist() == [0, -1, 0, 0, 0], "null where nothing is measured"
    assert list(earlier.columns) == LANDSCAPE_SCHEMA.names


def test_the_order_of_nodes_does_not_matter() -> None:
    nodes = grid_nodes(2)
    asr = [100, 50, 5, 50, 100] * 2
    shuffled = nodes.sample(frac=1, random_state=1)
    first, second = (build_landscape(table, tally(nodes, asr), HARMFUL) for table in (nodes, shuffled))
    pd.testing.assert_frame_equal(first, second)


def test_correct_answers_are_counted_if_there_are_any() -> None:
    nodes = grid_nodes(alphas=(0.0, 0.5))
    key = {"point_id": ["origin"], "prompt_set_id": ["s2"]}
    correct = pd.DataFrame({**key, "n_asked": [40], "n_correct": [30], "n_nonfinite": [2]})
    landscape = build_landscape(nodes, tally(nodes, [0.0, 50.0]), SETS, correct=correct)
    row = landscape[(landscape["alpha"] == 0) & (landscape["group"] == "harmful")].iloc[0]
    assert (row["n_correct"], row["correct"]) == (30, 75.0) and row["correct_low"] < 75.0 < row["correct_high"]
    assert landscape["correct"].notna().sum() == 1
    assert row["n_nonfinite"] == 2 == landscape["n_nonfinite"].sum()
    assert to_table(landscape).column("n_correct").null_count == len(landscape) - 1
