"""The index of a folder's parts: each file is read once, and every change is noticed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.store import observations, part_index
from orchestrator.store.files import read_meta
from orchestrator.store.study import Study
from tests.unit.store.studies import write_part


class Clock:
    """A clock for `part_index` that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(part_index, "time", clock)
    return clock


@pytest.fixture
def indexed(study: Study) -> Study:
    study.indexes = {}
    return study


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the parts whose metadata is read, as they are read."""
    names: list[str] = []

    def recorded(path: Path) -> object:
        names.append(path.stem)
        return read_meta(path)

    monkeypatch.setattr(observations, "read_meta", recorded)
    return names


def points(study: Study) -> list[str]:
    return sorted(point for point, _ in study.generations.stored())


def test_each_part_is_read_once(indexed: Study, read: list[str], clock: Clock) -> None:
    for name in "abc":
        write_part(indexed, name)
    for _ in range(3):
        assert points(indexed) == ["a", "b", "c"]
        assert dict(indexed.generations.snapshot()[1]) == indexed.generations.stored()
    assert read == ["a", "b", "c"]
    version = indexed.generations.snapshot()[0]
    write_part(indexed, "d")
    assert points(indexed) == ["a", "b", "c", "d"] and read == ["a", "b", "c", "d"]
    assert indexed.generations.snapshot()[0] != version


def test_an_index_finds_what_a_scan_finds_after_any_change(indexed: Study, clock: Clock) -> None:
    """The independent oracle: a study without an index, which reads everything each time."""
    folder = indexed.generations.path
    write_part(indexed, "a")
    write_part(indexed, "both", "a", "b", response="other")
    kept, damaged = folder.parent / "kept.parquet", folder.parent / "damaged.parquet"
    shutil.copy(folder / "both.parquet", kept)
    damaged.write_bytes(b"damaged")
    changes = [
        lambda: write_part(indexed, "c"),
        lambda: write_part(indexed, "a", response="third"),
        lambda: (folder / "both.parquet").unlink(),
        lambda: os.replace(kept, folder / "both.parquet"),
        lambda: os.replace(damaged, folder / "a.parquet"),
        lambda: write_part(indexed, "a", response="fourth"),
        lambda: shutil.rmtree(folder),
        lambda: write_part(indexed, "e"),
    ]
    for change in changes:
        for later in (0.0, 10.0):
            clock.now += later
            fresh = Study(indexed.root, indexed.id)
            expected = {key: part.content for key, part in fresh.generations.stored().items()}
            assert {key: part.content for key, part in indexed.generations.snapshot()[1].items()} == expected
            assert [p.name for p in indexed.generations.parts()] == [p.name for p in fresh.generations.parts()]
        change()
    assert points(indexed) == ["e"]


def test_a_part_that_is_replaced_within_a_tick_is_read_again(indexed: Study, read: list[str], clock: Clock) -> None:
    """Size and times of the file and of its folder stay as they were: only the inode differs."""
    path = write_part(indexed, "a", "first")
    folder = path.parent
    before = path.stat(), folder.stat()
    assert points(indexed) == ["first"]
    write_part(indexed, "a", "other")
    for changed, status in zip((path, folder), before, strict=True):
        os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before[0].st_size, before[0].st_mtime_ns)
    assert part_index.signature(folder) == (before[1].st_size, before[1].st_mtime_ns, before[1].st_ino)
    clock.now += part_index.TICK - 0.1
    assert points(indexed) == ["other"] and read == ["a", "a"]


def test_an_unchanged_folder_is_trusted_after_a_tick(
    indexed: Study, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings: list[float] = []
    original = part_index.signatures

    def recorded(
        folder: Path, suffixes: tuple[str, ...], known: Mapping[str, part_index.Signature] | None
    ) -> dict[str, part_index.Signature]:
        listings.append(clock.now)
        return original(folder, suffixes, known)

    monkeypatch.setattr(part_index, "signatures", recorded)
    write_part(indexed, "a")
    for seconds in (0.0, 1.0, 2.0, 3.0, 4.0):
        clock.now = 1000.0 + seconds
        assert points(indexed) == ["a"]
    assert listings == [1000.0, 1001.0, 1002.0], "the listing that began a tick after the change was the last"
    write_part(indexed, "b")
    assert points(indexed) == ["a", "b"]


def test_only_files_with_new_inodes_are_looked_at_until_the_folder_has_settled(
    indexed: Study, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_part(indexed, name)
    assert points(indexed) == ["a", "b", "c"]
    looked_at: list[str] = []
    original = part_index.signature

    def recorded(path: Path | os.DirEntry[str]) -> part_index.Signature | None:
        looked_at.append(path.name)
        return original(path)

    monkeypatch.setattr(part_index, "signature", recorded)
    write_part(indexed, "d")
    assert points(indexed) == ["a", "b", "c", "d"] and looked_at == ["generations", "d.parquet"]
    looked_at.clear()
    clock.now += part_index.TICK
    assert points(indexed) == ["a", "b", "c", "d"]
    assert sorted(looked_at) == ["a.parquet", "b.parquet", "c.parquet", "d.parquet", "generations"]


def test_a_file_that_is_copied_into_a_settled_folder_counts_when_it_is_whole(study: Study, clock: Clock) -> None:
    path, indexed = write_part(study, "a"), Study(study.root, study.id)
    indexed.indexes = {}
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    for _ in range(3):
        assert points(indexed) == []
        clock.now += 10.0
    with path.open("ab") as file:  # as `cp` does: neither the folder's time nor the inode changes
        file.write(content[-9:])
    assert points(indexed) == ["a"]


def test_rows_of_a_part_that_changed_in_place_are_found_again(indexed: Study, clock: Clock) -> None:
    """The index cannot notice it, so the reading itself must, or it would look for the old rows for ever."""
    path, other = write_part(indexed, "a", "first"), write_part(indexed, "b", "first", response="other")
    for _ in range(2):
        old = indexed.generations.parts()[0]
        clock.now += 10.0
    path.write_bytes(other.read_bytes())
    other.unlink()
    ((part, table),) = indexed.generations.rows(dict.fromkeys(old.tasks, old))
    assert all(text.startswith("other") for text in table["response"].to_pylist()) and part.path == path


def test_a_study_without_index_reads_every_part_each_time(study: Study, read: list[str]) -> None:
    write_part(study, "a")
    assert [points(study), points(study)] == [["a"], ["a"]] and read == ["a", "a"]
    assert study.generations.snapshot()[0] == 0
