"""The working copy of a bucket: what is pulled, what is uploaded, and what damage to either side does."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.store import working_copy as working_copies
from orchestrator.store.bucket import Bucket, open_bucket, server
from orchestrator.store.compaction import _merge, _Source, compact
from orchestrator.store.discovery import find_sweeps, stored_identity
from orchestrator.store.errors import StorageError
from orchestrator.store.files import MissingFileError, publish_json, read_json
from orchestrator.store.study import Study
from orchestrator.store.verification import verify
from orchestrator.store.working_copy import open_path, open_root, pull, working_copy
from orchestrator.utils.choices import StudyMode
from orchestrator.utils.errors import UserError
from tests.object_stores.ceph import Store
from tests.unit.store.studies import INFO, all_rows, judge, reopen, write_part
from tests.unit.store.test_compaction import ordered, verdicts

Use = Callable[[Store], str]
OtherMachine = Callable[..., Path]


@pytest.fixture
def address(moto: Store, use: Use) -> str:
    return use(moto)


@pytest.fixture
def study(address: str) -> Study:
    return Study.create(open_root(address), INFO)


def bucket(address: str) -> Bucket:
    """Return the bucket, with the connections of this process."""
    return open_bucket(address, server())


def objects(address: str, study: Study) -> set[str]:
    """Return the names of a study's objects, relative to the study."""
    return {name.removeprefix(f"{study.root.name}/") for name in bucket(address).objects()}


def test_what_is_stored_reaches_another_machine(address: str, study: Study, other_machine: OtherMachine) -> None:
    write_part(study, "one")
    write_part(study, "two")
    assert objects(address, study) == {"study.json", "generations/one.parquet", "generations/two.parquet"}
    root = other_machine(address)
    pull(root)
    assert all_rows(Study.open(root / study.root.name)) == all_rows(study)
    assert {path.stat().st_mode & 0o077 for path in root.rglob("*")} == {0}, "only this user may read it"


def test_another_machine_finds_the_study_of_the_same_weights_under_its_name(
    address: str, study: Study, other_machine: OtherMachine
) -> None:
    root = other_machine(address)
    assert stored_identity(root, dataclasses.replace(INFO, model="another"), StudyMode.private) == INFO
    assert (root / study.root.name / "study.json").is_file()


def test_a_pull_fetches_only_what_is_new(address: str, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    download = Bucket.download

    def counted(self: Bucket, name: str, target: Path) -> bool:
        fetched.append(name)
        return download(self, name, target)

    monkeypatch.setattr(Bucket, "download", counted)
    write_part(study, "one")
    pull(study.root)
    assert fetched == [], "this machine has written it"
    document = f"{study.root.name}/summary.json"
    for value in (1, 2):  # of the same size
        bucket(address)._fs.pipe_file(f"{address}/{document}", b"%d" % value)
        pull(study.root)
        assert (study.root / "summary.json").read_bytes() == b"%d" % value
    pull(study.root)
    assert fetched == [document, document]
    (study.root.parent / working_copies.ETAGS).write_text("no JSON")
    pull(study.root)
    assert fetched == [document, document], "what is known about ETags was derived again"


def test_what_another_machine_deletes_goes_away_and_logs_being_written_stay(address: str, study: Study) -> None:
    part, log = write_part(study, "one"), study.root / "events" / "mine.jsonl"
    log.parent.mkdir()
    log.write_text("one\ntwo\n")
    bucket(address)._fs.pipe_file(f"{address}/{study.root.name}/events/mine.jsonl", b"one\n")
    bucket(address)._fs.pipe_file(f"{address}/{study.root.name}/events/other.jsonl", b"one\n")
    bucket(address).delete(f"{study.root.name}/generations/one.parquet")
    pull(study.root)
    assert not part.exists() and log.read_text() == "one\ntwo\n"
    bucket(address).delete(f"{study.root.name}/events/mine.jsonl")
    bucket(address).delete(f"{study.root.name}/events/other.jsonl")
    pull(study.root)
    assert os.listdir(log.parent) == ["mine.jsonl"]


def test_files_have_the_times_of_their_objects(
    address: str, study: Study, other_machine: OtherMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_part(study, "one")
    entry = bucket(address).objects()[f"{study.root.name}/generations/one.parquet"]
    pull(other := other_machine(address))
    assert (other / path.relative_to(study.out)).stat().st_mtime == entry.modified, "the last sweep is found by it"


def test_a_file_that_cannot_be_uploaded_is_not_stored(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Bucket, source: Path, name: str) -> None:
        raise StorageError("out", self.address, "is full")

    monkeypatch.setattr(Bucket, "upload", fail)
    with pytest.raises(StorageError, match="is full"):
        write_part(study, "one")
    assert not (study.root / "generations" / "one.parquet").exists()
    assert list((study.out / ".tmp").iterdir()) == []


def test_a_damaged_working_copy_is_fetched_again(address: str, study: Study) -> None:
    path, rows = write_part(study, "one"), all_rows(study)
    sound = path.read_bytes()
    for damaged in (sound[:-5], sound[:100] + b"\0\0\0" + sound[103:], b""):
        path.write_bytes(damaged)
        assert all_rows(reopen(study)) == rows and path.read_bytes() == sound
    study.moves_damaged = True
    path.write_bytes(b"")
    assert study.move_to_damaged(path) is None and path.read_bytes() == sound
    (study.root / "study.json").write_text("{}")
    assert Study.open(study.root).info == INFO
    assert objects(address, study) == {"study.json", "generations/one.parquet"} and not study.damaged()


def test_a_damaged_object_is_moved_aside_in_the_bucket(address: str, study: Study) -> None:
    path = write_part(study, "one")
    bucket(address)._fs.pipe_file(f"{address}/{study.root.name}/generations/one.parquet", b"damaged")
    pull(study.root)
    study.moves_damaged = True
    assert all_rows(study) == [] and list(study.problems) == [path]
    assert objects(address, study) == {"study.json", "damaged/generations/one.parquet"}
    write_part(study, "one")
    assert len(all_rows(reopen(study))) == 3


def test_merging_removes_the_sources_from_the_bucket(address: str, study: Study, other_machine: OtherMachine) -> None:
    for name in "abcd":
        write_part(study, name)
    rows = all_rows(study)
    pull(old := other_machine(address))
    other_machine(address, "machine")
    assert compact(reopen(study)).removed == 4
    assert len(objects(address, study)) == 2
    pull(other_machine(address))
    assert sorted(map(str, all_rows(Study.open(old / study.root.name)))) == sorted(map(str, rows))
    assert len(list(old.glob("*/generations/*"))) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from orchestrator.store.bucket import Bucket
from orchestrator.store.compaction import compact
from orchestrator.store.study import Study

def kill_at(name, number, is_after):
    request, calls = getattr(Bucket, name), []
    def call(*arguments):
        calls.append(arguments)
        if is_after:
            request(*arguments)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if not is_after:
            request(*arguments)
    setattr(Bucket, name, call)

kill_at(sys.argv[2], int(sys.argv[3]), sys.argv[2] == "upload")
compact(Study.open(Path(sys.argv[1])))
"""
"""Merges a study, and kills itself after the n-th upload or before the n-th deletion."""


@pytest.mark.parametrize(("request_name", "number"), [("upload", 1), ("delete", 3)])
def test_merging_that_is_killed_is_finished_by_another_machine(
    address: str, study: Study, other_machine: OtherMachine, request_name: str, number: int
) -> None:
    for name in "abcd":
        write_part(study, name)
    for (point, _), part in study.generations.stored().items():
        judge(study, {point: part.tasks[point, "set"]})
    rows, judged, before = ordered(all_rows(study)), verdicts(study), objects(address, study)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(study.root), request_name, str(number)], check=False)
    assert killed.returncode == -signal.SIGKILL
    merged = objects(address, study) - before
    assert len(merged) == 1 and len(before - objects(address, study)) == number - 1
    pull(other := other_machine(address))
    there = Study.open(other / study.root.name)
    assert ordered(all_rows(there)) == rows and verdicts(there) == judged and verify(there).is_sound
    compact(reopen(there))
    assert len(objects(address, study)) == 3, "study.json, and a part of responses and one of verdicts"
    for machine in ("machine", "third"):
        pull(root := other_machine(address, machine))
        seen = Study.open(root / study.root.name)
        assert ordered(all_rows(seen)) == rows and verdicts(seen) == judged and verify(seen).is_sound


def test_nothing_is_lost_if_another_machine_has_merged_what_this_one_relies_on(address: str, study: Study) -> None:
    """The copy of a task that does not count is removed only if the one that counts is in the bucket now."""
    for name in ("one", "two", "three"):
        write_part(study, name, "point")
    parts = {part.name: part for part in study.generations.parts()}
    counting = study.generations.stored()[next(iter(parts["one.parquet"].tasks))].name
    others = [name for name in parts if name != counting]
    # This machine merges the others; the bucket has lost the counting part meanwhile.
    stored = study.generations.stored()
    bucket(address).delete(f"{study.root.name}/generations/{counting}")
    write_part(study, "four", "another")
    write_part(study, "five", "third")
    stored |= {key: part for part in study.generations.parts() for key in part.tasks if key not in stored}
    batch = [_Source(parts[name], []) for name in others]
    batch += [
        _Source(part, list(part.tasks))
        for part in study.generations.parts()
        if part.name in ("four.parquet", "five.parquet")
    ]
    assert _merge(study, study.generations, batch, stored, stored) == 2
    assert {f"generations/{name}" for name in others} <= objects(address, study)


def test_an_address_names_a_root_a_study_or_a_sweep(address: str, study: Study, other_machine: OtherMachine) -> None:
    sweep = study.root / "sweeps" / "mine-01234567"
    publish_json(study.out, sweep / "sweep.json", {})
    root = other_machine(address)
    assert open_path(f"{address}/{study.root.name}/") == root / study.root.name
    assert open_path(f"{address}/{study.root.name}/sweeps/mine-01234567") == root / sweep.relative_to(study.out)
    assert open_path(address) == root
    assert [folder.path.name for folder in find_sweeps(root)] == ["mine-01234567"]
    with pytest.raises(UserError, match=r"path=s3://[^/]*/elsewhere: there is no sweep"):
        list(find_sweeps(open_path(f"{address.rpartition('/')[0]}/elsewhere")))


def test_other_objects_of_the_bucket_are_left_alone(address: str, study: Study) -> None:
    files = bucket(address)._fs
    for name in ("photos/cat.jpg", "notes.txt", ".bucket", f"{study.root.name}/..\\evil", ".tmp/x/study.json"):
        files.pipe_file(f"{address}/{name}", b"other")
    pull(study.out)
    assert sorted(path.name for path in study.out.iterdir() if path.is_dir() and path.name != ".tmp") == [
        study.root.name
    ]
    assert working_copy(study.out) is not None and os.listdir(study.root) == ["study.json"]


def test_a_folder_that_is_no_working_copy_of_this_environment_is_refused(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / working_copies.MARK).write_bytes((study.out / working_copies.MARK).read_bytes())
    with pytest.raises(StorageError, match="is marked as the working copy of a bucket"):
        publish_json(moved, moved / "study" / "x.json", {})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="is marked as the working copy of a bucket"):
        write_part(study, "one")


def test_a_file_that_another_machine_has_deleted_is_missing(address: str, study: Study) -> None:
    publish_json(study.out, study.root / "summary.json", {"a": 1})
    bucket(address).delete(f"{study.root.name}/summary.json")
    (study.root / "summary.json").write_text("{}")
    with pytest.raises(MissingFileError):
        read_json(study.root / "summary.json")
