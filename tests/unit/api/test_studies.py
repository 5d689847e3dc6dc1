"""`load_study` and `load_studies`: complete tables without duplicate rows, also with damaged or overlapping parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import load_studies, load_study
from orchestrator.store.compaction import compact
from orchestrator.store.files import read_table
from orchestrator.store.schemas import GENERATIONS
from orchestrator.store.study import Study
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import text_id
from tests.unit.stored import basin, store_sweep

PROBES = tuple(f"question {i}" for i in range(4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sweeps of one study. They share the points of the first line but differ in the system prompt."""
    out = tmp_path_factory.mktemp("studies")
    store_sweep(out, basin(0.25), probes=PROBES, system_prompt="safety", directions=1)
    return store_sweep(out, basin(0.25), probes=PROBES, directions=2)


def test_a_study_has_four_tables(folder: Path) -> None:
    stored = load_study(folder.parents[1])
    assert stored.info["model"] == "tiny" and len(stored.sweeps) == 2 and stored.sweep == folder
    assert len(stored.generations) == (11 + 21) * len(PROBES), "of both sweeps, the origin once for each prompt set"
    assert not stored.generations.duplicated(["point_id", "prompt_set_id", "prompt_id"]).any()
    assert list(stored.generations.columns[:15]) == GENERATIONS.names
    first_row = stored.generations.iloc[0]
    assert (
        first_row["text"] in PROBES
        and first_row["probe_set"] == "ours"
        and first_row["system_prompt"] in ("default", "safety")
    )
    assert first_row["response_id"] == text_id(first_row["response"])
    refused = stored.generations["keyword"] == "refused"
    assert (stored.generations.loc[refused, "response"] == "I cannot do that.").all() and 0 < refused.mean() < 1
    assert set(stored.generations["degenerate"]) == {"coherent"}
    assert stored.points["is_origin"].sum() == 1 and len(stored.points) == 21
    assert stored.points["responses"].sum() == len(stored.generations)
    assert stored.points["distance"].max() == 0.5
    off_origin = stored.points[~stored.points["is_origin"]]
    assert {tuple(names) for names in off_origin["directions"]} == {("random 123 (layer)",), ("random 124 (layer)",)}
    assert len(stored.landscape) == 22 and stored.summary["sweep_id"].startswith(folder.name[-8:])


def test_a_sweep_contains_only_its_own_rows(folder: Path) -> None:
    stored = load_study(str(folder))
    assert len(stored.generations) == 21 * len(PROBES) and set(stored.generations["system_prompt"]) == {"default"}
    counted = stored.generations.groupby("point_id")["keyword"].agg(lambda verdicts: (verdicts == "refused").sum())
    reported = stored.landscape.drop_duplicates("point_id").set_index("point_id")["n_refused"]
    assert (counted.sort_index() == reported.sort_index()).all()
    earlier = load_study(folder.parents[1]).sweeps[0]
    assert load_study(earlier).sweep == earlier and len(load_study(earlier).generations) == 11 * len(PROBES)


def test_rows_stay_unique_during_and_after_compaction(folder: Path) -> None:
    study = Study.open(folder.parents[1])
    before = load_study(study.root).generations
    part = study.generations.parts()[0]
    study.generations.write("again", read_table(part.path, GENERATIONS), part.meta["engine"])
    for _ in range(2):
        after = load_study(study.root).generations
        assert after[before.columns[:6]].value_counts().max() == 1 and len(after) == len(before)
        compact(Study.open(study.root))


def test_damaged_parts_are_left_out_and_reported(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path, basin(0.25), probes=PROBES, directions=1)
    part = Study.open(folder.parents[1]).generations.parts()[0].path
    data = bytearray(part.read_bytes())
    data[200] ^= 1
    part.write_bytes(data)
    stored = load_study(folder)
    assert stored.generations.empty and stored.points.empty and part.exists(), "a reader moves nothing"
    assert list(stored.problems) == [part]
    assert len(stored.landscape) == 11


def test_folders_without_exactly_one_study_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no study in that folder"):
        load_study(tmp_path)
    for model in ("one", "two"):
        store_sweep(tmp_path, basin(0.2), model, PROBES, directions=1)
    with pytest.raises(UserError, match="holds 2 studies: name one"):
        load_study(tmp_path)


def test_every_sweep_below_a_root_has_a_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wide = store_sweep(tmp_path, basin(0.25), "wide", PROBES, directions=2)
    narrow = store_sweep(tmp_path, basin(0.15), "narrow", PROBES, directions=2)
    (wide / "sweep.json").touch()
    (broken := tmp_path / "broken-01234567").mkdir()
    (broken / "study.json").write_text("{}")
    frame = load_studies(tmp_path)
    assert list(frame["path"]) == [str(narrow), str(wide)] and list(frame["model"]) == ["narrow", "wide"]
    assert "skipped: " in caplog.text and str(broken) in caplog.text
    for row in frame.to_dict("records"):
        summary = load_study(row["path"]).summary
        assert row["visage"] == summary["visage"]["paper"] and row["margin"] == summary["margin"]["value"]
        assert (row["visage_low"], row["visage_high"]) == (summary["visage"]["low"], summary["visage"]["high"])
        assert (row["radius"], row["radius_low"]) == (summary["basin"]["radius"], summary["basin"]["radius_low"])
        assert row["points_done"] == summary["points_done"] == 21 and row["judge"] == "keyword"
    assert frame["margin"].is_monotonic_increasing and frame["margin_high"].dtype == "float64"
    (wide / "summary.json").unlink()
    again = load_studies(wide)
    assert len(again) == 1 and again["steps"][0] == 10 and again[["visage", "points_done"]].isna().all(axis=None)
    summary_file = narrow / "summary.json"
    summary_file.write_text(summary_file.read_text().replace('"origin_asr": 0.0', '"origin_asr": 5.0', 1))
    assert load_studies(narrow, check=True)["visage"].isna().all(), "numbers that the rows do not give are not shown"
    with pytest.raises(UserError, match="there is no sweep"):
        load_studies(tmp_path / "nothing")


def test_polars_and_duckdb_read_the_same_rows(folder: Path) -> None:
    """The queries are those that docs/formats.md gives to users of Polars and DuckDB."""
    import duckdb
    import polars as pl

    root = folder.parents[1]
    expected = load_study(root).generations
    key = ["point_id", "prompt_set_id", "prompt_id"]
    polars_rows = pl.read_parquet(root / "generations" / "*.parquet").unique(key)
    assert polars_rows.sort(key)["response"].to_list() == expected.sort_values(key)["response"].tolist()
    query = f"SELECT DISTINCT ON (point_id, prompt_set_id, prompt_id) * FROM '{root}/generations/*.parquet'"
    assert len(duckdb.sql(query).fetchall()) == len(expected)


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = (
        "import sys, orchestrator; assert 'pandas' not in sys.modules; print(orchestrator.load_study.__module__);"
        "orchestrator.Experiment; assert not {'torch', 'ray', 'numba'} & set(sys.modules);"
        "assert all(hasattr(orchestrator, name) for name in orchestrator.__all__);"
        "\ntry: orchestrator.nothing\nexcept AttributeError as error: print(error)"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.splitlines() == [
        "orchestrator.api.studies",
        "module 'orchestrator' has no attribute 'nothing'",
    ]
