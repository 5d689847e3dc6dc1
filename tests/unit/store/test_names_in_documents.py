"""Names in stored documents that others wrote: none of them leads a read or a write out of the study's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.pipeline.rejudge import with_judges
from orchestrator.store.directions import Directions
from orchestrator.store.errors import StorageError
from orchestrator.store.files import DamagedFileError, publish_json, read_json
from orchestrator.store.records import RunRecord, SweepRecord
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.utils.errors import UserError
from tests.unit.stored import basin, store_sweep

pytestmark = pytest.mark.thorough

OUTSIDE = "../../../outside"


def edit(path: Path, **fields: Any) -> None:
    """Change fields of a stored document and make its hash anew."""
    publish_json(path.parents[3], path, read_json(path) | fields)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return store_sweep(tmp_path / "studies", basin(0.2))


def open_sweep(sweep: Path) -> StoredSweep:
    return StoredSweep.open(SweepFolder(Study.open(sweep.parents[1]), sweep))


def test_a_sweeps_name_does_not_lead_out_of_its_study(sweep: Path) -> None:
    edit(sweep / "sweep.json", name=OUTSIDE)
    with pytest.raises(UserError, match="cannot be the name of a file"):
        with_judges(open_sweep(sweep), ("keyword_plus",))


@pytest.mark.parametrize("key", ["prompt_set_ids", "judges"])
def test_a_requests_names_do_not_lead_out_of_the_study(sweep: Path, key: str) -> None:
    request = read_json(sweep / "sweep.json")["request"]
    edit(sweep / "sweep.json", request=request | {key: [OUTSIDE]})
    with pytest.raises(UserError, match="cannot be the name of a file"):
        open_sweep(sweep)


def test_a_runs_name_does_not_lead_out_of_the_study() -> None:
    with pytest.raises(DamagedFileError, match="cannot be the name of a file"):
        RunRecord.from_json({"run": OUTSIDE})
    with pytest.raises(DamagedFileError, match="cannot be the name of a file"):
        SweepRecord.from_json({"name": "s", "request": {}, "runs": [{"run": "a\nb"}]})


def test_every_path_of_a_study_is_inside_it(sweep: Path) -> None:
    study = Study.open(sweep.parents[1])
    for path in (study.judgements, study.events, study.prompt_sets.read, Directions(study).read):
        with pytest.raises(DamagedFileError, match="cannot be the name of a file"):
            path(OUTSIDE)


def test_a_models_name_does_not_lead_out_of_the_folder_of_studies(tmp_path: Path) -> None:
    for model in ("meta-llama/Llama-2-7b", "../outside", "a\nb"):
        study = Study.create(tmp_path / "studies", StudyInfo(model, "fingerprint", "float32", 1))
        assert study.root.parent == tmp_path / "studies"
        assert study.info.model == model
    assert sorted(path.name for path in tmp_path.iterdir()) == ["studies"]


def test_nothing_is_written_through_a_link_inside_a_study(sweep: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (sweep / "figures").symlink_to(elsewhere)
    with pytest.raises(StorageError, match="link inside a study"):
        open_sweep(sweep).folder.write_figure("landscape.svg", lambda path: path.touch())
    assert not list(elsewhere.iterdir())
