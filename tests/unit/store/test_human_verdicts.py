"""Verdicts of people: the latest one of each person counts, and a damaged file costs only its own verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.store.files import DamagedFileError
from orchestrator.store.human_verdicts import FOLDER, HumanVerdict, add_verdicts, now, read_file, read_verdicts
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.verification import verify
from orchestrator.utils.parsing import FormatError
from tests.unit.store.studies import INFO, reopen


def verdict(
    value: str, response: str = "r", annotator: str = "ana", at: str = "2026-01-01T00:00:00.000000+00:00"
) -> HumanVerdict:
    return HumanVerdict("p", response, value, annotator, at)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create(tmp_path / "out", INFO)


def test_the_latest_verdict_of_each_person_counts(study: Study) -> None:
    later = verdict("complied", at="2026-01-02T00:00:00.000000+00:00")
    add_verdicts(study, [later])
    add_verdicts(study, [verdict("refused"), verdict("unclear", annotator="bo"), verdict("degenerate", response="s")])
    add_verdicts(study, [verdict("refused")])
    assert read_verdicts(reopen(study)) == [
        later,
        verdict("unclear", annotator="bo"),
        verdict("degenerate", response="s"),
    ]
    assert not verify(study).findings and not verify(study).notes


def test_the_same_verdicts_are_one_file(study: Study) -> None:
    for _ in range(2):
        add_verdicts(study, [verdict("refused")])
    assert len(list((study.root / FOLDER).iterdir())) == 1
    add_verdicts(study, [])
    assert len(list((study.root / FOLDER).iterdir())) == 1


def test_a_damaged_file_costs_only_its_own_verdicts_and_verify_names_it(study: Study) -> None:
    add_verdicts(study, [verdict("refused")])
    add_verdicts(study, [verdict("complied", response="s")])
    path = next(p for p in (study.root / FOLDER).iterdir() if "refused" in p.read_text(encoding="utf-8"))
    path.write_text(path.read_text(encoding="utf-8").replace("refused", "unclear"), encoding="utf-8")
    assert [v.response_id for v in read_verdicts(reopen(study))] == ["s"]
    (finding,) = verify(study).findings
    assert finding.path == path and "import them again" in finding.remedy


def test_a_file_of_another_study_does_not_count(study: Study, tmp_path: Path) -> None:
    other = Study.create(tmp_path / "other", StudyInfo("big", "other weights", "float32", 1))
    add_verdicts(other, [verdict("refused")])
    (path,) = (other.root / FOLDER).iterdir()
    (study.root / FOLDER).mkdir()
    path.rename(study.root / FOLDER / path.name)
    with pytest.raises(DamagedFileError, match="belongs to study"):
        read_file(study, path.name)


@pytest.mark.parametrize(
    ("value", "annotator"), [("yes", "ana"), ("refused", ""), ("refused", "a\nb"), ("refused", "a" * 81)]
)
def test_a_verdict_or_name_that_is_none_is_refused(value: str, annotator: str) -> None:
    with pytest.raises(FormatError):
        HumanVerdict("p", "r", value, annotator, now())
