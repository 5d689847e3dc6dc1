"""Test a model judge on a real engine: the output of a tiny random model is stored; no verdict is guessed from it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.config.schema import Config, EngineConfig, JudgingConfig
from orchestrator.pipeline.reduce import judge_and_reduce
from orchestrator.pipeline.rejudge import with_judges
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from tests.unit.stored import store_sweep

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("kind", ["transformers", pytest.param("vllm", marks=pytest.mark.slow)])
def test_output_of_a_random_model_is_stored_and_unparsed_output_is_counted(
    kind: str, make_tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.pipeline.reduce.draw_figures", lambda *_: None)
    model = make_tiny("llama", max_position_embeddings=2048)
    folder = store_sweep(tmp_path, lambda node, i: abs(node.alpha) < 0.2, directions=1, steps=2, probes=("one", "two"))
    study = Study.open(folder.parents[1])
    stored = with_judges(StoredSweep.open(SweepFolder(study, folder)), ("keyword", "harmbench_mistral"))
    config = Config(
        judges=list(stored.sweep.judges),
        engine=EngineConfig(kind=kind, device="cpu", max_num_seqs=8, max_num_batched_tokens=2048, kv_cache_gib=0.05),
        judging=JudgingConfig(path=str(model), dtype="float32", max_model_len=2048),
    )
    assert judge_and_reduce(config, stored, Console(file=io.StringIO())) == 0
    frame, summary = stored.folder.read_landscape()
    summarized = summary["judges"][1]
    assert sum(summarized["sets"][0]["verdicts"].values()) == 6
    assert summarized["unparsed"] == 6 - int(frame[frame["judge"] == "harmbench_mistral"]["n"].sum())
    assert summarized["dtype"] == "float32" and summarized["source"] == "path" and len(summarized["fingerprint"]) == 16
    judge_study = Study.open(study.out / summarized["answers"])
    (part,) = judge_study.generations.parts()
    assert part.meta["engine"]["engine"] == kind
    stored_responses = {
        row["prompt_id"]: row["response"]
        for _, table in judge_study.generations.rows(judge_study.generations.stored())
        for row in table.to_pylist()
    }
    assert len(stored_responses) == 4  # a refusal and an answer to each of two questions
    (set_id,) = {key[1] for key in part.tasks}
    prompts = judge_study.prompt_sets.read(set_id)
    assert all(text.endswith("Answer: [/INST]") for text in prompts.rendered)
    assert prompts.group == summarized["judge_id"]
