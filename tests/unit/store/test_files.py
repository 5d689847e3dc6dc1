"""Files are written completely or not at all, damaged files are detected, and disk errors are reported as such."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.store import files
from orchestrator.store.errors import StorageError
from orchestrator.store.files import (
    DamagedFileError,
    publish,
    publish_json,
    read_json,
    table_hash,
)
from orchestrator.store.records import SweepRecord
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.utils.errors import UserError
from tests.unit.store.studies import INFO, all_rows, reopen, rows, write_part

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system of its own takes root")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=5).filter(lambda key: key != files.CHECK), json_values, max_size=4))
def test_documents_are_read_as_written(tmp_path: Path, document: dict[str, Any]) -> None:
    path = tmp_path / "document.json"
    with contextlib.suppress(ValueError):  # infinite numbers are not JSON
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


def to_table(values: list[Any]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip("tilb", row, strict=True)) for row in values], schema=SCHEMA)


@settings(deadline=None)
@given(tables, tables)
def test_hashes_are_equal_exactly_for_equal_tables(one: list[Any], other: list[Any]) -> None:
    a, b = to_table(one), to_table(other)
    same = repr(a.to_pylist()) == repr(b.to_pylist())
    assert (table_hash(a) == table_hash(b)) == same


@settings(deadline=None)
@given(tables, tables, tables)
def test_slices_and_chunks_do_not_change_a_hash(before: list[Any], values: list[Any], after: list[Any]) -> None:
    table = pa.concat_tables([to_table(before), to_table(values[:1]), to_table(values[1:]), to_table(after)])
    sliced = table.slice(len(before), len(values))
    assert table_hash(sliced) == table_hash(sliced.combine_chunks()) == table_hash(to_table(values))


def test_table_hash_known_answers() -> None:
    """Stored files contain these hashes: if the function changed, every stored file would look damaged."""
    assert (
        table_hash(to_table([("é", 1, [0.5, None], True), (None, None, None, None)]))
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
def test_every_flipped_bit_in_a_document_is_detected(study: Study, document: str) -> None:
    path = study.root / document
    if not path.exists():
        SweepFolder(study, path.parent).write_record(
            SweepRecord(sweep_id="0", name="s", request={"grid": {"seed": 123}})
        )
    content, expected = path.read_bytes(), read_json(path)
    for at in range(len(content)):
        for bit in range(8):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            with contextlib.suppress(DamagedFileError):
                assert read_json(path) == expected


@contextlib.contextmanager
def mounted_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    completed = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if completed.returncode:
        pytest.skip(f"no file system can be mounted here: {completed.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@NEEDS_ROOT
def test_a_full_disk_is_reported_and_harms_nothing(tmp_path: Path) -> None:
    with mounted_disk(tmp_path / "small", "256k") as out:
        study = Study.create(out, INFO)
        written = 0
        with pytest.raises(StorageError, match="No space left on device") as refused:  # noqa: PT012 - any write may fail
            while written < 200:
                write_part(study, f"visit{written}", f"point{written}")
                written += 1
        assert refused.value.field == "out" and written > 2
        assert len(reopen(study).generations.stored()) == written and not reopen(study).problems
        assert list((out / files.TMP).iterdir()) == []
        with pytest.raises(StorageError):
            publish(out, study.root / "study.json", lambda path: path.write_bytes(b"x" * (1 << 20)))
        assert Study.open(study.root).id == study.id
        study.events("run").write("an event")  # the event is lost without an error
        shutil.rmtree(study.root / "sweeps", ignore_errors=True)
        next((study.root / "generations").iterdir()).unlink()
        write_part(study, "again", "point0")


@NEEDS_ROOT
def test_a_full_disk_is_reported_although_the_writer_raises_another_error(study: Study) -> None:
    """matplotlib raises zlib.error while it closes a PDF that could not be written."""

    def fill(path: Path) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            zlib.decompress(b"inconsistent")

    with pytest.raises(StorageError, match="No space left on device"):
        publish(study.out, study.root / "figure.pdf", fill)
    try:
        raise OSError(errno.ENOSPC, "an earlier error that is being handled")
    except OSError:
        with pytest.raises(zlib.error):
            publish(study.out, study.root / "figure.pdf", lambda path: zlib.decompress(b"inconsistent"))


def test_a_read_only_disk_is_reported_and_can_be_read(tmp_path: Path) -> None:
    with mounted_disk(tmp_path / "disk", "1m") as out:
        study = Study.create(out, INFO)
        write_part(study, "p")
        damaged = write_part(study, "q")
        damaged.write_bytes(b"")
        subprocess.run(["mount", "-o", "remount,ro", out], check=True)
        with pytest.raises(StorageError, match="Read-only file system"):
            write_part(study, "r")
        with pytest.raises(UserError, match="read-only"):
            files.check_writable(out)
        assert all_rows(study) == rows(study, "p")  # although this study repairs damage
        assert damaged in study.problems


def test_the_file_that_another_users_study_refuses_is_named(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder `out` itself may be open to this user."""

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(source), None, str(target))

    monkeypatch.setattr(os, "replace", refuse)
    target = study.root / "notes.json"
    with pytest.raises(StorageError, match=re.escape(f"cannot write {target} (Permission denied)")):
        publish_json(study.out, target, {})


def test_missing_permission_is_reported_and_not_taken_for_damage(study: Study) -> None:
    path = write_part(study, "p")
    path.chmod(0)
    folder = study.root / "generations"
    try:
        if os.access(path, os.R_OK):
            pytest.skip("the superuser may read everything")
        with pytest.raises(StorageError, match="Permission denied"):
            study.generations.stored()
        folder.chmod(0o500)
        with pytest.raises(StorageError, match="Permission denied"):
            write_part(study, "q")
    finally:
        folder.chmod(0o700)
        path.chmod(0o600)
    assert all_rows(study) == rows(study, "p")


def test_a_read_error_is_not_taken_for_damage(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    write_part(study, "p")

    def fail(*args: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", fail)
        with pytest.raises(StorageError, match="Input/output error"):
            study.generations.stored()
    assert len(study.generations.stored()) == 1 and not study.problems


@pytest.mark.parametrize("case", ["file", "below"])
def test_a_file_cannot_hold_studies(tmp_path: Path, case: str) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" if case == "file" else tmp_path / "file" / "below"
    with pytest.raises(UserError, match="is a file"):
        Study.create(out, INFO)


def test_a_failed_write_leaves_no_file(study: Study) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        publish(study.out, study.root / "study.json", fail)
    assert Study.open(study.root).id == study.id
    assert list((study.out / files.TMP).iterdir()) == []


def test_readers_see_the_old_or_the_new_document(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document that is rewritten while it is read is never incomplete and never missing."""
    monkeypatch.setattr(files, "_flush", lambda path: None)  # flushing takes a minute on a busy disk
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
    read: list[tuple[int, ...]] = []
    deadline = time.monotonic() + 60
    try:
        while len(read) < 300 or (len(set(read)) < 2 and time.monotonic() < deadline):
            read.append(tuple(set(read_json(path)["runs"])))
    finally:
        stop.set()
        writer.join()
    assert all(len(values) == 1 for values in read) and len(set(read)) > 1
