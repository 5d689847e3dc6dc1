"""Number of actors and the resources of each. Actors that share a GPU load one after another."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.compose import compose
from orchestrator.execution.policy import DispatchPolicy
from orchestrator.execution.resources import dispatch_policy, engine_spec
from orchestrator.utils.errors import UserError
from workers.actor import gpu_load_lock
from workers.engines.base import EngineSpec

GPU = EngineSpec(device="cuda", kv_cache_gib=2.0)


def policy(spec: EngineSpec, *overrides: str, gpus: int = 0, cores: int = 8) -> DispatchPolicy:
    return dispatch_policy(compose(overrides), spec, gpus, cores)


@pytest.mark.parametrize(
    ("spec", "overrides", "gpus", "expected"),
    [
        (EngineSpec(), [], 0, (1, 0, 0)),  # one machine without GPUs: one actor with all cores
        (EngineSpec(), ["cluster.actors=3"], 0, (3, 0, 0)),
        (GPU, [], 4, (4, 0, 1)),
        (GPU, ["cluster=ray"], 4, (None, 1, 1)),  # as many as fit, and more when nodes join
        (GPU, ["cluster=ray", "cluster.actors=2"], 4, (2, 1, 1)),
        (GPU, ["cluster=ray", "cluster.gpus_per_actor=0.25"], 4, (None, 1, 0.25)),
        (GPU, ["cluster.gpus_per_actor=0.25"], 4, (16, 0, 0.25)),
        (EngineSpec(device="cuda", tensor_parallel=4), ["cluster=ray"], 8, (None, 1, 4)),
        (EngineSpec(device="cuda", tensor_parallel=4), [], 8, (2, 0, 4)),
        (EngineSpec(), ["cluster=ray"], 0, (None, 8, 0)),  # without GPUs: one actor per node
        (EngineSpec(), ["cluster=ray", "cluster.actors=6"], 0, (6, 1, 0)),
        (EngineSpec(), ["cluster=ray", "cluster.cpus_per_actor=2"], 0, (None, 2, 0)),
    ],
)
def test_by_default_an_actor_takes_a_gpu_or_a_node(
    spec: EngineSpec, overrides: list[str], gpus: int, expected: Any
) -> None:
    result = policy(spec, *overrides, gpus=gpus)
    assert (result.actors, result.cpus_per_actor, result.gpus_per_actor) == expected


@pytest.mark.parametrize(
    ("spec", "overrides", "field"),
    [
        (EngineSpec(device="cuda", tensor_parallel=4), [], "engine.tensor_parallel"),
        (EngineSpec(device="cuda", tensor_parallel=2), ["cluster.gpus_per_actor=1"], "cluster.gpus_per_actor"),
    ],
)
def test_contradictory_settings_are_refused(spec: EngineSpec, overrides: list[str], field: str) -> None:
    with pytest.raises(UserError) as error:
        policy(spec, *overrides, gpus=2)
    assert error.value.field == field


STORED = {
    "engine": "vllm", "device": "NVIDIA L4", "eager": True, "max_num_seqs": 128, "max_num_batched_tokens": 4096,
    "kv_block_size": 32, "kv_blocks": 27431, "packing": False,
}  # fmt: skip


def spec_of(*overrides: str, stored: Sequence[dict[str, Any]] = (STORED,)) -> EngineSpec:
    return engine_spec(compose(overrides), None, "cuda", stored_engines=stored)


def settings(spec: EngineSpec) -> tuple[Any, ...]:
    return spec.eager, spec.max_num_seqs, spec.max_num_batched_tokens, spec.block_size, spec.write


def test_settings_that_nobody_sets_are_those_of_the_stored_rows() -> None:
    assert settings(spec_of(stored=[])) == (None, None, None, None, "auto")
    assert settings(spec_of()) == (True, 128, 4096, 32, "inplace")
    assert spec_of().kv_cache_gib is None, "it follows from the other settings"
    chosen = spec_of("engine.eager=false", "engine.max_num_seqs=8", "engine.write=repack")
    assert settings(chosen) == (False, 8, 4096, 32, "repack")
    assert settings(spec_of(stored=[STORED, STORED | {"schema": 2, "attention_backend": "FLASH_ATTN"}])) == settings(
        spec_of()
    )


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"max_num_seqs": 64}, (True, None, 4096, 32, "inplace")),  # they disagree in this one
        ({"engine": "transformers", "max_num_seqs": 16}, (True, 128, 4096, 32, "inplace")),
        ({"device": "cpu AVX512", "eager": False}, (True, 128, 4096, 32, "inplace")),
    ],
)
def test_only_engines_of_the_same_kind_and_device_count_and_only_if_they_agree(
    other: dict[str, Any], expected: Any
) -> None:
    assert settings(spec_of(stored=[STORED, STORED | other])) == expected


HOLD_LOCK = """
import sys, time
from workers.actor import gpu_load_lock
with gpu_load_lock("cuda"):
    print("loading", flush=True)
    time.sleep(600)
"""


def test_actors_load_onto_a_gpu_one_after_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-2/3")
    process = subprocess.Popen([sys.executable, "-c", HOLD_LOCK], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "loading\n"
    loaded = threading.Event()

    def load() -> None:
        with gpu_load_lock("cuda"):
            loaded.set()

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    assert not loaded.wait(0.5)
    with gpu_load_lock("cpu"):
        pass  # actors on CPUs do not wait
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with gpu_load_lock("cuda"):
        pass  # actors on another GPU do not wait either
    process.kill()
    process.wait()
    assert loaded.wait(60), "a dead process leaves the lock"


def test_what_another_user_puts_into_the_temporary_folder_does_not_stop_an_actor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    precious, shared = tmp_path / "precious", tmp_path / "tmp"
    precious.write_text("precious")
    shared.mkdir()
    for name in (f"safety-landscape-{os.getuid()}-1.lock", f"landscape-{os.getuid()}"):
        (shared / name).symlink_to(precious)
    monkeypatch.setattr("tempfile.tempdir", str(shared))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with gpu_load_lock("cuda"):
        pass
    assert precious.read_text() == "precious"
