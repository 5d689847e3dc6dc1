"""A sweep's folder and record, and `StoredSweep`, which reads each file once."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.store.files import (
    DamagedFileError,
    MissingFileError,
    publish_json,
    read_json,
    read_meta,
)
from orchestrator.store.observations import PartFolder
from orchestrator.store.records import FailedVisit, RunRecord, RunTotals, SweepRecord
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.target_geometry import TargetGeometry
from orchestrator.utils.errors import UserError
from tests.unit.stored import basin, store_sweep

RUN = RunRecord(
    run="r",
    part="1/2",
    host="here",
    pid=7,
    started_at=1.5,
    outcome="complete",
    tasks=3,
    engines={"e": {"engine": "dummy"}},
    machines={"here": {"cores": 2}},
    versions={"python": "3.11"},
    seconds=2.5,
    totals=RunTotals(visits=3, tokens=9, gpu_seconds=0.25),
    failures=(FailedVisit(point_id="p", prompt_set_ids=("a", "b"), errors=("once", "twice")),),
)
RECORD = SweepRecord(
    sweep_id="0" * 16,
    name="s",
    request={"grid": {"seed": 1}},
    overrides=("engine=dummy",),
    labels={"f": "tuned"},
    target_geometry=TargetGeometry(2.0, 1.0, {"f": 0.5}),
)


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    study = Study.create(tmp_path, StudyInfo("tiny", "fingerprint", "float32", 1))
    return SweepFolder(study, study.root / "sweeps" / "s-00000000")


@pytest.fixture
def stored(tmp_path: Path) -> StoredSweep:
    path = store_sweep(tmp_path, basin(0.25), directions=1)
    return StoredSweep.open(SweepFolder(Study.open(path.parents[1]), path))


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the name of every folder of parts that is scanned."""
    names: list[str] = []
    parts = PartFolder.parts

    def record_scan(self: PartFolder) -> Any:
        names.append(self.path.name)
        return parts(self)

    monkeypatch.setattr(PartFolder, "parts", record_scan)
    return names


def test_a_record_is_read_with_its_runs(folder: SweepFolder) -> None:
    folder.write_record(RECORD)
    folder.write_run(RUN)
    assert folder.read_record() == dataclasses.replace(RECORD, runs=(RUN,))
    document = read_json(folder.path / "sweep.json")
    assert list(document) == ["schema", "sweep_id", "name", "request", "overrides", "labels", "around"]
    assert list(read_json(folder.path / "runs" / "r.json")) == [
        "run", "part", "host", "pid", "started_at", "outcome", "tasks", "engines", "machines", "versions", "seconds",
        "visits", "responses", "tokens", "restarts", "gpu_seconds", "actors", "peak_memory_bytes", "write_seconds",
        "visit_seconds", "actors_at_once", "ready_seconds", "idle_seconds", "speculative", "unneeded", "failures",
    ]  # fmt: skip


def test_a_running_run_has_no_totals(folder: SweepFolder) -> None:
    folder.write_run(RunRecord(run="r", outcome="running", tasks=3))
    assert set(read_json(folder.path / "runs" / "r.json")) == {
        "run", "part", "host", "pid", "started_at", "outcome", "tasks",
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": 3},
        {"request": []},
        {"labels": "x"},
        {"overrides": {}},
        {"around": {"moved": 1}},
        {"runs": [3]},
        {"runs": [{"tokens": ""}]},
    ],
)
def test_a_record_with_wrong_types_is_damaged(folder: SweepFolder, wrong: dict[str, Any]) -> None:
    publish_json(folder.study.out, folder.path / "sweep.json", RECORD.to_json() | wrong)
    with pytest.raises(DamagedFileError):
        folder.read_record()
    with pytest.raises(UserError, match=r"its sweep\.json cannot be read"):
        StoredSweep.open(folder)


@pytest.mark.parametrize("wrong", [{"seconds": "3"}, {"visits": 1.5}, {"part": 1}, {"failures": [{}]}, {"pid": True}])
def test_a_run_with_wrong_types_is_known_by_its_name_alone(folder: SweepFolder, wrong: dict[str, Any]) -> None:
    folder.write_record(RECORD)
    publish_json(folder.study.out, folder.path / "runs" / "r.json", RUN.to_json() | wrong)
    assert folder.read_record() == dataclasses.replace(RECORD, runs=(RunRecord(run="r", outcome="damaged"),))


def test_records_of_earlier_versions_are_read(folder: SweepFolder) -> None:
    document = {"sweep_id": "0", "name": "s", "request": {}, "runs": [{"outcome": "complete", "seconds": 3}]}
    publish_json(folder.study.out, folder.path / "sweep.json", document)
    (run,) = folder.read_record().runs
    assert (run.outcome, run.seconds, run.started_at, run.totals) == ("complete", 3.0, None, RunTotals())


def test_parts_are_scanned_once_until_they_are_refreshed(stored: StoredSweep, scans: list[str]) -> None:
    for _ in range(2):
        assert len(stored.generations) == len(stored.judged(DEGENERATE.id)) == 11
    assert scans == ["generations", DEGENERATE.id]
    stored.refresh_judgements(DEGENERATE.id)
    stored.judged(DEGENERATE.id)
    assert scans == ["generations", DEGENERATE.id, DEGENERATE.id]
    stored.refresh()
    stored.judged(DEGENERATE.id)
    assert scans[3:] == ["generations", DEGENERATE.id]


def test_parts_found_to_be_damaged_no_longer_count_as_stored(stored: StoredSweep, scans: list[str]) -> None:
    stored.study.moves_damaged = True
    part = stored.study.generations.parts()[0]
    assert len(stored.generations) == 11
    data = bytearray(part.path.read_bytes())
    data[200] ^= 1
    part.path.write_bytes(data)
    assert list(stored.study.generations.rows(stored.generations)) == []
    assert stored.generations == {} and stored.judged(DEGENERATE.id) == {}


def test_a_damaged_file_that_stays_in_place_is_scanned_once(stored: StoredSweep, scans: list[str]) -> None:
    (stored.study.root / "generations" / "foreign.parquet").write_bytes(b"")
    for _ in range(3):
        assert len(stored.generations) == 11
        stored.judged(DEGENERATE.id)
    assert scans == ["generations", DEGENERATE.id]


def test_the_latest_used_sweep_is_last(study: Study) -> None:
    for name, at in (("a", 2), ("b", 3), ("c", 1)):
        folder = study.root / "sweeps" / f"{name}-01234567"
        SweepFolder(study, folder).write_record(SweepRecord(sweep_id="0", name=name, request={}))
        os.utime(folder / "sweep.json", (at, at))
    assert [folder.path.name for folder in SweepFolder.all_of(study)] == ["c-01234567", "a-01234567", "b-01234567"]
    assert SweepFolder.all_of(study)[0].read_record().name == "c"
    with pytest.raises(MissingFileError):
        SweepFolder(study, study.root / "sweeps" / "none").read_record()


def test_results_are_stored_completely(study: Study) -> None:
    folder = study.root / "sweeps" / "s-00000000"
    table = pa.table({"alpha": [0.0, 0.5], "asr": [None, 100.0]}, metadata={"schema": "landscape/9"})
    SweepFolder(study, folder).write_landscape(table)
    SweepFolder(study, folder).write_summary({"points_done": 2})
    frame, summary = SweepFolder(study, folder).read_landscape()
    assert read_meta(folder / "landscape.parquet")["schema"] == "landscape/9"
    assert frame["asr"].isna().tolist() == [True, False] and summary == {"points_done": 2}
    picture = SweepFolder(study, folder).write_figure("landscape.png", lambda path: path.write_bytes(b"png") and None)
    assert picture.read_bytes() == b"png"
    with pytest.raises(ValueError):
        SweepFolder(study, folder).write_summary({"asr": float("nan")})
    assert SweepFolder(study, folder).read_landscape()[1] == {"points_done": 2}
