"""Everything this program gives vLLM exists there: options and values, variables, methods, modules of the GPU path.

vLLM's Python code is the same in its builds for CPUs and GPUs, so that names are checked without a GPU.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import typing
from pathlib import Path
from typing import Any
from unittest import mock

import pydantic
import pytest

from tests.unit.workers.test_gpu_settings import GPU_SPEC, checkpoint_of
from workers.engines import vllm as vllm_engine
from workers.engines import vllm_settings
from workers.engines.base import EngineSpec
from workers.engines.gpu_settings import GIB, VisitSize

CPU_SPEC = EngineSpec(max_model_len=512, visit=VisitSize(40, 100))


def adapter_of(option: str) -> pydantic.TypeAdapter[Any]:
    """Return what checks the values of one of vLLM's options. Raises KeyError if there is none of that name."""
    from vllm.engine import arg_utils

    annotations = {option: inspect.get_annotations(arg_utils.EngineArgs)[option]}
    kind = typing.get_type_hints(type("Option", (), {"__annotations__": annotations}), vars(arg_utils))[option]
    if dataclasses.is_dataclass(kind):
        return pydantic.TypeAdapter(kind)
    return pydantic.TypeAdapter(kind, config=pydantic.ConfigDict(arbitrary_types_allowed=True))


@pytest.mark.parametrize(
    "spec",
    [CPU_SPEC, GPU_SPEC, dataclasses.replace(GPU_SPEC, eager=True), dataclasses.replace(GPU_SPEC, tensor_parallel=2)],
    ids=["cpu", "graphs", "eager", "two GPUs"],
)
def test_options_and_their_values_are_those_of_vllm(
    spec: EngineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_settings, "_total_memory", lambda: 80 * GIB)
    checkpoint = checkpoint_of(tmp_path / "m", vision_config={})
    resolved, base = vllm_settings.resolve_settings(spec, checkpoint, "x")
    options = vllm_settings.engine_options(resolved, checkpoint, base)
    assert "limit_mm_per_prompt" in options
    for name, value in options.items():
        adapter_of(name).validate_python(value)  # raises if, for example, a Literal has no such value


def test_a_cpu_shares_prefixes_in_blocks_of_32_unless_stored_rows_have_others(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path / "m")
    for stored, block in ((None, 32), (128, 128)):
        spec = dataclasses.replace(CPU_SPEC, block_size=stored)
        resolved, base = vllm_settings.resolve_settings(spec, checkpoint, "x")
        assert vllm_settings.engine_options(resolved, checkpoint, base)["block_size"] == block


def test_a_value_that_vllm_does_not_know_is_found() -> None:
    with pytest.raises(KeyError, match="max_sequences"):
        adapter_of("max_sequences")
    for name, value in (("moe_backend", "plain"), ("compilation_config", {"cudagraph_mode": "DECODE"})):
        with pytest.raises((pydantic.ValidationError, KeyError)):
            adapter_of(name).validate_python(value)


def test_variables_that_are_set_are_read_by_vllm() -> None:
    from vllm import envs

    with mock.patch.dict(os.environ, clear=True):
        vllm_engine.set_environment(EngineSpec(threads=1))
        names = {name for name in os.environ if name.startswith("VLLM_")}
    assert len(names) > 5 and names <= set(envs.environment_variables)


def test_methods_that_ranks_are_asked_for_exist_and_do_not_clash_with_the_worker_of_a_gpu() -> None:
    from vllm.v1.worker.gpu_worker import Worker

    from workers.engines.vllm_worker import Extension

    called = set(re.findall(r'"(landscape_\w+)"', inspect.getsource(vllm_engine)))
    assert len(called) > 5 and called <= set(dir(Extension))
    assert not [name for name in dir(Extension) if not name.startswith("__") and hasattr(Worker, name)]


def test_the_model_runner_of_a_gpu_has_what_the_extension_and_the_patches_use() -> None:
    """On a GPU vLLM takes its second model runner, which no CPU runs."""
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner
    from vllm.v1.worker.gpu.sample import sampler

    assert callable(GPUModelRunner.get_model) and callable(GPUModelRunner._init_kv_zero_meta)
    assert "get_num_nans(logits)" in inspect.getsource(sampler.Sampler.__call__), "the patched name is the one called"


def test_experts_are_pinned_to_kernels_that_leave_weights_as_loaded() -> None:
    from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend, map_unquantized_backend
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

    from workers.engines.vllm_watch import KERNELS_IN_PLACE

    backend = vllm_settings.graph_options(GPU_SPEC)["moe_backend"]
    assert map_unquantized_backend(backend).value in KERNELS_IN_PLACE
    assert {kernel.value for kernel in UnquantizedMoeBackend} > set(KERNELS_IN_PLACE)
    assert "self._forward_entry =" in inspect.getsource(MoERunner.__init__) and hasattr(MoERunner, "shared_experts")
