"""Verification checks every stored byte. It reports damaged files and leaves them in place."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator.store.calibrations import calibration_path, write_calibration
from orchestrator.store.files import publish_json
from orchestrator.store.records import SweepRecord
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.verification import verify, verify_folder
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from tests.unit.store.studies import all_rows, reopen, rows, write_part
from tests.unit.store.test_compaction import damage, judged_study, snapshot

pytestmark = pytest.mark.thorough


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return judged_study(tmp_path)


def test_an_intact_study_is_sound_and_counted(study: Study) -> None:
    prompt_set = PromptSet("harmful", (Prompt("how?"),), ("how?",), ((1,),), Sampling(8))
    study.prompt_sets.write(prompt_set)
    SweepFolder(study, study.root / "sweeps" / "s-00000000").write_record(
        SweepRecord(sweep_id="0", name="s", request={})
    )
    study.events("run").write("run_started")
    before = snapshot(study)
    report = verify(reopen(study))
    assert report.is_sound and (report.tasks, report.rows) == (12, 72)
    assert report.files == len(before) and report.bytes == sum(map(len, before.values()))
    assert [note for note in report.notes if "prompt set" not in note] == []
    assert snapshot(study) == before


def test_every_damaged_file_is_reported_and_left_in_place(study: Study) -> None:
    prompt_set = PromptSet("harmful", (Prompt("how?"),), ("how?",), ((1,),), Sampling(8))
    study.prompt_sets.write(prompt_set)
    folder = study.root / "sweeps" / "s-00000000"
    SweepFolder(study, folder).write_record(SweepRecord(sweep_id="0", name="s", request={}))
    SweepFolder(study, folder).write_summary({"points_done": 1})
    study.directions.write("d", {}, pa.table({"tensor": ["a"]}))
    damaged_paths = [
        study.root / "generations" / "visit1.parquet",
        next((study.root / "judgements" / "j").iterdir()),
        study.root / "prompts" / f"{prompt_set.id}.parquet",
        study.root / "directions" / "d.parquet",
        folder / "sweep.json",
        folder / "summary.json",
    ]
    for path in damaged_paths:
        path.write_bytes(path.read_bytes()[:-9])
    before = snapshot(study)
    report = verify(reopen(study))
    assert {finding.path for finding in report.findings} == set(damaged_paths)
    assert all("`" in finding.remedy and finding.why for finding in report.findings)
    assert len({finding.remedy for finding in report.findings}) == 6
    assert snapshot(study) == before


def test_the_remedy_names_what_writes_the_file(study: Study) -> None:
    folder = SweepFolder(study, study.root / "sweeps" / "s-00000000")
    folder.write_judge("llama_guard3", {"judge_id": "j"})
    write_calibration(study, {"schema": "calibration/1"})
    record, lease = folder.path / "judges" / "llama_guard3.json", folder.lease_path("1/2")
    publish_json(study.out, lease, {"name": "driver"})
    written = {calibration_path(study): "`judge calibrate=FILE`", record: "`judge`", lease: "a driver at work"}
    for path in written:
        path.write_bytes(path.read_bytes()[:-9])
    remedies = {finding.path: finding.remedy for finding in verify(reopen(study)).findings}
    assert remedies.keys() == written.keys()
    assert all(writer in remedies[path] for path, writer in written.items())


def test_flipped_bits_in_a_part_are_reported_or_harmless(study: Study) -> None:
    path = study.root / "generations" / "visit1.parquet"
    content = path.read_bytes()
    generator = random.Random(1)
    for at in generator.sample(range(len(content)), 60):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << generator.randrange(8)]) + content[at + 1 :])
        if verify(reopen(study)).is_sound:
            assert [r for r in all_rows(reopen(study)) if r["point_id"] == "point1"] == rows(
                study, "point1", response="said 1"
            )


def test_foreign_files_and_copies_are_notes_not_damage(study: Study, tmp_path: Path) -> None:
    shutil.copy(study.root / "generations" / "visit1.parquet", study.root / "generations" / "copy.parquet")
    (study.root / "generations" / "notes.txt").write_text("mine")
    study.events("run").write("run_started")
    with open(study.root / "events" / "run.jsonl", "a") as file:
        file.write('{"cut')
    (study.root / "damaged" / "generations").mkdir(parents=True)
    (study.root / "damaged" / "generations" / "old.parquet").write_bytes(b"")
    report = verify(reopen(study))
    assert report.is_sound and report.tasks == 12
    notes = "\n".join(report.notes)
    for expected in (
        "stored elsewhere too",
        "notes.txt",
        "1 of 2 lines",
        "old.parquet was set aside",
        "prompt set set",
    ):
        assert expected in notes


def test_verify_reports_exactly_what_the_store_rejects(study: Study) -> None:
    """A run repairs all of it: it moves the reported files aside, and no others."""
    damage(study.root / "generations" / "visit1.parquet")
    os.truncate(study.root / "generations" / "visit2.parquet", 100)
    reported = {finding.path for finding in verify(reopen(study)).findings}
    all_rows(study)
    assert set(study.problems) == reported and len(study.damaged()) == 2
    assert {task[0] for task in study.generations.stored()} == {f"point{k}" for k in range(12)} - {"point1", "point2"}
    write_part(study, "visit1", "point1", response="said 1")
    write_part(study, "visit2", "point2", response="said 2")
    assert verify(reopen(study)).is_sound


def test_a_damaged_study_json_is_reported_for_its_folder(study: Study) -> None:
    damage(study.root / "study.json")
    before = snapshot(study)
    (finding,) = verify_folder(study.root).findings
    assert finding.path == study.root / "study.json" and "`run`" in finding.remedy
    assert "study.json" not in finding.why and snapshot(study) == before
