"""Sweeps of adapter version 1 are recognized, and a note says what they measured."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from orchestrator.analysis.adapter_versions import older_sweeps, older_version_note
from orchestrator.analysis.comparison.compare import compare
from orchestrator.analysis.comparison.sweeps import read_sweeps
from orchestrator.store.discovery import latest_sweep
from orchestrator.store.records import SweepRecord
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.target_geometry import TargetGeometry
from orchestrator.utils.choices import GridKind
from tests.unit.stored import basin, store_sweep

# `around` in sweep.json as version 1 wrote it, and as version 2 writes it.
FIRST = {"base": 3.0, "moved": 2.0, "lengths": {"f1": 1.0, "f2": 0.5}}
SECOND = FIRST | {"rounding": {"f1": 0.0, "f2": 0.25}, "adapter_version": 2}


def record(around: dict) -> SweepRecord:
    document = {"sweep_id": "s", "name": "drag", "request": {}, "labels": {"f1": "epoch-1"}, "around": around}
    return SweepRecord.from_json(json.loads(json.dumps(document)))


def test_only_a_sweep_toward_targets_of_version_1_has_a_note() -> None:
    note = older_version_note(record(FIRST))
    assert note is not None and note.startswith("Adapter version 1 measured this sweep: where its targets (epoch-1, f2")
    assert older_version_note(record(SECOND)) is None
    assert older_version_note(record({})) is None, "a sweep without targets"


def store(out: Path, seed: str, around: dict) -> StoredSweep:
    towards = (TowardsDirection(seed, seed),)
    folder = store_sweep(out, basin(0.5), kind=GridKind.interpolate_1d, range=(0.0, 1.0), towards=towards)
    stored = StoredSweep.open(latest_sweep(folder))
    document = stored.record.to_json() | {"around": around}
    stored.folder.write_record(SweepRecord.from_json(document))
    return stored


def test_sweeps_toward_the_same_adapter_under_version_1_are_found(tmp_path: Path) -> None:
    old, new = store(tmp_path, "f1", FIRST), store(tmp_path, "g1", {**SECOND, "lengths": {"g1": 1.0}})
    study = Study.create(tmp_path, old.study.info)
    assert older_sweeps(study, {"f1"}) == [old.folder.path.name]
    assert older_sweeps(study, {"g2"}) == older_sweeps(study, {}) == []
    (new.folder.path / "sweep.json").write_text("{")
    assert older_sweeps(study, {"f2"}) == [old.folder.path.name], "a damaged record is passed over"


def test_a_comparison_names_the_sweep_of_version_1(tmp_path: Path) -> None:
    folders = [store(tmp_path / name, name, around).folder.path for name, around in (("f1", FIRST), ("g1", SECOND))]
    (pair,) = compare(read_sweeps(folders)).differences
    assert pair.reason is not None
    assert f"{folders[0].name}: Adapter version 1 measured this sweep" in pair.reason
    assert f"{folders[1].name}: Adapter version" not in pair.reason
    assert pair.paired_points == 1 and pd.isna(pair.visage.difference), "of points, only the origin is shared"


def test_records_of_both_versions_are_written_as_they_were_read() -> None:
    for around in (FIRST, SECOND):
        geometry = TargetGeometry.from_json(around)
        assert geometry is not None and geometry.to_json() == around
