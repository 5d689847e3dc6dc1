"""Merging parts neither loses nor duplicates rows, also for readers and writers that run at the same time."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store import compaction, observations
from orchestrator.store.compaction import compact
from orchestrator.store.files import DamagedFileError
from orchestrator.store.observations import Generations, PartFolder
from orchestrator.store.parts import Part, TaskKey
from orchestrator.store.study import Study
from orchestrator.store.verification import verify
from tests.unit.store.studies import INFO, all_rows, generations, judge, reopen, rows, write_part

Row = dict[str, Any]


def judged_study(tmp_path: Path) -> Study:
    study = Study.create(tmp_path / "studies", INFO)
    for k in range(12):
        write_part(study, f"visit{k}", f"point{k}", response=f"said {k}")
    winners = study.generations.stored()
    for k in range(0, 12, 3):
        keys = [(f"point{i}", "set") for i in range(k, k + 3)]
        judge(study, {key[0]: winners[key].tasks[key] for key in keys})
    return study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return judged_study(tmp_path)


def ordered(unsorted: list[Row]) -> list[Row]:
    return sorted(unsorted, key=lambda row: (row["point_id"], row["prompt_set_id"], row["prompt_id"]))


def verdicts(study: Study) -> list[Row]:
    known = study.judgements("j").parts_for(study.generations.stored())
    return ordered([row for _, table in study.judgements("j").rows(known) for row in table.to_pylist()])


def snapshot(study: Study) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in study.root.rglob("*") if path.is_file()}


def test_parts_of_two_versions_of_the_schema_are_not_merged_with_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only rows of version 2 were checked for logits that are not finite, and their parts say so."""
    study = Study.create(tmp_path / "studies", INFO)
    for schema, points in (("generations/1", ("a", "b", "c")), ("generations/2", ("d", "e"))):
        monkeypatch.setattr(observations, "GENERATIONS_SCHEMA", schema)
        for point in points:
            write_part(study, point)
    assert compact(study).after == 2
    tasks = {part.meta["schema"]: sorted(point for point, _ in part.tasks) for part in study.generations.parts()}
    assert tasks == {"generations/1": ["a", "b", "c"], "generations/2": ["d", "e"]}
    assert len(all_rows(study)) == 15


def test_merging_changes_no_row_and_no_verdict(study: Study) -> None:
    before, judged = ordered(all_rows(study)), verdicts(study)
    result = compact(study)
    assert (result.before, result.after, result.removed) == (16, 2, 16)
    assert ordered(all_rows(study)) == before and verdicts(study) == judged and len(judged) == 36
    assert not study.problems and verify(study).is_sound
    assert compact(study).removed == 0
    assert {part.meta["engine"]["engine"] for part in study.generations.parts()} == {"dummy"}


def test_new_parts_are_merged_with_merged_parts(study: Study) -> None:
    compact(study)
    write_part(study, "later", "point99")
    before = ordered(all_rows(study))
    compact(study)
    assert len(study.generations.parts()) == 1 and ordered(all_rows(study)) == before


def test_merged_parts_are_of_bounded_size(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MERGED_TASKS", 5)
    before = ordered(all_rows(study))
    compact(study)
    assert [len(part.tasks) for part in study.generations.parts()].count(5) == 2
    assert max(len(part.tasks) for part in study.generations.parts()) == 5
    compact(study)
    assert ordered(all_rows(study)) == before
    monkeypatch.setattr(compaction, "MERGED_ROWS", 6)
    monkeypatch.setattr(compaction, "MERGED_TASKS", 2000)
    assert compact(study).removed == 0  # all parts have reached the size limit


def test_parts_of_different_engines_are_not_merged(study: Study) -> None:
    for k in range(2):
        table = generations(study, f"other{k}")
        study.generations.write(f"other{k}", table, {"engine": "vllm"})
    compact(study)
    assert sorted(part.meta["engine"]["engine"] for part in study.generations.parts()) == ["dummy", "vllm"]


def test_merging_keeps_the_copy_of_a_task_that_counts(study: Study) -> None:
    write_part(study, "again", "point3", response="otherwise")
    before = ordered(all_rows(study))
    compact(study)
    assert len(study.generations.parts()) == 1 and ordered(all_rows(study)) == before


def test_verdicts_on_superseded_responses_are_dropped(study: Study) -> None:
    write_part(study, "visit0", "point0", response="otherwise")
    before = verdicts(study)
    assert len(before) == 33
    compact(study)
    assert verdicts(study) == before and len(study.judgements("j").parts()) == 1


def damage(path: Path, at: int = 60) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 255
    path.write_bytes(data)


def test_a_damaged_part_is_not_merged_and_not_removed(study: Study) -> None:
    path = study.root / "generations" / "visit4.parquet"
    damage(path)
    reader = reopen(study)
    compact(reader)
    assert path.exists() and path in reader.problems
    assert {row["point_id"] for row in all_rows(reopen(study))} == {f"point{k}" for k in range(12) if k != 4}


def test_the_last_readable_copy_of_a_task_is_kept(study: Study) -> None:
    """The copy that counts is damaged and the other is intact. Once the damage is known, the intact one counts."""
    copies = [
        write_part(study, "visit4", "point4", response="said 4"),
        write_part(study, "other", "point4", "point77", response="otherwise"),
    ]
    superseded = next(path for path in copies if path.name != study.generations.stored()["point4", "set"].name)
    winner = next(path for path in copies if path != superseded)
    damage(winner)
    compact(reopen(study))
    assert sum(row["point_id"] == "point4" for row in all_rows(reopen(study))) == 3


def test_a_reader_that_scanned_before_the_merge_finds_all_rows(study: Study) -> None:
    before = ordered(all_rows(study))
    winners = study.generations.stored()
    known = study.judgements("j").parts_for(winners)
    compact(reopen(study))
    assert ordered([row for _, table in study.generations.rows(winners) for row in table.to_pylist()]) == before
    assert sum(table.num_rows for _, table in study.judgements("j").rows(known)) == 36
    assert not study.problems


def test_a_late_reader_gets_no_verdicts_on_other_responses(study: Study) -> None:
    known = study.judgements("j").parts_for(study.generations.stored())
    write_part(study, "visit0", "point0", response="otherwise")
    judge(study, {"point0": study.generations.stored()["point0", "set"].tasks["point0", "set"]}, verdict="complied")
    next(part.path for key, part in known.items() if key[0] == "point0").unlink()
    judged = [row for _, table in study.judgements("j").rows(known) for row in table.to_pylist()]
    assert {row["verdict"] for row in judged} == {"refused"} and len(judged) == 27


@pytest.mark.parametrize("name", range(4))  # the order in which parts are read depends on their names
def test_older_verdicts_in_the_same_part_are_ignored(tmp_path: Path, name: int) -> None:
    study, first, other = Study.create(tmp_path, INFO), f"first{name}", f"other{name}"
    write_part(study, first)
    write_part(study, other)
    judge(study, {point: study.generations.stored()[point, "set"].tasks[point, "set"] for point in (first, other)})
    before = study.generations.stored()[first, "set"].name
    for k in range(100):  # other responses to the same prompts, until one of them counts instead
        write_part(study, f"again{k}", first, response=f"otherwise {k}")
        if study.generations.stored()[first, "set"].name != before:
            break
    judge(study, {first: study.generations.stored()[first, "set"].tasks[first, "set"]})
    known = study.judgements("j").parts_for(study.generations.stored())
    compact(reopen(study))
    assert sorted({key[0] for key in known}) == [first, other]
    assert sum(table.num_rows for _, table in study.judgements("j").rows(known)) == 6


def test_a_reader_during_the_merge_finds_every_row_once(study: Study) -> None:
    before = ordered(all_rows(study))
    reading = study.generations.rows(study.generations.stored())
    read_rows = next(reading)[1].to_pylist()
    compact(reopen(study))
    read_rows += [row for _, table in reading for row in table.to_pylist()]
    assert ordered(read_rows) == before


def test_rows_of_source_parts_and_the_merged_part_count_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """This is the state after a crash between writing the merged part and removing its sources."""
    before, judged = ordered(all_rows(study)), verdicts(study)
    with monkeypatch.context() as patched:
        patched.setattr(PartFolder, "remove", lambda self, part: None)
        compact(study)
    assert len(study.generations.parts()) == 13
    assert ordered(all_rows(study)) == before and verdicts(study) == judged
    compact(study)
    assert len(study.generations.parts()) == 1 and ordered(all_rows(study)) == before and verdicts(study) == judged


def test_sources_stay_if_the_merged_part_is_damaged(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    write = PartFolder.write_merged

    def write_damaged(self: PartFolder, *args: Any) -> Path:
        path = write(self, *args)
        damage(path)
        return path

    monkeypatch.setattr(PartFolder, "write_merged", write_damaged)
    with pytest.raises(DamagedFileError):
        compact(reopen(study))
    assert len(all_rows(reopen(study))) == 36


def test_concurrent_merges_lose_nothing(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ordered(all_rows(study))
    write = PartFolder.write_merged
    entered: list[int] = []

    def interleave(self: PartFolder, *args: Any) -> Path:
        if not entered:
            entered.append(1)
            write_part(reopen(study), "beside", "point50")
            compact(reopen(study))
        return write(self, *args)

    monkeypatch.setattr(PartFolder, "write_merged", interleave)
    compact(reopen(study))
    assert ordered(all_rows(study)) == ordered([*before, *rows(study, "point50")]) and verify(study).is_sound


@pytest.mark.parametrize("pass_", range(2), ids=["generations", "judgements"])
def test_parts_written_between_the_scans_of_a_merge_stay(
    study: Study, monkeypatch: pytest.MonkeyPatch, pass_: int
) -> None:
    before, judged = ordered(all_rows(study)), verdicts(study)
    scan, passes = Generations.stored, itertools.count()

    def stored(self: Generations, *args: Any) -> dict[TaskKey, Part]:
        parts = scan(self, *args)
        if next(passes) == pass_:
            write_part(study, "beside", "point50")
            judge(study, {"point50": scan(study.generations)["point50", "set"].tasks["point50", "set"]})
        return parts

    with monkeypatch.context() as patched:
        patched.setattr(Generations, "stored", stored)
        compact(reopen(study))
    assert next(passes) == 2
    assert ordered(all_rows(study)) == ordered([*before, *rows(study, "point50")])
    assert [row for row in verdicts(study) if row["point_id"] != "point50"] == judged and len(verdicts(study)) == 39


def test_parts_of_tasks_missing_from_the_scan_stay(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """This happens if a directory listing is stale, or if another process merges in between."""
    before, judged = ordered(all_rows(study)), verdicts(study)
    scan = Generations.stored
    with monkeypatch.context() as patched:
        patched.setattr(
            Generations, "stored", lambda self: {key: part for key, part in scan(self).items() if key[0] != "point3"}
        )
        assert compact(reopen(study)).removed == 11 + 3
    assert ordered(all_rows(study)) == before and verdicts(study) == judged
