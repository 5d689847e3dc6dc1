"""A study made by commit 3b5b360 is read, resumed, checked, compacted, reduced and reported as it was then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import tree
from tests.e2e.old_study import DATA, OBSERVED, REQUESTS, call, compact, meta, study, sweeps

ARTIFACTS = (".png", ".svg", ".pdf", ".html", ".log")  # drawn anew by each run, and no part of the test data
ANSWERS = ("landscape.parquet", "summary.json")
SCHEMAS = {
    "directions": "direction/1",
    "prompts": "prompts/1",
    "generations": "generations/1",
    "judgements": "judgements/1",
    "sweeps": "landscape/2",
}
OF_THE_RUNS = ("seconds", "tokens", "restarts", "actors", "versions", "check")  # of summary.json


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the study, its adapter and its judge."""
    for name in ("stored", "adapter", "judge"):
        shutil.copytree(DATA / name, tmp_path / name)
    return tmp_path


def evidence(folder: Path) -> dict[str, bytes]:
    """Every file that the test data has, too."""
    return {name: content for name, content in tree(folder / "stored").items() if not name.endswith(ARTIFACTS)}


def equal_answers(folder: Path, name: str) -> None:
    """A sweep's landscape and summary are those of the test data, to the byte."""
    sweep = sweeps(folder)[name]
    assert (folder / sweep / "summary.json").read_text() == (DATA / sweep / "summary.json").read_text()
    equal_parquet(folder / sweep / "landscape.parquet", DATA / sweep / "landscape.parquet")


def equal_parquet(ours: Path, theirs: Path) -> None:
    """Equal tables, schemas and footers; equal bytes if this version of pyarrow wrote both."""
    one, other = pq.read_table(ours), pq.read_table(theirs)
    assert one.schema.equals(other.schema, check_metadata=True) and one.equals(other)
    if pq.read_metadata(theirs).created_by == f"parquet-cpp-arrow version {pa.__version__}":
        assert ours.read_bytes() == theirs.read_bytes()


def verdicts(folder: Path) -> dict[tuple[str, ...], tuple[Any, ...]]:
    """(judge id, point, prompt set, prompt) -> what was judged, and how, from the files. A judge's folder is its id."""
    found = {}
    for path in study(folder).glob("judgements/*/*.parquet"):
        for row in pq.read_table(path).to_pylist():
            assert path.parent.name == row["judge_id"]
            key = (row["judge_id"], row["point_id"], row["prompt_set_id"], row["prompt_id"])
            found[key] = (row["response_id"], row["verdict"], row["score"])
    return found


@pytest.mark.parametrize("name", [name for name in OBSERVED if name != "compact"])
def test_a_verb_says_what_it_said_then(name: str, old: Path) -> None:
    expected = json.loads((DATA / "expected" / f"{name}.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(OBSERVED[name](old))) == expected


def test_reduce_gives_the_same_bytes_before_and_after_compact(old: Path) -> None:
    def reduce(name: str) -> None:
        sweep = sweeps(old)[name]
        for answer in ANSWERS:
            (old / sweep / answer).unlink()
        done = call(old, "reduce", str(sweep), "--json")
        assert done.returncode == 0, done.stderr
        equal_answers(old, name)
        printed, stored = json.loads(done.stdout), json.loads((DATA / sweep / "summary.json").read_text())
        assert printed.pop("paths").keys() >= {"landscape", "summary", "report"}
        assert stored.pop("check") and printed == stored

    reduce("plane")
    expected = json.loads((DATA / "expected" / "compact.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(compact(old))) == expected
    for name in ("line", "adapter", "given_up"):
        reduce(name)


def test_the_same_request_has_nothing_left_to_run_and_adds_no_row(old: Path) -> None:
    """A task that was given up is not tried again unasked, and the exit code says that it is missing."""
    before = evidence(old)
    done = call(old, "run", *REQUESTS["given_up"])
    assert done.returncode == 3, done.stderr
    equal_answers(old, "given_up")
    after = evidence(old)
    assert after.keys() == before.keys(), "a run that measures anything leaves a record of its own"
    assert [name for name in before if after[name] != before[name] and not name.endswith("landscape.parquet")] == []


def test_everything_but_responses_is_made_again_as_it_was(old: Path) -> None:
    """What the current code writes has the ids, names and content of then: study, prompt sets, verdicts, sweep."""
    root, line = study(old), old / sweeps(old)["line"]
    prompts = [path for path in root.glob("prompts/*.parquet") if meta(path)["system_prompt"] == "default"]
    assert len(prompts) == 6
    answers = [old / sweeps(old)[name] / file for name in ("line", "adapter") for file in ANSWERS]
    judges = [old / sweeps(old)["adapter"] / "judges" / "harmbench_llama2.json"]
    for path in (*prompts, *answers, *judges, root / "study.json", line / "sweep.json"):
        path.unlink()
    shutil.rmtree(root / "judgements")
    for name in ("line", "adapter"):
        done = call(old, "run", *REQUESTS[name])
        assert done.returncode == 0, done.stderr
        equal_answers(old, name)
    for path in (root / "study.json", line / "sweep.json", *judges):
        assert path.read_text() == (DATA / path.relative_to(old)).read_text()
    for path in prompts:
        equal_parquet(path, DATA / path.relative_to(old))
    before, after = evidence(DATA), evidence(old)
    others = {name for name in before if "/judgements/" not in name}
    assert others == {name for name in after if "/judgements/" not in name}, "no other name, and nothing generated"
    assert all(after[name] == before[name] for name in others if "/generations/" in name)
    made, then = verdicts(old), verdicts(DATA)
    assert made.items() <= then.items() and {key[0] for key in made} == {key[0] for key in then}
    files = {path.relative_to(root) for path in root.rglob("*.parquet")}
    assert {(path.parts[0], meta(root / path)["schema"]) for path in files} == set(SCHEMAS.items())


@pytest.mark.engine
@pytest.mark.cluster
def test_a_part_that_is_gone_is_generated_again_with_equal_rows(old: Path) -> None:
    """On other arithmetic than that of then (another kind of CPU, another engine) rows come back, and may differ."""
    root, line = study(old), old / sweeps(old)["line"]
    part, then = next(
        (path, meta(path))
        for path in sorted(root.glob("generations/*.parquet"))
        if len(meta(path)["tasks"]) == 5 and pq.read_table(path)["point"][0].as_py() != "[]"
    )
    runs = set(line.glob("runs/*.json"))
    shutil.rmtree(root / "directions")
    part.unlink()
    done = call(old, "run", *REQUESTS["line"], "engine.mix=true")
    assert done.returncode == 0, done.stderr
    (run,) = (json.loads(path.read_text()) for path in set(line.glob("runs/*.json")) - runs)
    assert (run["tasks"], run["visits"], run["responses"], run["outcome"]) == (5, 1, 20, "complete")
    ours = meta(part)
    assert [task[:3] for task in ours["tasks"]] == [task[:3] for task in then["tasks"]]
    assert pq.read_schema(part).names == pq.read_schema(DATA / part.relative_to(old)).names
    directions = list(root.glob("directions/*.parquet"))
    assert directions
    for path in directions:
        equal_parquet(path, DATA / path.relative_to(old))
    if ours["engine_id"] != then["engine_id"]:
        pytest.skip(f"rows are there; this engine is another: {ours['engine']}")
    assert ours["tasks"] == then["tasks"], "the hash of what was observed"
    equal_parquet(line / "landscape.parquet", DATA / line.relative_to(old) / "landscape.parquet")
    summaries = [json.loads((path / "summary.json").read_text()) for path in (line, DATA / line.relative_to(old))]
    for summary in summaries:
        assert all(summary.pop(key) is not None for key in OF_THE_RUNS)
    assert summaries[0] == summaries[1]
