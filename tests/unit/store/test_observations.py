"""Parts of observations: intact parts count, each task once, and readers find every row while parts change."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.store import observations
from orchestrator.store.errors import StorageError
from orchestrator.store.files import (
    DamagedFileError,
    publish_table,
    read_table,
)
from orchestrator.store.observations import describe_tasks
from orchestrator.store.parts import TaskKey
from orchestrator.store.schemas import GENERATIONS, OBSERVED
from orchestrator.store.study import Study, StudyInfo
from tests.unit.store.studies import ENGINE, all_rows, generations, judge, reopen, rows, write_part

pytestmark = pytest.mark.thorough


responses = st.lists(
    st.tuples(
        st.text(max_size=30),
        st.integers(0, 2**31 - 1),
        st.none() | st.lists(st.floats(width=32, allow_nan=False), max_size=3),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(responses)
def test_rows_are_read_as_written(study: Study, results: list[tuple[str, int, list[float] | None]]) -> None:
    expected = rows(study, "point", n=len(results))
    for row, (text, n, scores) in zip(expected, results, strict=True):
        row |= {"response": text, "n_tokens": n, "scores": scores}
    study.generations.write("visit", pa.Table.from_pylist(expected, schema=GENERATIONS), ENGINE)
    assert all_rows(study) == expected
    (part,) = reopen(study).generations.parts()
    assert part.meta["engine"] == ENGINE and list(part.tasks) == [("point", "set")]


def test_a_part_is_plain_parquet(study: Study) -> None:
    path = write_part(study, "p")
    assert pq.read_table(path).to_pylist() == rows(study, "p")
    assert pq.read_schema(path).equals(GENERATIONS)


def test_every_flipped_bit_is_detected_or_harmless(study: Study) -> None:
    """Flip one bit in every byte of a part: the damage is detected, or the rows read are those written."""
    path = write_part(study, "p", n=5)
    content, expected = path.read_bytes(), rows(study, "p", n=5)
    harmless = 0
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << random.Random(at).randrange(8)]) + content[at + 1 :])
        try:
            read = all_rows(reopen(study))
        except StorageError as error:
            pytest.fail(f"byte {at}: reported as a disk error: {error}")
        if read:
            assert read == expected, f"byte {at}"
            harmless += 1
    assert harmless < len(content) / 2  # bits that no reader interprets


@pytest.mark.parametrize("kept_size", [0, 1, 7, 8, 100, 0.5, 0.99, -1])
def test_a_truncated_part_is_ignored(study: Study, kept_size: float) -> None:
    write_part(study, "whole")
    path = write_part(study, "cut")
    data = path.read_bytes()
    path.write_bytes(data[: int(kept_size * len(data)) if isinstance(kept_size, float) else kept_size])
    assert {point for point, _ in reopen(study).generations.stored()} == {"whole"}


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1" * 50, b"hello", b"\xff" * 4 + b"PAR1", os.urandom(999)], ids=range(6)
)
def test_a_foreign_file_is_ignored(study: Study, content: bytes) -> None:
    write_part(study, "own")
    (study.root / "generations" / "foreign.parquet").write_bytes(content)
    (study.root / "generations" / ".hidden.parquet").write_bytes(content)
    (study.root / "generations" / "notes.txt").write_bytes(content)
    reader = reopen(study)
    assert len(reader.generations.stored()) == 1
    assert {p.name for p in reader.problems} == {"foreign.parquet", ".hidden.parquet"}


def test_parquet_files_of_other_programs_are_ignored(study: Study) -> None:
    write_part(study, "own")
    pq.write_table(generations(study, "other"), study.root / "generations" / "other.parquet")
    assert {point for point, _ in reopen(study).generations.stored()} == {"own"}


def test_a_part_of_another_study_is_rejected(study: Study, tmp_path: Path) -> None:
    other = Study.create(tmp_path / "studies", StudyInfo("other", "another fingerprint", "float32", 1))
    foreign_part = write_part(other, "q")
    write_part(study, "p")
    shutil.copy(foreign_part, study.root / "generations")
    assert {point for point, _ in study.generations.stored()} == {"p"}
    assert [path.name for path in study.damaged()] == ["q.parquet"]
    assert "belongs to study" in study.problems[study.root / "generations" / "q.parquet"]
    assert foreign_part.exists() and len(other.generations.stored()) == 1


def test_a_renamed_part_counts_once(study: Study) -> None:
    path = write_part(study, "p")
    shutil.copy(path, path.with_name("copy.parquet"))
    os.rename(path, path.with_name("renamed.parquet"))
    assert all_rows(reopen(study)) == rows(study, "p")


def test_only_a_repairing_study_moves_damaged_files_and_keeps_them_all(study: Study) -> None:
    for content in (b"first", b"second"):
        path = write_part(study, "p")
        path.write_bytes(content)
        assert reopen(study).generations.stored() == {} and path.exists()
        assert study.generations.stored() == {} and not path.exists()
    assert sorted(p.read_bytes() for p in study.damaged()) == [b"first", b"second"]
    write_part(study, "p")
    assert all_rows(study) == rows(study, "p")


def test_a_part_damaged_after_the_scan_is_left_out_and_reported(study: Study) -> None:
    write_part(study, "fine")
    path = write_part(study, "p")
    winners = study.generations.stored()
    data = bytearray(path.read_bytes())
    data[100] ^= 255
    path.write_bytes(data)
    assert {row["point_id"] for _, table in study.generations.rows(winners) for row in table.to_pylist()} == {"fine"}
    assert path in study.problems and not path.exists()
    assert set(study.generations.stored()) == {("fine", "set")}


def test_a_task_stored_twice_counts_once_and_the_smallest_hash_wins(study: Study) -> None:
    write_part(study, "one", "p", response="yes")
    write_part(study, "two", "p", response="no")
    first = all_rows(study)
    assert len(first) == 3
    winner = study.generations.stored()["p", "set"]
    assert winner.tasks["p", "set"] == min(part.tasks["p", "set"] for part in study.generations.parts())
    os.rename(study.root / "generations" / "one.parquet", study.root / "generations" / "zzz.parquet")
    assert all_rows(study) == first  # independent of the files' names and order


def test_overlapping_parts_yield_every_task_once(study: Study) -> None:
    write_part(study, "one", "a", "b", response="x")
    write_part(study, "two", "b", "c", response="y")
    all_read = all_rows(study)
    assert sorted(row["point_id"] for row in all_read) == sorted(["a", "b", "c"] * 3)
    assert len({row["response"] for row in all_read if row["point_id"] == "b"}) == 3


def test_rewriting_a_visit_leaves_one_part_and_serves_earlier_readers(study: Study) -> None:
    write_part(study, "p", actor="first")
    winners = study.generations.stored()
    write_part(study, "p", actor="second")
    assert len(study.generations.parts()) == 1
    (read,) = [table.to_pylist() for _, table in study.generations.rows(winners)]
    assert read == rows(study, "p", actor="second")


def test_a_reader_of_a_replaced_part_gets_the_current_rows(study: Study) -> None:
    write_part(study, "p", response="old")
    winners = study.generations.stored()
    write_part(study, "p", response="new")
    assert [table.to_pylist() for _, table in study.generations.rows(winners)] == [rows(study, "p", response="new")]


def test_verdicts_count_only_for_the_responses_that_were_judged(study: Study) -> None:
    write_part(study, "a")
    write_part(study, "b")
    winners = study.generations.stored()
    judge(study, {point: winners[point, "set"].tasks[point, "set"] for point in ("a", "b")})
    known = study.judgements("j").parts_for(winners)
    assert set(known) == set(winners)
    assert sum(table.num_rows for _, table in study.judgements("j").rows(known)) == 6
    write_part(study, "a", actor="another", response="no")  # the same responses from another actor
    assert set(study.judgements("j").parts_for(study.generations.stored())) == set(winners)
    write_part(study, "a", response="something else")
    assert set(study.judgements("j").parts_for(study.generations.stored())) == {("b", "set")}
    assert study.judgements("another judge").parts_for(winners) == {}


def test_an_announced_part_counts_although_the_listing_omits_it(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    write_part(study, "p")
    monkeypatch.setattr(observations, "_file_names", lambda folder: set())
    assert study.generations.stored() == {}
    study.generations.add_expected_part("p")
    study.generations.add_expected_part("never stored")
    assert set(study.generations.stored()) == {("p", "set")} and not study.problems


def test_tasks_are_described_alike_in_any_row_order(study: Study) -> None:
    together = generations(study, "a", "b")
    mixed = together.take([0, 3, 1, 4, 2, 5])
    observed = OBSERVED["generations"]
    described = describe_tasks(together, observed)
    assert described == describe_tasks(mixed, observed)
    assert [entry[:3] for entry in described] == [["a", "set", 3], ["b", "set", 3]]
    keys: set[TaskKey] = {(point, set_id) for point, set_id, _, _ in described}
    assert len(keys) == 2 and json.dumps(described)


def test_a_table_with_other_columns_is_not_a_part(study: Study) -> None:
    path = study.root / "generations" / "odd.parquet"
    table = pa.table({"point_id": ["p"], "prompt_set_id": ["set"]})
    meta = {"study_id": study.id, "tasks": [["p", "set", 1, "x"]]}
    publish_table(study.out, path, table, meta)
    with pytest.raises(DamagedFileError, match="columns"):
        read_table(path, GENERATIONS)
    reader = reopen(study)
    assert list(reader.generations.rows(reader.generations.stored())) == [] and path in reader.problems
