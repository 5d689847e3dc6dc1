"""Log-probabilities are stored by content: whole or not at all, each once, and never those of another study."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.store.compaction import compact
from orchestrator.store.log_probabilities import NOT_STORED, LogProbabilities, integers
from orchestrator.store.schemas import LOG_PROBABILITIES
from orchestrator.store.study import Study
from orchestrator.store.verification import verify
from orchestrator.sweep.continuations import Continuation, context_id
from orchestrator.utils.hashing import content_id, text_id
from tests.unit.store.studies import ENGINE, INFO, reopen

OTHER_ENGINE = {"engine": "dummy", "version": 2}
CONTEXT = context_id([1, 2])
IDS = [text_id(f"text {i}") for i in range(6)]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create(tmp_path / "studies", INFO)


def store(study: Study, name: str, means: dict[str, float | None], engine: dict[str, object] = ENGINE) -> Path:
    rows = [
        {
            "context_id": CONTEXT,
            "prompt_id": "p",
            "response_id": response_id,
            "n_tokens": 3,
            "mean": mean,
            "engine_id": content_id(engine),
        }
        for response_id, mean in means.items()
    ]
    study.log_probabilities.write(name, pa.Table.from_pylist(rows, schema=LOG_PROBABILITIES), engine)
    return study.log_probabilities.path / f"{name}.parquet"


def means(study: Study) -> list[float | None]:
    """Return the mean of each of IDS, and None where it is undefined or not stored."""
    found, _ = study.log_probabilities.read().find(integers([CONTEXT] * len(IDS)), integers(IDS))
    return [None if math.isnan(mean) else mean for mean in found.tolist()]


def test_keys_depend_on_every_token_of_the_prompt_and_every_character_of_the_text() -> None:
    pairs = [([1, 2], "a"), ([1], "a"), ([12], "a"), ([1, 2], "a "), ([1, 2], ""), ([2, 1], "a")]
    wanted = [Continuation(context_id(p), "", (), t) for p, t in pairs]
    keys = {(continuation.context_id, continuation.response_id) for continuation in wanted}
    assert len(keys) == len(pairs)


def test_measurements_are_found_by_content_and_undefined_ones_are_none(study: Study) -> None:
    assert means(study) == [None] * 6 and len(study.log_probabilities.read()) == 0
    store(study, "a", {IDS[0]: -1.5, IDS[2]: None})
    store(study, "b", {IDS[4]: -2.5})
    index = reopen(study).log_probabilities.read()
    found, n_tokens = index.find(integers([CONTEXT] * 6), integers(IDS))
    np.testing.assert_array_equal(found, [-1.5, np.nan, np.nan, np.nan, -2.5, np.nan])
    assert n_tokens.tolist() == [3, NOT_STORED, 3, NOT_STORED, 3, NOT_STORED]
    other = integers([context_id([9])] * 6)
    assert set(index.find(other, integers(IDS))[1].tolist()) == {NOT_STORED}, "the same text after another prompt"


def test_writing_again_changes_nothing_and_of_two_engines_one_value_counts(study: Study) -> None:
    path = store(study, "a", {IDS[0]: -1.5})
    before = path.read_bytes()
    assert store(study, "a", {IDS[0]: -1.5}).read_bytes() == before
    store(study, "b", {IDS[0]: -1.25, IDS[1]: -3.0}, OTHER_ENGINE)
    assert means(study)[:2] == [-1.5, -3.0]
    assert len(study.log_probabilities.read()) == 2


@pytest.mark.parametrize("change", [{"fingerprint": "other weights"}, {"dtype": "bfloat16"}, {"noise_version": 2}])
def test_rows_of_another_study_never_count(study: Study, change: dict[str, object]) -> None:
    other = Study.create(study.out, dataclasses.replace(INFO, model="other", **change))  # type: ignore[arg-type]
    foreign = store(other, "foreign", {IDS[0]: -9.0})
    study.log_probabilities.path.mkdir(parents=True)
    copied = study.log_probabilities.path / "foreign.parquet"
    shutil.copy(foreign, copied)
    store(study, "own", {IDS[1]: -1.0})
    reader = reopen(study)
    assert means(reader)[:2] == [None, -1.0]
    assert list(reader.problems) == [copied] and copied.exists()
    assert [finding.path for finding in verify(reader).findings] == [copied]
    assert means(study)[:2] == [None, -1.0]
    assert not copied.exists() and len(study.damaged()) == 1, "a study that is open for writing moves it aside"


def test_rows_of_another_scorer_version_are_separate(study: Study) -> None:
    path = store(study, "a", {IDS[0]: -1.0})
    later = LogProbabilities(study, 2)
    assert len(later.read()) == 0
    later.path.mkdir()
    shutil.copy(path, later.path)
    assert len(later.read()) == 0 and not study.problems.keys() & {path}
    assert means(study)[0] == -1.0


def test_a_damaged_part_is_reported_and_its_rows_are_missing(study: Study) -> None:
    path = store(study, "a", {IDS[0]: -1.0, IDS[1]: -2.0})
    store(study, "b", {IDS[2]: -3.0})
    assert verify(reopen(study)).is_sound and verify(reopen(study)).rows == 3
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    (finding,) = verify(reopen(study)).findings
    assert finding.path == path and "measure" in finding.remedy
    assert means(reopen(study))[:3] == [None, None, -3.0]


def test_compaction_merges_by_engine_and_keeps_every_row_once(study: Study) -> None:
    for i, response_id in enumerate(IDS[:4]):
        store(study, f"part{i}", {response_id: -float(i), IDS[0]: -0.0})
    store(study, "second", {IDS[4]: -4.0}, OTHER_ENGINE)
    store(study, "third", {IDS[5]: None}, OTHER_ENGINE)
    expected = means(study)
    result = compact(study)
    assert (result.before, result.after, result.removed) == (6, 2, 6)
    assert means(reopen(study)) == expected and verify(reopen(study)).rows == 6
    again = compact(study)
    assert (again.before, again.after, again.removed) == (2, 2, 0)
    engines = [meta["engine"] for _, meta, _ in study.log_probabilities.parts()]
    assert sorted(engine["version"] for engine in engines) == [1, 2]


def test_an_interrupted_compaction_loses_nothing(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, response_id in enumerate(IDS):
        store(study, f"part{i}", {response_id: -float(i)})
    expected = means(study)

    def die(self: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            compact(study)
    assert means(reopen(study)) == expected
    assert compact(study).after == 1 and means(study) == expected
