"""Parts that verify count, each task once; the others do not, and readers find every row while parts change."""

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
from orchestrator.store.files import (
    DamagedFileError,
    StorageError,
    publish_table,
    read_table,
)
from orchestrator.store.observations import describe_tasks
from orchestrator.store.parts import TaskKey
from orchestrator.store.schemas import GENERATIONS, OBSERVED
from orchestrator.store.study import Study, StudyInfo
from tests.unit.store.studies import ENGINE, everything, generations, judge, looking, put, rows

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
def test_what_is_written_is_read(study: Study, answered: list[tuple[str, int, list[float] | None]]) -> None:
    listed = rows(study, "point", n=len(answered))
    for row, (text, n, scores) in zip(listed, answered, strict=True):
        row |= {"response": text, "n_tokens": n, "scores": scores}
    study.generations.write("visit", pa.Table.from_pylist(listed, schema=GENERATIONS), ENGINE)
    assert everything(study) == listed
    (part,) = looking(study).generations.parts()
    assert part.meta["engine"] == ENGINE and list(part.tasks) == [("point", "set")]


def test_any_reader_of_parquet_reads_a_part(study: Study) -> None:
    path = put(study, "p")
    assert pq.read_table(path).to_pylist() == rows(study, "p")
    assert pq.read_schema(path).equals(GENERATIONS)


def test_no_flipped_bit_is_let_through(study: Study) -> None:
    """Every byte of a part, one bit each (which one varies): detected, or what is read is what was written."""
    path = put(study, "p", n=5)
    whole, expected = path.read_bytes(), rows(study, "p", n=5)
    harmless = 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << random.Random(at).randrange(8)]) + whole[at + 1 :])
        try:
            found = everything(looking(study))
        except StorageError as error:
            pytest.fail(f"byte {at}: taken for a refusing disk: {error}")
        if found:
            assert found == expected, f"byte {at}"
            harmless += 1
    assert harmless < len(whole) / 2  # those in what no reader heeds


@pytest.mark.parametrize("left", [0, 1, 7, 8, 100, 0.5, 0.99, -1])
def test_a_truncated_part_does_not_count(study: Study, left: float) -> None:
    put(study, "whole")
    path = put(study, "cut")
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data)) if isinstance(left, float) else left])
    assert {point for point, _ in looking(study).generations.stored()} == {"whole"}


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1" * 50, b"hello", b"\xff" * 4 + b"PAR1", os.urandom(999)], ids=range(6)
)
def test_a_foreign_file_does_not_count(study: Study, content: bytes) -> None:
    put(study, "own")
    (study.root / "generations" / "foreign.parquet").write_bytes(content)
    (study.root / "generations" / ".hidden.parquet").write_bytes(content)
    (study.root / "generations" / "notes.txt").write_bytes(content)
    looker = looking(study)
    assert len(looker.generations.stored()) == 1
    assert {p.name for p in looker.problems} == {"foreign.parquet", ".hidden.parquet"}


def test_another_programs_parquet_does_not_count(study: Study) -> None:
    put(study, "own")
    pq.write_table(generations(study, "other"), study.root / "generations" / "other.parquet")
    assert {point for point, _ in looking(study).generations.stored()} == {"own"}


def test_a_part_of_another_study_does_not_count(study: Study, tmp_path: Path) -> None:
    other = Study.create(tmp_path / "studies", StudyInfo("other", "another fingerprint", "float32", 1))
    stranger = put(other, "q")
    put(study, "p")
    shutil.copy(stranger, study.root / "generations")
    assert {point for point, _ in study.generations.stored()} == {"p"}
    assert [path.name for path in study.damaged()] == ["q.parquet"]
    assert "belongs to study" in study.problems[study.root / "generations" / "q.parquet"]
    assert stranger.exists() and len(other.generations.stored()) == 1


def test_a_renamed_part_counts_once(study: Study) -> None:
    path = put(study, "p")
    shutil.copy(path, path.with_name("copy.parquet"))
    os.rename(path, path.with_name("renamed.parquet"))
    assert everything(looking(study)) == rows(study, "p")


def test_only_who_mends_moves_damaged_files_and_never_over_one_another(study: Study) -> None:
    for content in (b"first", b"second"):
        path = put(study, "p")
        path.write_bytes(content)
        assert looking(study).generations.stored() == {} and path.exists()
        assert study.generations.stored() == {} and not path.exists()
    assert sorted(p.read_bytes() for p in study.damaged()) == [b"first", b"second"]
    put(study, "p")
    assert everything(study) == rows(study, "p")


def test_a_part_damaged_after_the_scan_is_left_out_and_named(study: Study) -> None:
    put(study, "fine")
    path = put(study, "p")
    winners = study.generations.stored()
    data = bytearray(path.read_bytes())
    data[100] ^= 255
    path.write_bytes(data)
    assert {row["point_id"] for _, table in study.generations.rows(winners) for row in table.to_pylist()} == {"fine"}
    assert path in study.problems and not path.exists()
    assert set(study.generations.stored()) == {("fine", "set")}


def test_a_task_stored_twice_counts_once_and_the_smallest_hash_wins(study: Study) -> None:
    put(study, "one", "p", said="yes")
    put(study, "two", "p", said="no")
    first = everything(study)
    assert len(first) == 3
    winner = study.generations.stored()["p", "set"]
    assert winner.tasks["p", "set"] == min(part.tasks["p", "set"] for part in study.generations.parts())
    os.rename(study.root / "generations" / "one.parquet", study.root / "generations" / "zzz.parquet")
    assert everything(study) == first  # whatever the names and their order


def test_overlapping_parts_give_every_task_once(study: Study) -> None:
    put(study, "one", "a", "b", said="x")
    put(study, "two", "b", "c", said="y")
    found = everything(study)
    assert sorted(row["point_id"] for row in found) == sorted(["a", "b", "c"] * 3)
    assert len({row["response"] for row in found if row["point_id"] == "b"}) == 3


def test_writing_a_visit_again_leaves_one_part_and_readers_of_the_old_are_served(study: Study) -> None:
    put(study, "p", actor="first")
    winners = study.generations.stored()
    put(study, "p", actor="second")
    assert len(study.generations.parts()) == 1
    (found,) = [table.to_pylist() for _, table in study.generations.rows(winners)]
    assert found == rows(study, "p", actor="second")


def test_a_reader_of_a_part_that_says_something_else_by_now_gets_what_counts(study: Study) -> None:
    put(study, "p", said="old")
    winners = study.generations.stored()
    put(study, "p", said="new")
    assert [table.to_pylist() for _, table in study.generations.rows(winners)] == [rows(study, "p", said="new")]


def test_verdicts_hold_for_the_responses_they_were_given_on(study: Study) -> None:
    put(study, "a")
    put(study, "b")
    winners = study.generations.stored()
    judge(study, {point: winners[point, "set"].tasks[point, "set"] for point in ("a", "b")})
    known = study.judgements("j").covering(winners)
    assert set(known) == set(winners)
    assert sum(table.num_rows for _, table in study.judgements("j").rows(known)) == 6
    put(study, "a", actor="another", said="no")  # the same responses again, from elsewhere
    assert set(study.judgements("j").covering(study.generations.stored())) == set(winners)
    put(study, "a", said="something else")
    assert set(study.judgements("j").covering(study.generations.stored())) == {("b", "set")}
    assert study.judgements("another judge").covering(winners) == {}


def test_a_part_that_a_listing_does_not_show_counts_when_its_actor_said_so(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(study, "p")
    monkeypatch.setattr(observations, "_file_names", lambda folder: set())
    assert study.generations.stored() == {}
    study.generations.expect("p")
    study.generations.expect("never stored")
    assert set(study.generations.stored()) == {("p", "set")} and not study.problems


def test_tasks_of_a_table_are_described_wherever_their_rows_are(study: Study) -> None:
    together = generations(study, "a", "b")
    mixed = together.take([0, 3, 1, 4, 2, 5])
    observed = OBSERVED["generations"]
    described = describe_tasks(together, observed)
    assert described == describe_tasks(mixed, observed)
    assert [entry[:3] for entry in described] == [["a", "set", 3], ["b", "set", 3]]
    keys: set[TaskKey] = {(point, set_id) for point, set_id, _, _ in described}
    assert len(keys) == 2 and json.dumps(described)


def test_a_table_of_other_columns_is_not_a_part(study: Study) -> None:
    path = study.root / "generations" / "odd.parquet"
    table = pa.table({"point_id": ["p"], "prompt_set_id": ["set"]})
    meta = {"study_id": study.id, "tasks": [["p", "set", 1, "x"]]}
    publish_table(study.out, path, table, meta)
    with pytest.raises(DamagedFileError, match="columns"):
        read_table(path, GENERATIONS)
    looker = looking(study)
    assert list(looker.generations.rows(looker.generations.stored())) == [] and path in looker.problems
