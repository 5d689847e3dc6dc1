"""A study's identity, prompt sets and directions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.store.discovery import find_study_roots
from orchestrator.store.files import (
    DamagedFileError,
    MissingFileError,
    publish_json,
)
from orchestrator.store.study import Study, StudyInfo
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.utils.errors import UserError
from tests.unit.store.studies import INFO, reopen, write_part

prompts = st.builds(
    Prompt,
    text=st.text(max_size=20),
    group=st.just("harmful"),
    category=st.text(max_size=5),
    pair_id=st.none() | st.text(max_size=5),
    target=st.none() | st.text(max_size=5),
    choices=st.lists(st.text(max_size=3), max_size=2).map(tuple),
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(prompts, st.text(max_size=9), st.lists(st.integers(0, 2**31 - 1), max_size=4)), max_size=4),
    st.builds(Sampling, st.integers(1, 999), st.lists(st.text(max_size=4)).map(tuple), st.just(("A", "B"))),
)
def test_prompt_sets_are_read_with_their_ids(
    study: Study, entries: list[tuple[Prompt, str, list[int]]], sampling: Sampling
) -> None:
    stored = PromptSet(
        group="harmful",
        prompts=tuple(p for p, _, _ in entries),
        rendered=tuple(r for _, r, _ in entries),
        token_ids=tuple(tuple(t) for _, _, t in entries),
        sampling=sampling,
        probe_set="ours",
        system_prompt="empty",
    )
    shutil.rmtree(study.root / "prompts", ignore_errors=True)  # categories are not part of the id: the first ones stay
    study.prompt_sets.write(stored)
    study.prompt_sets.write(stored)
    assert reopen(study).prompt_sets.read(stored.id) == stored


def test_a_stored_prompt_set_without_a_template_is_left_as_it_is(study: Study) -> None:
    first = PromptSet("harmful", (Prompt("Hi", category="a"),), ("Hi",), ((1,),), Sampling(), "p", "default")
    known = PromptSet("harmful", (Prompt("Hi"),), ("Hi",), ((1,),), Sampling(), "q", "default", template="none")
    study.prompt_sets.write(first)
    (path,) = (study.root / "prompts").iterdir()
    before = path.read_bytes()
    assert known.id == first.id
    study.prompt_sets.write(known)
    assert path.read_bytes() == before


def test_directions_are_stored_once_per_model(study: Study, tmp_path: Path) -> None:
    scalars = pa.table({"tensor": ["a", "b"], "on_self": [0.5, 2.0]})
    assert study.directions.read("d") is None
    study.directions.write("d", {"kind": "random"}, scalars)
    assert study.directions.read("d").equals(scalars)
    other = Study.create(tmp_path / "studies", StudyInfo("other", "another fingerprint", "float32", 1))
    (other.root / "directions").mkdir()
    shutil.copy(study.root / "directions" / "d.parquet", other.root / "directions")
    assert other.directions.read("d") is None
    assert [p.name for p in other.damaged()] == ["d.parquet"]


def test_a_damaged_study_json_is_written_again_and_its_parts_stay(study: Study) -> None:
    write_part(study, "p")
    path = study.root / "study.json"
    text = path.read_text()
    path.write_text(text.replace(study.id, "0" * 16))
    with pytest.raises(UserError, match="does not verify"):
        Study.open(study.root)
    reopened = Study.create(study.out, INFO)
    assert reopened.id == study.id and len(reopened.generations.stored()) == 1
    assert path.read_text() == text and len(reopened.damaged()) == 1


def test_a_foreign_document_with_a_valid_checksum_is_not_a_study(study: Study) -> None:
    document = {**study.info.to_json(), "fingerprint": "another"}
    publish_json(study.out, study.root / "study.json", document)
    with pytest.raises(UserError, match="not that of its model"):
        Study.open(study.root)


def test_a_damaged_prompt_set_is_stored_again(study: Study) -> None:
    prompt_set = PromptSet("harmful", (Prompt("how?"),), ("how?",), ((1,),), Sampling(8))
    with pytest.raises(MissingFileError):
        study.prompt_sets.read(prompt_set.id)
    study.prompt_sets.write(prompt_set)
    path = study.root / "prompts" / f"{prompt_set.id}.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedFileError):
        study.prompt_sets.read(prompt_set.id)
    study.prompt_sets.write(prompt_set)
    assert study.prompt_sets.read(prompt_set.id) == prompt_set and len(study.damaged()) == 1


def test_finding_and_reading_studies_changes_nothing(study: Study, tmp_path: Path) -> None:
    before = sorted(study.out.rglob("*"))
    assert find_study_roots(study.out) == [study.root]
    assert Study.locate(study.out, INFO).root == study.root
    with pytest.raises(UserError, match="there is no study in that folder"):
        find_study_roots(tmp_path / "nowhere")
    assert reopen(study).generations.stored() == {}
    with pytest.raises(UserError, match=r"no study\.json"):
        Study.open(tmp_path)
    assert sorted(study.out.rglob("*")) == before


def test_reading_imports_no_heavy_library() -> None:
    heavy = ("torch", "ray", "pandas", "vllm")
    code = f"import sys, orchestrator.store.study; print([m for m in {heavy} if m in sys.modules])"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "[]"
