"""Merging loses and doubles nothing, whenever it is met; checking reads every byte and changes none."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store import compaction
from orchestrator.store.compaction import compact
from orchestrator.store.files import DamagedFileError
from orchestrator.store.observations import Generations, PartFolder
from orchestrator.store.parts import Part, TaskKey
from orchestrator.store.study import Study
from orchestrator.store.verification import verify
from tests.unit.store.studies import INFO, everything, generations, judge, looking, put, rows

Row = dict[str, Any]


def judged_study(tmp_path: Path) -> Study:
    study = Study.create(tmp_path / "studies", INFO)
    for k in range(12):
        put(study, f"visit{k}", f"point{k}", said=f"said {k}")
    winners = study.generations.stored()
    for k in range(0, 12, 3):
        keys = [(f"point{i}", "set") for i in range(k, k + 3)]
        judge(study, {key[0]: winners[key].tasks[key] for key in keys})
    return study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return judged_study(tmp_path)


def ordered(found: list[Row]) -> list[Row]:
    return sorted(found, key=lambda row: (row["point_id"], row["prompt_set_id"], row["prompt_id"]))


def verdicts(study: Study) -> list[Row]:
    known = study.judgements("j").covering(study.generations.stored())
    return ordered([row for _, table in study.judgements("j").rows(known) for row in table.to_pylist()])


def snapshot(study: Study) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in study.root.rglob("*") if path.is_file()}


def test_merging_changes_no_row_and_no_verdict(study: Study) -> None:
    before, judged = ordered(everything(study)), verdicts(study)
    done = compact(study)
    assert (done.before, done.after, done.removed) == (16, 2, 16)
    assert ordered(everything(study)) == before and verdicts(study) == judged and len(judged) == 36
    assert not study.problems and verify(study).is_sound
    assert compact(study).removed == 0
    assert {part.meta["engine"]["engine"] for part in study.generations.parts()} == {"dummy"}


def test_what_comes_later_is_merged_with_what_was_merged(study: Study) -> None:
    compact(study)
    put(study, "later", "point99")
    before = ordered(everything(study))
    compact(study)
    assert len(study.generations.parts()) == 1 and ordered(everything(study)) == before


def test_merged_parts_are_of_bounded_size(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MERGED_TASKS", 5)
    before = ordered(everything(study))
    compact(study)
    assert [len(part.tasks) for part in study.generations.parts()].count(5) == 2
    assert max(len(part.tasks) for part in study.generations.parts()) == 5
    compact(study)
    assert ordered(everything(study)) == before
    monkeypatch.setattr(compaction, "MERGED_ROWS", 6)
    monkeypatch.setattr(compaction, "MERGED_TASKS", 2000)
    assert compact(study).removed == 0  # all are large by now


def test_engines_are_not_mixed(study: Study) -> None:
    for k in range(2):
        table = generations(study, f"other{k}")
        study.generations.write(f"other{k}", table, {"engine": "vllm"})
    compact(study)
    assert sorted(part.meta["engine"]["engine"] for part in study.generations.parts()) == ["dummy", "vllm"]


def test_a_task_stored_twice_keeps_what_counts(study: Study) -> None:
    put(study, "again", "point3", said="otherwise")
    before = ordered(everything(study))
    compact(study)
    assert len(study.generations.parts()) == 1 and ordered(everything(study)) == before


def test_verdicts_on_what_counts_no_more_are_dropped(study: Study) -> None:
    put(study, "visit0", "point0", said="otherwise")
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
    looker = looking(study)
    compact(looker)
    assert path.exists() and path in looker.problems
    assert {row["point_id"] for row in everything(looking(study))} == {f"point{k}" for k in range(12) if k != 4}


def test_the_last_readable_copy_of_a_task_is_kept(study: Study) -> None:
    """What counts is damaged, what does not is whole: once the damage is known, the whole one counts."""
    copies = [put(study, "visit4", "point4", said="said 4"), put(study, "other", "point4", "point77", said="otherwise")]
    loser = next(path for path in copies if path.name != study.generations.stored()["point4", "set"].name)
    winner = next(path for path in copies if path != loser)
    damage(winner)
    compact(looking(study))
    assert sum(row["point_id"] == "point4" for row in everything(looking(study))) == 3


def test_a_reader_that_scanned_before_finds_the_rows_after(study: Study) -> None:
    before = ordered(everything(study))
    winners = study.generations.stored()
    known = study.judgements("j").covering(winners)
    compact(looking(study))
    assert ordered([row for _, table in study.generations.rows(winners) for row in table.to_pylist()]) == before
    assert sum(table.num_rows for _, table in study.judgements("j").rows(known)) == 36
    assert not study.problems


def test_a_late_reader_of_verdicts_is_not_given_those_on_other_responses(study: Study) -> None:
    known = study.judgements("j").covering(study.generations.stored())
    put(study, "visit0", "point0", said="otherwise")
    judge(study, {"point0": study.generations.stored()["point0", "set"].tasks["point0", "set"]}, verdict="complied")
    next(part.path for key, part in known.items() if key[0] == "point0").unlink()
    found = [row for _, table in study.judgements("j").rows(known) for row in table.to_pylist()]
    assert {row["verdict"] for row in found} == {"refused"} and len(found) == 27


@pytest.mark.parametrize("name", range(4))  # which part is met first hangs on their names
def test_a_reader_of_verdicts_is_not_misled_by_older_ones_in_the_same_part(tmp_path: Path, name: int) -> None:
    study, first, other = Study.create(tmp_path, INFO), f"first{name}", f"other{name}"
    put(study, first)
    put(study, other)
    judge(study, {point: study.generations.stored()[point, "set"].tasks[point, "set"] for point in (first, other)})
    before = study.generations.stored()[first, "set"].name
    for k in range(100):  # another response to the same prompts, until one counts instead
        put(study, f"again{k}", first, said=f"otherwise {k}")
        if study.generations.stored()[first, "set"].name != before:
            break
    judge(study, {first: study.generations.stored()[first, "set"].tasks[first, "set"]})
    known = study.judgements("j").covering(study.generations.stored())
    compact(looking(study))
    assert sorted({key[0] for key in known}) == [first, other]
    assert sum(table.num_rows for _, table in study.judgements("j").rows(known)) == 6


def test_a_reader_in_the_midst_of_merging_finds_every_row_once(study: Study) -> None:
    before = ordered(everything(study))
    reading = study.generations.rows(study.generations.stored())
    found = next(reading)[1].to_pylist()
    compact(looking(study))
    found += [row for _, table in reading for row in table.to_pylist()]
    assert ordered(found) == before


def test_sources_beside_the_merged_part_count_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a death between the writing of the merged part and the removal of its sources."""
    before, judged = ordered(everything(study)), verdicts(study)
    with monkeypatch.context() as patched:
        patched.setattr(PartFolder, "remove", lambda self, part: None)
        compact(study)
    assert len(study.generations.parts()) == 13
    assert ordered(everything(study)) == before and verdicts(study) == judged
    compact(study)
    assert len(study.generations.parts()) == 1 and ordered(everything(study)) == before and verdicts(study) == judged


def test_nothing_is_removed_where_the_merged_part_does_not_verify(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = PartFolder.write_merged

    def spoil(self: PartFolder, *args: Any) -> Path:
        path = write(self, *args)
        damage(path)
        return path

    monkeypatch.setattr(PartFolder, "write_merged", spoil)
    with pytest.raises(DamagedFileError):
        compact(looking(study))
    assert len(everything(looking(study))) == 36


def test_two_that_merge_at_once_lose_nothing(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ordered(everything(study))
    write = PartFolder.write_merged
    entered: list[int] = []

    def interleave(self: PartFolder, *args: Any) -> Path:
        if not entered:
            entered.append(1)
            put(looking(study), "beside", "point50")
            compact(looking(study))
        return write(self, *args)

    monkeypatch.setattr(PartFolder, "write_merged", interleave)
    compact(looking(study))
    assert ordered(everything(study)) == ordered([*before, *rows(study, "point50")]) and verify(study).is_sound


@pytest.mark.parametrize("pass_", range(2), ids=["generations", "judgements"])
def test_what_is_stored_and_judged_between_its_scans_stays(
    study: Study, monkeypatch: pytest.MonkeyPatch, pass_: int
) -> None:
    before, judged = ordered(everything(study)), verdicts(study)
    scan, passes = Generations.stored, itertools.count()

    def stored(self: Generations, *args: Any) -> dict[TaskKey, Part]:
        found = scan(self, *args)
        if next(passes) == pass_:
            put(study, "beside", "point50")
            judge(study, {"point50": scan(study.generations)["point50", "set"].tasks["point50", "set"]})
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Generations, "stored", stored)
        compact(looking(study))
    assert next(passes) == 2
    assert ordered(everything(study)) == ordered([*before, *rows(study, "point50")])
    assert [row for row in verdicts(study) if row["point_id"] != "point50"] == judged and len(verdicts(study)) == 39


def test_parts_of_a_task_that_the_scan_did_not_meet_stay(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a listing is stale, or another merges in between."""
    before, judged = ordered(everything(study)), verdicts(study)
    scan = Generations.stored
    with monkeypatch.context() as patched:
        patched.setattr(
            Generations, "stored", lambda self: {key: part for key, part in scan(self).items() if key[0] != "point3"}
        )
        assert compact(looking(study)).removed == 11 + 3
    assert ordered(everything(study)) == before and verdicts(study) == judged
