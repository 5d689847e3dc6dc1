"""Test that a study of commit 3b5b360 is read, resumed, verified, compacted, reduced and reported as by that commit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.judges.degenerate import EARLIER_IDS
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from tests.e2e.conftest import tree
from tests.e2e.old_study import DATA, OBSERVED, REQUESTS, call, compact, meta, study, sweeps
from workers.engines.base import device_name

ARTIFACTS = (".png", ".svg", ".pdf", ".html", ".log")  # drawn again by each run, and not part of the test data
RESULT_FILES = ("landscape.parquet", "summary.json")
SCHEMAS = {
    "directions": "direction/1",
    "prompts": "prompts/1",
    "generations": "generations/1",
    "judgements": "judgements/1",
    "sweeps": "landscape/5",
}
# Fields that newer versions fill differently. Verdicts, ASR, VISAGE and the radius are not among them.
CHANGED = (
    ".check",  # the hash of the file
    ".visage.reason",  # grids without VISAGE say why, whatever their range
    ".visage.by_direction.reason",
    ".degenerate_share",  # the judge of degeneracy has a new version
    ".remedy",  # lists the options
    ".checkpoints.radii",  # in units of the mean radius, and `radii_unit` says so
    ".visage.over.directions.se",  # intervals of version 2, as `intervals_version` says
    ".visage.enough.half_width",
    ".basin.mean_radius.high",
    ".findings.bound",  # the gate recomputes the intervals
    ".findings.reason",
    ".chart-data",  # the hash of the data of charts, which name what their intervals cover
)
# Columns that a new version of the judge `degenerate` fills differently when a sweep is reduced again.
OF_DEGENERACY = ("n_complied", "n_degenerate", "complied", "degenerate")
# Keys of summary.json whose values depend on the run.
RUN_KEYS = ("seconds", "tokens", "restarts", "actors", "versions", "check")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Copy the study, its adapter and its judge; return the folder."""
    for name in ("stored", "adapter", "judge"):
        shutil.copytree(DATA / name, tmp_path / name)
    return tmp_path


def evidence(folder: Path) -> dict[str, bytes]:
    """Return the content of every stored file except those that the test data leaves out."""
    return {name: content for name, content in tree(folder / "stored").items() if not name.endswith(ARTIFACTS)}


def changes(current: Any, earlier: Any, path: str = "") -> Iterator[str]:
    """Yield the path, without indices, of each value in `earlier` that differs, or is missing, in `current`."""
    if isinstance(earlier, dict) and isinstance(current, dict):
        for key, value in earlier.items():
            yield from changes(current[key], value, f"{path}.{key}") if key in current else [f"{path}.{key}"]
    elif isinstance(earlier, list) and isinstance(current, list) and len(current) == len(earlier):
        for pair in zip(current, earlier, strict=True):
            yield from changes(*pair, path)
    elif current != earlier:
        yield path


def assert_kept(current: Any, earlier: Any) -> None:
    """Assert that values of the first version are still there and equal, except in fields whose meaning changed."""
    assert [path for path in changes(current, earlier) if not path.endswith(CHANGED)] == []


def assert_equal_results(folder: Path, name: str) -> None:
    """Assert that a sweep's landscape and summary keep what those of the test data hold."""
    sweep = sweeps(folder)[name]
    summaries = [json.loads((root / sweep / "summary.json").read_text()) for root in (folder, DATA)]
    assert_kept(*summaries)
    assert_equal_landscape(folder / sweep, DATA / sweep)


CLASSES = ("n_complied", "n_degenerate", "n_unclear")
"""Columns whose sum is the number of successes."""


def assert_equal_landscape(sweep: Path, expected: Path) -> None:
    """Assert that a sweep's landscape has the rows and columns of the test data, and perhaps newer columns."""
    paths = [folder / "landscape.parquet" for folder in (sweep, expected)]
    landscape, earlier = (pq.read_table(path).replace_schema_metadata() for path in paths)
    kept = [name for name in earlier.schema.names if name not in OF_DEGENERACY]
    assert landscape.select(kept).equals(earlier.select(kept))
    assert (meta(paths[0])["schema"], meta(paths[1])["schema"]) == (SCHEMAS["sweeps"], "landscape/2")
    classes = [
        sum(table[name].to_numpy() for name in CLASSES if name in table.schema.names) for table in (landscape, earlier)
    ]
    assert (classes[0] == classes[1]).all(), "another version of the judge of degeneracy changes no number of successes"


def assert_equal_scalars(actual: Path, expected: Path) -> None:
    """Assert that files of a direction hold the same scalars. The first version did not store the tensors' shapes."""
    one, other = (pq.read_table(path).replace_schema_metadata() for path in (actual, expected))
    assert one.select(other.schema.names).equals(other)
    assert meta(actual)["direction"] == meta(expected)["direction"]


def verdicts(folder: Path) -> dict[tuple[str, ...], tuple[Any, ...]]:
    """Map (judge id, point, prompt set, prompt) to (response id, verdict, score). Judge folders are named by id."""
    result = {}
    for path in study(folder).glob("judgements/*/*.parquet"):
        for row in pq.read_table(path).to_pylist():
            assert path.parent.name == row["judge_id"]
            key = (row["judge_id"], row["point_id"], row["prompt_set_id"], row["prompt_id"])
            result[key] = (row["response_id"], row["verdict"], row["score"])
    return result


@pytest.mark.parametrize("name", [name for name in OBSERVED if name != "compact"])
def test_output_equals_the_expected_output(name: str, old: Path) -> None:
    expected = json.loads((DATA / "expected" / f"{name}.json").read_text(encoding="utf-8"))
    assert_kept(json.loads(json.dumps(OBSERVED[name](old))), expected)


def test_reduce_gives_the_same_bytes_before_and_after_compact(old: Path) -> None:
    def reduce(name: str) -> None:
        sweep = sweeps(old)[name]
        for answer in RESULT_FILES:
            (old / sweep / answer).unlink()
        completed = call(old, "reduce", str(sweep), "--json")
        assert completed.returncode == 0, completed.stderr
        assert_equal_results(old, name)
        printed, stored = json.loads(completed.stdout), json.loads((DATA / sweep / "summary.json").read_text())
        assert printed.pop("paths").keys() >= {"landscape", "summary", "report"}
        assert stored.pop("check")
        assert_kept(printed, stored)

    reduce("plane")
    expected = json.loads((DATA / "expected" / "compact.json").read_text(encoding="utf-8"))
    for count in ("before", "after"):  # `reduce` has stored one file more: verdicts of the current judge `degenerate`
        expected["output"][study(DATA).relative_to(DATA).as_posix()][count] += 1
    compacted = json.loads(json.dumps(compact(old)))
    for counts in compacted["output"].values():
        assert counts.pop("schema") == "compaction/1"
    assert compacted == expected
    for name in ("line", "adapter", "given_up"):
        reduce(name)


def test_repeating_a_request_runs_nothing_and_adds_no_row(old: Path) -> None:
    """A task that was given up is not tried again without `retry=failed`, and the exit code shows that."""
    before = evidence(old)
    completed = call(old, "run", *REQUESTS["given_up"])
    assert completed.returncode == 3, completed.stderr
    assert_equal_results(old, "given_up")
    after = evidence(old)
    new = {name for name in after.keys() - before.keys() if f"/judgements/{DEGENERATE.id}/" not in name}
    assert new == set() and before.keys() <= after.keys(), "a run that measures anything leaves a record of its own"
    assert [name for name in before if after[name] != before[name] and not name.endswith(RESULT_FILES)] == []


def test_deleted_files_other_than_responses_are_written_again_unchanged(old: Path) -> None:
    """Study, prompt sets, verdicts and sweep written by the current code have the same ids, names and content.

    The request of `adapter` is another sweep now, so this one is judged again, with its stored prompt set.
    """
    root, line = study(old), old / sweeps(old)["line"]
    line_sets = json.loads((line / "sweep.json").read_text())["request"]["prompt_set_ids"]
    prompts = [root / "prompts" / f"{set_id}.parquet" for set_id in line_sets]
    assert len(prompts) == 5
    answers = [old / sweeps(old)[name] / file for name in ("line", "adapter") for file in RESULT_FILES]
    judges = [old / sweeps(old)["adapter"] / "judges" / "harmbench_llama2.json"]
    for path in (*prompts, *answers, *judges, root / "study.json", line / "sweep.json"):
        path.unlink()
    shutil.rmtree(root / "judgements")
    of_judge = [option for option in REQUESTS["adapter"] if option.startswith("judging.")]
    for name, arguments in (("line", REQUESTS["line"]), ("adapter", (str(sweeps(old)["adapter"]), *of_judge))):
        completed = call(old, "run" if name == "line" else "judge", *arguments)
        assert completed.returncode == 0, completed.stderr
        assert_equal_results(old, name)
    for path in (root / "study.json", line / "sweep.json", *judges):
        assert path.read_text() == (DATA / path.relative_to(old)).read_text()
    for path in prompts:
        one, other = pq.read_table(path), pq.read_table(DATA / path.relative_to(old))
        assert one.schema.equals(other.schema) and one.equals(other)
        footer, earlier = meta(path), meta(DATA / path.relative_to(old))
        assert footer.pop("check") != earlier.pop("check")
        assert footer.pop("template") == "chat_template.jinja", "the first version did not store it"
        assert footer == earlier
    before, after = evidence(DATA), evidence(old)
    others = {name for name in before if "/judgements/" not in name}
    assert others == {name for name in after if "/judgements/" not in name}, "no other name, and nothing generated"
    assert all(after[name] == before[name] for name in others if "/generations/" in name)
    current, original = verdicts(old), verdicts(DATA)
    kept = {key: value for key, value in current.items() if key[0] != DEGENERATE.id}
    assert kept.items() <= original.items()
    assert {key[0] for key in kept} == {key[0] for key in original} - set(EARLIER_IDS.values())
    files = {path.relative_to(root) for path in root.rglob("*.parquet")}
    schemas = {(path.parts[0], meta(root / path)["schema"]) for path in files}
    assert schemas == {*SCHEMAS.items(), ("sweeps", "landscape/2")}, "sweeps that were not reduced stay as they were"


@pytest.mark.engine
@pytest.mark.cluster
def test_a_deleted_part_is_generated_again_with_equal_rows(old: Path) -> None:
    """The engine counts as the stored one, unless its arithmetic differs (another kind of CPU): then rows may too."""
    root, line = study(old), old / sweeps(old)["line"]
    part, original = next(
        (path, meta(path))
        for path in sorted(root.glob("generations/*.parquet"))
        if len(meta(path)["tasks"]) == 5 and pq.read_table(path)["point"][0].as_py() != "[]"
    )
    runs = set(line.glob("runs/*.json"))
    shutil.rmtree(root / "directions")
    part.unlink()
    same = device_name("cpu") == original["engine"]["device"]
    completed = call(old, "run", *REQUESTS["line"], *([] if same else ["engine.mix=true"]))
    assert completed.returncode == 0, completed.stderr
    (run,) = (json.loads(path.read_text()) for path in set(line.glob("runs/*.json")) - runs)
    assert (run["tasks"], run["visits"], run["responses"], run["outcome"]) == (5, 1, 20, "complete")
    (note,) = run["notes"]
    assert original["engine_id"] in note and "kv_blocks" in note and "attention_backend" in note
    current = meta(part)
    assert [task[:3] for task in current["tasks"]] == [task[:3] for task in original["tasks"]]
    assert pq.read_schema(part).names == pq.read_schema(DATA / part.relative_to(old)).names
    directions = list(root.glob("directions/*.parquet"))
    assert directions
    for path in directions:
        assert_equal_scalars(path, DATA / path.relative_to(old))
    assert current["engine_id"] != original["engine_id"] == "ae6b07a531ed0a71", "ids of stored engines stay"
    if not same:
        pytest.skip(f"rows were generated, but by another engine: {current['engine']}")
    assert current["tasks"] == original["tasks"], "tasks include the hash of their rows"
    assert_equal_landscape(line, DATA / line.relative_to(old))
    summaries = [json.loads((path / "summary.json").read_text()) for path in (line, DATA / line.relative_to(old))]
    for summary in summaries:
        assert all(summary.pop(key) is not None for key in RUN_KEYS)
    new, old_engines = summaries[0].pop("engines"), summaries[1].pop("engines")
    assert len(new) == 2 and current["engine"] in new, "the engine of the new rows is described by schema 2"
    assert [engine for engine in new if engine != current["engine"]] == old_engines
    assert_kept(*summaries)


def test_results_of_adapter_version_1_come_with_a_note(old: Path) -> None:
    line, adapter = (str(sweeps(old)[name]) for name in ("line", "adapter"))
    note = "Adapter version 1 measured this sweep: where its targets (adapter) are LoRA adapters, their weights were"
    assert note in " ".join(call(old, "reduce", adapter).stderr.split())
    assert note in (old / adapter / "report.html").read_text(encoding="utf-8")
    compared = json.loads(call(old, "compare", line, adapter, "--json").stdout)
    assert note in compared["differences"][0]["reason"]
    assert "Adapter version" not in call(old, "reduce", line).stderr, "it has no targets"


@pytest.mark.engine
@pytest.mark.cluster
def test_a_request_of_adapter_version_1_starts_a_new_sweep(old: Path) -> None:
    """The stored sweep is named in one sentence, and no file of it, no response and no verdict changes."""
    before, first = evidence(old), sweeps(old)["adapter"]
    request = [option for option in REQUESTS["adapter"] if not option.startswith("judg")]
    completed = call(old, "run", *request, "judges=[keyword,keyword_plus]", "engine.mix=true")
    assert completed.returncode == 0, completed.stderr
    sentence = f"Sweeps of adapter version 1 stay as they are and are not added to ({first.name}): this is a new sweep"
    assert sentence in " ".join(completed.stderr.split())
    after = evidence(old)
    assert {name: after[name] for name in before} == before
    (second,) = {path.relative_to(old) for path in old.glob("stored/*/sweeps/adapter-*")} - {first}
    around, former = (json.loads((old / path / "sweep.json").read_text())["around"] for path in (second, first))
    assert around["adapter_version"] == 2 and around["lengths"].keys().isdisjoint(former["lengths"])
    (length,), (rounded,) = around["lengths"].values(), former["lengths"].values()
    assert length == pytest.approx(rounded, rel=1e-3) and length != rounded
    (record,) = (json.loads(path.read_text()) for path in (old / second).glob("runs/*.json"))
    assert (record["tasks"], record["responses"]) == (2, 8), "the origin is stored already"
