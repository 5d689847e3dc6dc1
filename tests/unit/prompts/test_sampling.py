"""Samples of questions are seeded, stratified by subject and unbiased."""

from __future__ import annotations

import collections
import dataclasses
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.prompts.probe_sets import ProbeSet, load_probe_set
from orchestrator.prompts.sampling import stratified_order
from orchestrator.utils.errors import UserError
from tests.unit.prompts.test_probe_sets import preset

SIZES = {"algebra": 100, "anatomy": 135, "law": 1534, "virology": 166, "world religions": 171}


def write_questions(path: Path, sizes: dict[str, int] = SIZES) -> Path:
    rows = [
        {"question": f"{subject} {i}?", "subject": subject, "choices": ["w", "x", "y", "z"], "answer": i % 4}
        for subject, n in sizes.items()
        for i in range(n)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def load(path: Path, limit: int | None, **options: object) -> ProbeSet:
    return load_probe_set(preset("mmlu_letters", path=str(path), limit=limit, **options))


def subjects(probes: ProbeSet) -> collections.Counter[str]:
    return collections.Counter(prompt.category for prompt in probes.prompts)


def test_limit_takes_every_subject_in_proportion_to_its_size(tmp_path: Path) -> None:
    """The first 200 rows of MMLU are of two subjects."""
    path = write_questions(tmp_path / "q.parquet")
    total = sum(SIZES.values())
    for limit in (20, 50, 211, 1000):
        probes = load(path, limit)
        assert len(probes.prompts) == limit
        counts = subjects(probes)
        assert all(abs(counts[name] - limit * size / total) < 1.5 for name, size in SIZES.items()), counts
    everything = load(path, None)
    kept = {prompt.text: i for i, prompt in enumerate(everything.prompts)}
    places = [kept[prompt.text] for prompt in probes.prompts]
    assert places == sorted(places), "questions of a subject stay together, as in the file"


def test_the_seed_alone_decides_the_sample(tmp_path: Path) -> None:
    path = write_questions(tmp_path / "q.parquet")
    chosen = {prompt.id for prompt in load(path, 40).prompts}
    assert {prompt.id for prompt in load(path, 40).prompts} == chosen
    assert {prompt.id for prompt in load(path, 40, sample=1).prompts} != chosen
    assert {prompt.id for prompt in load(path, 80).prompts} > chosen, "a larger limit adds questions"
    shuffled = tmp_path / "other.parquet"
    pq.write_table(pq.read_table(path).sort_by([("question", "descending")]), shuffled)
    assert {prompt.id for prompt in load(shuffled, 40).prompts} == chosen
    second = {prompt.id for prompt in load(path, 40, offset=40).prompts}
    assert not second & chosen and {prompt.id for prompt in load(path, 80).prompts} == second | chosen


def test_rows_of_one_subject_and_of_the_projects_own_files_are_drawn_at_random_if_their_order_does_not_matter(
    tmp_path: Path,
) -> None:
    path = write_questions(tmp_path / "q.parquet", {"algebra": 60})
    first = load(path, 20, sample=None, shuffle=0)
    chosen = {prompt.id for prompt in first.prompts}
    assert chosen != {prompt.id for prompt in load(path, 20, sample=None).prompts}
    assert chosen != {prompt.id for prompt in load(path, 20, sample=None, shuffle=1).prompts}
    rest = [load(path, 20, sample=None, shuffle=0, offset=offset) for offset in (20, 40)]
    assert len(chosen.union(*({prompt.id for prompt in probes.prompts} for probes in rest))) == 60
    own = preset("capability_choice", limit=40, sample=None)
    assert load_probe_set(own).prompts != load_probe_set(dataclasses.replace(own, shuffle=0)).prompts
    for options, is_random in (({"shuffle": 0}, True), ({"shuffle": None}, False)):
        assert load(path, 20, sample=None, **options).is_in_random_order is is_random
    assert load_probe_set(own).is_in_random_order
    with pytest.raises(UserError, match=r"probes.shuffle=1: cannot be combined with probes.sample"):
        load(path, 20, sample=0, shuffle=1)


def test_every_question_is_drawn_equally_often() -> None:
    categories = ["a"] * 3 + ["b"] * 7 + ["c"] * 20
    drawn: collections.Counter[int] = collections.Counter()
    seeds = 3000
    for seed in range(seeds):
        drawn.update(stratified_order(categories, [str(i) for i in range(30)], seed)[:6])
    shares = [drawn[i] / seeds for i in range(30)]  # 6 of 30 are drawn; the standard error is 0.0073
    assert all(abs(share - 0.2) < 0.03 for share in shares), shares


def test_one_subject_and_the_projects_own_files_keep_their_first_rows(tmp_path: Path) -> None:
    path = write_questions(tmp_path / "q.parquet", {"algebra": 30})
    assert [prompt.text.split("?")[0] for prompt in load(path, 2).prompts] == ["algebra 0", "algebra 1"]
    path = write_questions(tmp_path / "q.parquet")
    assert set(subjects(load(path, 50, sample=None))) == {"algebra"}
    for name in ("capability_choice", "capability_exact"):
        everything = load_probe_set(preset(name)).prompts
        assert load_probe_set(preset(name, limit=40, sample=7)).prompts == everything[:40]


def test_repeated_questions_are_left_out_with_a_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """MMLU's test split has 27 questions twice in a subject and 78 in two subjects (hendrycks/test issue 29)."""
    path = tmp_path / "q.jsonl"
    row = '{"question": "%s", "subject": "%s", "choices": ["x", "y"], "answer": 1}\n'
    path.write_text(row % ("1?", "a") + row % ("2?", "a") + row % ("1?", "b") + row % ("3?", "b") + row % ("3?", "b"))
    with caplog.at_level(logging.INFO):
        assert [prompt.text[0] for prompt in load(path, None).prompts] == ["1", "2", "3"]
    assert "2 of 5 questions repeat an earlier one" in caplog.text
