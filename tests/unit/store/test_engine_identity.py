"""Identities of engines: what makes two engines different, and what is ignored in rows of the first version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.pipeline.admission import Admission
from orchestrator.store.engine_identity import common_setting, compare, differ
from orchestrator.store.records import RunRecord
from orchestrator.store.runs import RunRecorder
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.utils.errors import NodeError, UserError
from orchestrator.utils.hashing import content_id
from tests.e2e.old_study import DATA, meta, study
from workers.engines.switches import LIBRARY_SWITCHES, VLLM_SWITCHES, switches_set

STORED: dict[str, Any] = meta(next(study(DATA).glob("generations/*.parquet")))["engine"]
"""The identity in the study of the first version, which has the field `kv_blocks` and no schema."""

CURRENT = {name: value for name, value in STORED.items() if name != "kv_blocks"} | {
    "schema": 2,
    "attention_backend": "CPU_ATTN",
    "batch_invariant": False,
    "float32_matmul_precision": "highest",
    "environment": {},
}


def description(engine: dict[str, Any], node: str = "n1") -> dict[str, Any]:
    return {
        "engine": engine, "engine_id": content_id(engine), "host": "h", "node": node, "machine": {}, "versions": {},
    }  # fmt: skip


@pytest.fixture
def recorder(tmp_path: Path) -> RunRecorder:
    folder = tmp_path / "sweep"
    (folder / "runs").mkdir(parents=True)
    return RunRecorder(SweepFolder(Study(tmp_path, "study"), folder), tasks=1)


def recorded_notes(recorder: RunRecorder) -> tuple[str, ...]:
    (path,) = recorder._folder.path.glob("runs/*.json")
    return RunRecord.from_json(json.loads(path.read_text())).notes


@pytest.mark.parametrize("blocks", [STORED["kv_blocks"], 27433])
def test_a_stored_row_of_the_first_version_admits_an_engine_of_today(recorder: RunRecorder, blocks: int) -> None:
    admission = Admission([STORED], mix=False, recorder=recorder)
    admission(description(CURRENT))
    admission(description({**STORED, "kv_blocks": blocks}))
    assert content_id(STORED) == "ae6b07a531ed0a71"
    first = recorded_notes(recorder)[0]
    expected = "attention_backend, batch_invariant, environment, float32_matmul_precision, kv_blocks"
    assert first == f"engines ae6b07a531ed0a71 and {content_id(CURRENT)} were not compared in: {expected}"


def test_what_a_node_shares_refuses_the_node_and_anything_else_the_actor(recorder: RunRecorder) -> None:
    admission = Admission([STORED], mix=False, recorder=recorder)
    with pytest.raises(NodeError, match="device cpu AVX512 before and NVIDIA L4 now") as refused:
        admission(description({**CURRENT, "device": "NVIDIA L4"}, "n7"))
    assert refused.value.node == "n7"
    with pytest.raises(UserError, match=r"max_num_seqs 128 before and 64 now\): select that one") as other:
        admission(description({**CURRENT, "max_num_seqs": 64}))
    assert not isinstance(other.value, NodeError)
    Admission([STORED], mix=True, recorder=recorder)(description({**CURRENT, "max_num_seqs": 64}))


def test_actors_of_one_run_must_agree_with_all_engines_so_far(recorder: RunRecorder) -> None:
    admission = Admission([STORED], mix=False, recorder=recorder)
    admission(description(CURRENT))
    with pytest.raises(UserError, match="attention_backend CPU_ATTN before and FLEX_ATTENTION now"):
        admission(description({**CURRENT, "attention_backend": "FLEX_ATTENTION"}))


def test_switches_are_compared_one_by_one_and_an_unset_one_differs_from_a_set_one() -> None:
    switched = {**CURRENT, "environment": {"NCCL_ALGO": "Ring"}}
    assert compare(CURRENT, switched).differing == {"NCCL_ALGO": (None, "Ring")}
    assert compare(switched, CURRENT).differing == {"NCCL_ALGO": ("Ring", None)}
    assert compare(STORED, switched) == compare(STORED, CURRENT), "the first version did not store them"


def test_a_compiled_engine_of_the_first_version_is_not_one_with_graphs_alone() -> None:
    compiled = {**STORED, "eager": False}
    graphs = {**CURRENT, "eager": False, "compilation_mode": "NONE", "cudagraph_mode": "FULL_DECODE_ONLY"}
    assert compare(compiled, graphs).differing == {"compilation_mode": ("VLLM_COMPILE", "NONE")}
    assert not compare(STORED, {**graphs, "eager": True}).differing


def test_a_sweep_has_several_engines_only_if_they_differ() -> None:
    assert not differ([]) and not differ([STORED, CURRENT, {**STORED, "kv_blocks": 1}])
    assert differ([STORED, CURRENT, {**CURRENT, "max_num_batched_tokens": 8192}])


def test_a_setting_is_common_if_all_engines_of_the_kind_that_have_it_agree() -> None:
    assert common_setting([STORED, CURRENT], "vllm", "max_num_seqs") == 128
    assert common_setting([STORED, CURRENT], "vllm", "attention_backend") == "CPU_ATTN"
    assert common_setting([STORED, {**CURRENT, "max_num_seqs": 64}], "vllm", "max_num_seqs") is None
    assert common_setting([STORED], "transformers", "max_num_seqs") is None
    assert common_setting([], "vllm", "eager") is None


def test_switches_are_those_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VLLM_SWITCHES, *LIBRARY_SWITCHES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VLLM_KV_CACHE_LAYOUT", "HND")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    monkeypatch.setenv("NCCL_ALGO", "")
    assert switches_set("vllm") == {"NVIDIA_TF32_OVERRIDE": "1", "VLLM_KV_CACHE_LAYOUT": "HND"}
    assert switches_set("transformers") == {"NVIDIA_TF32_OVERRIDE": "1"}


def test_the_installed_vllm_reads_every_switch() -> None:
    from vllm import envs

    unknown = {name for name in VLLM_SWITCHES if name not in envs.environment_variables}
    assert unknown == set(), "vLLM has renamed or dropped them: look for the successors"
    assert "VLLM_ATTENTION_BACKEND" not in envs.environment_variables, "add it to the switches"
