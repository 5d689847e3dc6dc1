"""Files are written whole or not at all; files that do not verify are found; a disk that refuses is named."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.store import files
from orchestrator.store.files import (
    DamagedFileError,
    StorageError,
    publish,
    publish_json,
    read_json,
    table_hash,
)
from orchestrator.store.records import SweepRecord
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.utils.errors import UserError
from tests.unit.store.studies import INFO, everything, looking, put, rows

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system of its own takes root")
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
