"""Questions of both formats from the command line to stored results, on the dummy engine."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import call
from tests.harness.environment import QUESTIONS

pytestmark = pytest.mark.cluster

TEST, DEV = (f"probes.{key}={QUESTIONS / name}" for key, name in (("path", "test.jsonl"), ("shots_path", "dev.jsonl")))


def run(out: Path, *options: str) -> Path:
    """Run a sweep of the questions; return its folder."""
    arguments = (f"out={out}", "engine=dummy", "grid.steps=2", "grid.directions=1", TEST)
    result = call("run", *arguments, *options)
    assert result.code == 0, result.err
    (sweep,) = out.glob("*/sweeps/*")
    return sweep


def test_the_two_formats_are_measured_under_their_names_and_never_compared(tmp_path: Path) -> None:
    harness = run(tmp_path / "harness", "probes=mmlu", DEV)
    ours = run(tmp_path / "ours", "probes=mmlu_letters")
    names = [set(pq.read_table(sweep / "landscape.parquet")["probe_set"].to_pylist()) for sweep in (harness, ours)]
    assert names == [{"mmlu_5shot"}, {"mmlu_letters"}]
    for sweep, tokens in ((harness, 4), (ours, 0)):
        (file,) = sweep.parents[1].glob("prompts/*.parquet")
        sampling = json.loads(pq.read_schema(file).metadata[b"safety_landscape"])["sampling"]
        assert sampling["letters"] == ["A", "B", "C", "D"] and len(sampling.get("letter_tokens", ())) == tokens
    compared = call("compare", str(harness), str(ours), "--json")
    assert compared.code == 0, compared.err
    (difference,) = json.loads(compared.out)["differences"]
    reason = "answers are scored in lm-evaluation-harness's format and in this project's own format: not comparable"
    assert difference["reason"] == difference["visage"]["reason"] == reason
    assert difference["points"] == [] and difference["paired_probes"] == 0
    same = json.loads(call("compare", str(harness), str(harness), "--json").out)["differences"][0]
    assert same["paired_probes"] == 18 and len(same["points"]) == 3


def test_a_sweep_is_resumed_with_the_prompt_set_that_it_stored(tmp_path: Path) -> None:
    run(tmp_path, "probes=mmlu", DEV, "probes.limit=6")
    again = call(
        "run",
        f"out={tmp_path}",
        "engine=dummy",
        "grid.steps=2",
        "grid.directions=1",
        TEST,
        "probes=mmlu",
        DEV,
        "probes.limit=6",
    )
    assert again.code == 0 and "Nothing to run: 3 of 3 tasks" in again.err
    assert len(list(tmp_path.glob("*/prompts/*.parquet"))) == 1
