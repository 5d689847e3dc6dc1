"""The study folder: what is stored verifies or does not count, and readers see the old or the new, never half."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.store import files, observations
from orchestrator.store.discovery import find_study_roots
from orchestrator.store.events import read_all_events
from orchestrator.store.files import (
    DamagedFileError,
    MissingFileError,
    StorageError,
    publish,
    publish_json,
    publish_table,
    read_json,
    read_table,
    table_hash,
)
from orchestrator.store.observations import describe_tasks
from orchestrator.store.parts import TaskKey
from orchestrator.store.records import SweepRecord
from orchestrator.store.schemas import GENERATIONS, JUDGEMENTS, OBSERVED
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.temporary import create_disk_token, remove_disk_token, remove_stale_files, sees_disk
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.utils.errors import UserError

INFO = StudyInfo("tiny", "fingerprint", "float32", 1, "made up")
ENGINE = {"engine": "dummy", "version": 1}
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system of its own takes root")


def rows(
    study: Study, point: str, set_id: str = "set", n: int = 3, said: str = "no", actor: str = "a"
) -> list[dict[str, Any]]:
    return [
        {
            "study_id": study.id,
            "point_id": point,
            "point": "[]",
            "prompt_set_id": set_id,
            "prompt_id": f"prompt {i}",
            "group": "harmful",
            "response": f"{said} {i}",
            "finish_reason": "stop",
            "n_tokens": 2,
            "n_prompt_tokens": 7,
            "scores": [0.5, -1.0] if i % 2 else None,
            "engine_id": "e",
            "actor": actor,
            "started_at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
            "seconds": 1.5,
        }
        for i in range(n)
    ]


def generations(study: Study, *points: str, **how: Any) -> pa.Table:
    return pa.Table.from_pylist([row for point in points for row in rows(study, point, **how)], schema=GENERATIONS)


def put(study: Study, name: str, *points: str, **how: Any) -> Path:
    study.generations.write(name, generations(study, *(points or (name,)), **how), ENGINE)
    return study.root / "generations" / f"{name}.parquet"


def everything(study: Study) -> list[dict[str, Any]]:
    return [row for _, table in study.generations.rows(study.generations.stored()) for row in table.to_pylist()]


def looking(study: Study) -> Study:
    """The same study for one who only looks."""
    return Study.open(study.root)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create(tmp_path / "studies", INFO)


# Round trips.

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


prompts = st.builds(
    Prompt,
    text=st.text(max_size=20),
    group=st.just("harmful"),
    category=st.text(max_size=5),
    pair_id=st.none() | st.text(max_size=5),
    target=st.none() | st.text(max_size=5),
    choices=st.lists(st.text(max_size=3), max_size=2).map(tuple),
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(prompts, st.text(max_size=9), st.lists(st.integers(0, 2**31 - 1), max_size=4)), max_size=4),
    st.builds(Sampling, st.integers(1, 999), st.lists(st.text(max_size=4)).map(tuple), st.just(("A", "B"))),
)
def test_prompt_sets_come_back_with_their_ids(
    study: Study, asked: list[tuple[Prompt, str, list[int]]], sampling: Sampling
) -> None:
    stored = PromptSet(
        group="harmful",
        prompts=tuple(p for p, _, _ in asked),
        rendered=tuple(r for _, r, _ in asked),
        token_ids=tuple(tuple(t) for _, _, t in asked),
        sampling=sampling,
        probe_set="ours",
        system_prompt="empty",
    )
    shutil.rmtree(study.root / "prompts", ignore_errors=True)  # categories are in no identity: the first ones stay
    study.prompt_sets.write(stored)
    study.prompt_sets.write(stored)
    assert looking(study).prompt_sets.read(stored.id) == stored


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=5).filter(lambda key: key != files.CHECK), json_values, max_size=4))
def test_documents_come_back(tmp_path: Path, document: dict[str, Any]) -> None:
    path = tmp_path / "document.json"
    with contextlib.suppress(ValueError):  # an infinite number is no JSON
        publish_json(tmp_path, path, document)
        assert read_json(path) == document


def test_directions_are_stored_once_for_their_model(study: Study, tmp_path: Path) -> None:
    scalars = pa.table({"tensor": ["a", "b"], "on_self": [0.5, 2.0]})
    assert study.directions.read("d") is None
    study.directions.write("d", {"kind": "random"}, scalars)
    assert study.directions.read("d").equals(scalars)
    other = Study.create(tmp_path / "studies", StudyInfo("other", "another fingerprint", "float32", 1))
    (other.root / "directions").mkdir()
    shutil.copy(study.root / "directions" / "d.parquet", other.root / "directions")
    assert other.directions.read("d") is None
    assert [p.name for p in other.damaged()] == ["d.parquet"]


# The content hash is that of values, not of their layout.

tables = st.lists(
    st.tuples(
        st.none() | st.text(max_size=3),
        st.none() | st.integers(-5, 5),
        st.none() | st.lists(st.none() | st.floats(-2, 2, width=32), max_size=2),
        st.none() | st.booleans(),
    ),
    max_size=6,
)
SCHEMA = pa.schema([("t", pa.string()), ("i", pa.int32()), ("l", pa.list_(pa.float32())), ("b", pa.bool_())])


def tabulated(values: list[Any]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip("tilb", row, strict=True)) for row in values], schema=SCHEMA)


@settings(deadline=None)
@given(tables, tables)
def test_equal_tables_have_equal_hashes_and_others_others(one: list[Any], other: list[Any]) -> None:
    a, b = tabulated(one), tabulated(other)
    same = repr(a.to_pylist()) == repr(b.to_pylist())
    assert (table_hash(a) == table_hash(b)) == same


@settings(deadline=None)
@given(tables, tables, tables)
def test_slices_and_chunks_do_not_change_a_hash(before: list[Any], own: list[Any], after: list[Any]) -> None:
    within = pa.concat_tables([tabulated(before), tabulated(own[:1]), tabulated(own[1:]), tabulated(after)])
    sliced = within.slice(len(before), len(own))
    assert table_hash(sliced) == table_hash(sliced.combine_chunks()) == table_hash(tabulated(own))


def test_hash_known_answer() -> None:
    """Stored files hold it: a change here makes every stored file look damaged."""
    assert (
        table_hash(tabulated([("é", 1, [0.5, None], True), (None, None, None, None)]))
        == "976d3adfed00f45c7417a4e5e5333cfe"
    )
    words = pa.list_(pa.string())
    assert [
        table_hash(pa.table({"w": pa.array(values, words)})) for values in ([], [None, None], [["a"], None, []])
    ] == [
        "258d4df013830ac07b5fbaf4b0a898c5",
        "da83dcc474cbc7608512f093ba62ea07",
        "c07e4187e6fa7707fce601efdcbaf452",
    ]


# Damage.


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


@pytest.mark.parametrize("document", ["study.json", "sweeps/s/sweep.json"])
def test_no_flipped_bit_in_a_document_is_let_through(study: Study, document: str) -> None:
    path = study.root / document
    if not path.exists():
        SweepFolder(study, path.parent).write_record(
            SweepRecord(sweep_id="0", name="s", request={"grid": {"seed": 123}})
        )
    whole, expected = path.read_bytes(), read_json(path)
    for at in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            with contextlib.suppress(DamagedFileError):
                assert read_json(path) == expected


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


def test_a_damaged_study_json_is_written_again_and_its_parts_stay(study: Study) -> None:
    put(study, "p")
    path = study.root / "study.json"
    text = path.read_text()
    path.write_text(text.replace(study.id, "0" * 16))
    with pytest.raises(UserError, match="does not verify"):
        Study.open(study.root)
    again = Study.create(study.out, INFO)
    assert again.id == study.id and len(again.generations.stored()) == 1
    assert path.read_text() == text and len(again.damaged()) == 1


def test_a_stranger_with_a_stamp_of_its_own_is_not_a_study(study: Study) -> None:
    document = {**study.info.to_json(), "fingerprint": "another"}
    publish_json(study.out, study.root / "study.json", document)
    with pytest.raises(UserError, match="not that of its model"):
        Study.open(study.root)


def test_a_damaged_prompt_set_is_stored_again(study: Study) -> None:
    asked = PromptSet("harmful", (Prompt("how?"),), ("how?",), ((1,),), Sampling(8))
    with pytest.raises(MissingFileError):
        study.prompt_sets.read(asked.id)
    study.prompt_sets.write(asked)
    path = study.root / "prompts" / f"{asked.id}.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedFileError):
        study.prompt_sets.read(asked.id)
    study.prompt_sets.write(asked)
    assert study.prompt_sets.read(asked.id) == asked and len(study.damaged()) == 1


# Twice.


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


# Judgements.


def judge(study: Study, points: dict[str, str], verdict: str = "refused") -> None:
    """Store a verdict on every response of these points; the values say what was judged."""
    table = pa.Table.from_pylist(
        [
            {
                "judge_id": "j",
                "point_id": row["point_id"],
                "prompt_set_id": "set",
                "prompt_id": row["prompt_id"],
                "response_id": "r",
                "verdict": verdict,
                "score": None,
            }
            for point in points
            for row in rows(study, point)
        ],
        schema=JUDGEMENTS,
    )
    study.judgements("j").write(table, {(point, "set"): observed for point, observed in points.items()})


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


# A disk that refuses.


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@NEEDS_ROOT
def test_a_full_disk_is_named_and_harms_nothing(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "256k") as out:
        study = Study.create(out, INFO)
        written = 0
        with pytest.raises(StorageError, match="No space left on device") as refused:  # noqa: PT012 - any of them
            while written < 200:
                put(study, f"visit{written}", f"point{written}")
                written += 1
        assert refused.value.field == "out" and written > 2
        assert len(looking(study).generations.stored()) == written and not looking(study).problems
        assert list((out / files.TMP).iterdir()) == []
        with pytest.raises(StorageError):
            publish(out, study.root / "study.json", lambda path: path.write_bytes(b"x" * (1 << 20)))
        assert Study.open(study.root).id == study.id
        study.events("run").write("an event")  # is lost, and stops nothing
        shutil.rmtree(study.root / "sweeps", ignore_errors=True)
        next((study.root / "generations").iterdir()).unlink()
        put(study, "again", "point0")


@NEEDS_ROOT
def test_a_read_only_disk_is_named_and_can_be_read(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "1m") as out:
        study = Study.create(out, INFO)
        put(study, "p")
        damaged = put(study, "q")
        damaged.write_bytes(b"")
        subprocess.run(["mount", "-o", "remount,ro", out], check=True)
        with pytest.raises(StorageError, match="Read-only file system"):
            put(study, "r")
        with pytest.raises(UserError, match="read-only"):
            files.check_writable(out)
        assert everything(study) == rows(study, "p")  # even where it would mend
        assert damaged in study.problems


def test_lost_permission_is_named_and_nothing_is_taken_for_damaged(study: Study) -> None:
    path = put(study, "p")
    path.chmod(0)
    folder = study.root / "generations"
    try:
        if os.access(path, os.R_OK):
            pytest.skip("the superuser may read everything")
        with pytest.raises(StorageError, match="Permission denied"):
            study.generations.stored()
        folder.chmod(0o500)
        with pytest.raises(StorageError, match="Permission denied"):
            put(study, "q")
    finally:
        folder.chmod(0o700)
        path.chmod(0o600)
    assert everything(study) == rows(study, "p")


def test_a_disk_that_fails_to_read_is_not_taken_for_damage(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    put(study, "p")

    def fail(*args: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", fail)
        with pytest.raises(StorageError, match="Input/output error"):
            study.generations.stored()
    assert len(study.generations.stored()) == 1 and not study.problems


@pytest.mark.parametrize("where", ["file", "below"])
def test_a_file_cannot_hold_studies(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" if where == "file" else tmp_path / "file" / "below"
    with pytest.raises(UserError, match="is a file"):
        Study.create(out, INFO)


def test_what_fails_to_be_written_leaves_nothing(study: Study) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        publish(study.out, study.root / "study.json", fail)
    assert Study.open(study.root).id == study.id
    assert list((study.out / files.TMP).iterdir()) == []


# Readers beside writers.


def test_readers_see_the_old_or_the_new(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document written again and again while it is read: never half, never missing."""
    monkeypatch.setattr(files, "_flush", lambda path: None)  # a busy disk takes a minute for it
    path = study.root / "sweeps" / "s" / "sweep.json"
    publish_json(study.out, path, {"runs": [0] * 500})
    stop = threading.Event()

    def write() -> None:
        n = 1
        while not stop.is_set():
            publish_json(study.out, path, {"runs": [n] * 500})
            n += 1

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[tuple[int, ...]] = []
    until = time.monotonic() + 60
    try:
        while len(seen) < 300 or (len(set(seen)) < 2 and time.monotonic() < until):
            seen.append(tuple(set(read_json(path)["runs"])))
    finally:
        stop.set()
        writer.join()
    assert all(len(values) == 1 for values in seen) and len(set(seen)) > 1


def test_a_part_that_a_listing_does_not_show_counts_when_its_actor_said_so(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(study, "p")
    monkeypatch.setattr(observations, "_file_names", lambda folder: set())
    assert study.generations.stored() == {}
    study.generations.expect("p")
    study.generations.expect("never stored")
    assert set(study.generations.stored()) == {("p", "set")} and not study.problems


# Tokens, events, leftovers, places.


def test_a_token_tells_who_sees_this_disk(study: Study, tmp_path: Path) -> None:
    token = create_disk_token(study.out)
    assert sees_disk(study.out, token)
    assert not sees_disk(tmp_path / "elsewhere", token)
    remove_disk_token(study.out, token)
    assert not sees_disk(study.out, token) and not sees_disk(study.out, "")


def test_events_survive_a_cut_line(study: Study) -> None:
    log = study.events("20260101T000000-1")
    log.write("visit_done", tokens=3)
    with open(log.path, "a") as file:
        file.write('{"at": 1.0, "event": "cut sho')
    study.events("20260102T000000-1").write("run_started", why="é\n")
    assert [e["event"] for e in read_all_events(study.root)] == ["visit_done", "run_started"]
    assert list(study.events("no such run").read()) == []


def test_old_temporary_files_are_swept_up_and_new_ones_left(study: Study) -> None:
    folder = study.out / files.TMP
    day = 24 * 3600
    token, lost = create_disk_token(study.out), create_disk_token(study.out)  # of a run of weeks, and of one long dead
    for name, age in (("old", 2 * day), ("new", 60), (token, 10 * day), (lost, 40 * day)):
        (folder / name).write_text("")
        at = datetime.datetime.now().timestamp() - age
        os.utime(folder / name, (at, at))
    remove_stale_files(study.out)
    assert sorted(p.name for p in folder.iterdir()) == ["new", token]
    assert sees_disk(study.out, token)


def test_studies_are_found_and_looking_changes_nothing(study: Study, tmp_path: Path) -> None:
    before = sorted(study.out.rglob("*"))
    assert find_study_roots(study.out) == [study.root]
    assert Study.locate(study.out, INFO).root == study.root
    with pytest.raises(UserError, match="there is no study in that folder"):
        find_study_roots(tmp_path / "nowhere")
    assert looking(study).generations.stored() == {}
    with pytest.raises(UserError, match=r"no study\.json"):
        Study.open(tmp_path)
    assert sorted(study.out.rglob("*")) == before


def test_the_latest_used_sweep_is_last(study: Study) -> None:
    for name, at in (("a", 2), ("b", 3), ("c", 1)):
        folder = study.root / "sweeps" / f"{name}-01234567"
        SweepFolder(study, folder).write_record(SweepRecord(sweep_id="0", name=name, request={}))
        os.utime(folder / "sweep.json", (at, at))
    assert [folder.path.name for folder in SweepFolder.all_of(study)] == ["c-01234567", "a-01234567", "b-01234567"]
    assert SweepFolder.all_of(study)[0].read_record().name == "c"
    with pytest.raises(MissingFileError):
        SweepFolder(study, study.root / "sweeps" / "none").read_record()


def test_answers_are_stored_whole(study: Study) -> None:
    folder = study.root / "sweeps" / "s-00000000"
    table = pa.table({"alpha": [0.0, 0.5], "asr": [None, 100.0]})
    SweepFolder(study, folder).write_landscape(table)
    SweepFolder(study, folder).write_summary({"points_done": 2})
    frame, summary = SweepFolder(study, folder).read_landscape()
    assert frame["asr"].isna().tolist() == [True, False] and summary == {"points_done": 2}
    picture = SweepFolder(study, folder).write_figure("landscape.png", lambda path: path.write_bytes(b"png") and None)
    assert picture.read_bytes() == b"png"
    with pytest.raises(ValueError):
        SweepFolder(study, folder).write_summary({"asr": float("nan")})
    assert SweepFolder(study, folder).read_landscape()[1] == {"points_done": 2}


def test_reading_needs_nothing_heavy() -> None:
    heavy = ("torch", "ray", "pandas", "vllm")
    code = f"import sys, orchestrator.store.study; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
