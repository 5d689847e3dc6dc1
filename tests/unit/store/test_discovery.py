"""Find studies and sweeps below a root of studies, a study's folder or a sweep's folder."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from orchestrator import load_study
from orchestrator.cli.main import main
from orchestrator.store.discovery import (
    find_studies,
    find_study_roots,
    find_sweeps,
    latest_results,
    latest_sweep,
    stored_identity,
)
from orchestrator.store.records import RunRecord, SweepRecord
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.utils.choices import StudyMode
from orchestrator.utils.errors import UserError
from tests.unit.store.studies import INFO
from tests.unit.stored import basin, store_sweep


@pytest.fixture
def sweep(tmp_path: Path) -> tuple[Study, Path]:
    """A study with one sweep, and the sweep's folder."""
    folder = store_sweep(tmp_path, basin(0.3), directions=1)
    return Study.open(folder.parents[1]), folder


def test_the_latest_sweep_is_the_one_that_ran_last(sweep: tuple[Study, Path]) -> None:
    study, folder = sweep
    other = SweepFolder(study, study.root / "sweeps" / "other-00000000")
    other.write_record(SweepRecord(sweep_id="0", name="other", request={}))
    assert latest_sweep(study.out).path == other.path
    os.utime(other.path / "sweep.json", (1, 1))
    SweepFolder(study, folder).write_run(RunRecord(run="run100", started_at=100, outcome="running"))
    assert latest_sweep(study.out).path == folder


def test_results_are_those_of_the_last_sweep_that_has_some(
    sweep: tuple[Study, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """A sweep whose first run was killed has no results: the verbs and load_study take the one before and say so."""
    study, folder = sweep
    assert latest_results(study.out).path == folder and caplog.messages == []
    other = SweepFolder(study, study.root / "sweeps" / "other-00000000")
    other.write_record(SweepRecord(sweep_id="0", name="other", request={}))
    assert latest_results(study.out).path == load_study(study.root).sweep == folder
    assert len(caplog.messages) == 2
    assert all(text.startswith("other-00000000 was used last and has no results yet") for text in caplog.messages)
    assert latest_results(other.path).path == other.path  # the one that was named
    assert main(["gate", str(study.root), "visage=0", "gate.allow_single=true"]) == 0
    assert main(["report", str(study.root)]) == 0
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize("below", [(), ("sweeps",)], ids=["study", "sweeps"])
def test_a_sweep_is_found_by_a_relative_path(
    sweep: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch, below: tuple[str, ...]
) -> None:
    study, folder = sweep
    assert list(find_sweeps(folder)) != []
    monkeypatch.chdir(study.out)
    for path in (Path(study.root.name, *below), folder.relative_to(study.out), Path()):
        (discovered,) = find_sweeps(path)
        assert discovered.path.absolute() == folder


def test_a_study_that_cannot_be_opened_is_skipped_and_reported(sweep: tuple[Study, Path]) -> None:
    study, folder = sweep
    other = Study.create(study.out, StudyInfo("aaa", "another", "float32", 1)).root
    (other / "study.json").write_text("{")
    errors: list[UserError] = []
    assert [discovered.path for discovered in find_sweeps(study.out, errors.append)] == [folder]
    assert [valid.root for valid in find_studies(study.out, errors.append)] == [study.root]
    assert [error.value for error in errors] == [other, other]
    assert [discovered.path for discovered in find_sweeps(study.out)] == [folder]  # as `view` calls it
    assert find_study_roots(study.out) == [other, study.root]
    for find in (latest_sweep, find_studies):  # the latest sweep could be in the damaged study
        with pytest.raises(UserError, match=r"study\.json does not verify"):
            find(study.out)
    with pytest.raises(UserError, match=r"study\.json does not verify"):
        find_studies(other, errors.append)


def test_the_same_weights_under_another_name_continue_their_study(tmp_path: Path) -> None:
    out = tmp_path / "studies"
    other = dataclasses.replace(INFO, model="another", source="path")
    assert stored_identity(out, other, StudyMode.private) == other, "there is no study yet"
    first = Study.create(out, INFO)
    Study.create(out, dataclasses.replace(INFO, fingerprint="different"))
    continued = stored_identity(out, other, StudyMode.private)
    assert continued.model == INFO.model and Study.create(out, continued).root == first.root
    second = Study.create(out, other)  # as by earlier versions
    assert stored_identity(out, other, StudyMode.private).model == "another"
    assert stored_identity(out, INFO, StudyMode.private).model == INFO.model
    shutil.rmtree(second.root)
    (first.root / "study.json").write_text("{}")
    assert stored_identity(out, other, StudyMode.private) == other, "what does not verify is not continued"


def test_the_study_of_another_user_is_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "studies"
    Study.create(out, INFO)
    out.chmod(0o1777)
    other, user = dataclasses.replace(INFO, model="another"), os.geteuid()
    assert stored_identity(out, other, StudyMode.private).model == INFO.model
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert stored_identity(out, other, StudyMode.private) == other
