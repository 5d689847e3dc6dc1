"""Memory of an actor against values computed by hand, measured processes, and the rule of the actor itself."""

from __future__ import annotations

import dataclasses
import math

import pytest

from orchestrator.planning.gpus import GB
from orchestrator.planning.memory import place_base
from orchestrator.planning.workload import EngineSetup, ModelSize
from orchestrator.utils.choices import BaseChoice, Dtype, EngineKind, WriteChoice
from tests.unit.planning.sizes import LAPTOP, LLAMA70, MISTRAL, SMOL, planned


def test_memory_equals_values_computed_by_hand() -> None:
    memory = planned(MISTRAL, EngineSetup(gpu="h100")).memory
    assert memory is not None
    assert memory.weights == 2 * 7241732096
    assert memory.base == 2 * 7241732096
    # sequences, tokens (a multiple of 64), keys and values, layers, heads, head size, bytes, an eighth to spare
    assert memory.kv == math.ceil(80 * 576 * 2 * 32 * 8 * 128 * 2 * 9 / 8 / 2**26) * 2**26
    assert memory.base_at == "gpu"
    assert memory.peak == memory.weights + memory.base + memory.kv + memory.overhead <= 0.9 * 80 * GB


def test_a_small_gpu_keeps_the_base_in_host_memory_and_a_smaller_kv_cache() -> None:
    small, large = planned(MISTRAL, EngineSetup(gpu="rtx3090")), planned(MISTRAL, EngineSetup(gpu="h100"))
    assert small.memory and large.memory and small.seconds and large.seconds
    assert small.memory.fits and small.memory.base_at == "host"
    assert small.memory.kv < large.memory.kv
    assert small.seconds.write > 5 * large.seconds.write


@pytest.mark.parametrize(
    ("engine", "write", "measured_gb"),
    [
        (EngineKind.vllm, WriteChoice.repack, 4.01),
        (EngineKind.vllm, WriteChoice.inplace, 3.37),
        (EngineKind.transformers, WriteChoice.inplace, 1.66),
    ],
)
def test_memory_on_a_cpu_is_close_to_the_measured_memory(
    engine: EngineKind, write: WriteChoice, measured_gb: float
) -> None:
    """Within 10% of the memory of one process, as measured by benchmarks/memory.py."""
    tied = dataclasses.replace(SMOL, tied=True)
    memory = planned(tied, EngineSetup(engine=engine, write=write, max_model_len=512), LAPTOP).memory
    assert memory is not None and memory.peak == pytest.approx(measured_gb * GB, rel=0.1)


def test_the_plan_and_the_actor_choose_the_same_place() -> None:
    def place(model: ModelSize, gpu: str, **settings: object) -> str:
        return place_base(model, dataclasses.replace(EngineSetup(gpu=gpu), **settings))

    llama8 = ModelSize("llama3_8b", Dtype.bfloat16, 8030261248, 32, 4096, 8, 128, 128256)
    reported = int(39.4 * 2**30)  # by the driver of an A100 with 40 GB
    assert place(llama8, "a100_40", gpu_memory=reported) == "gpu"
    assert place(llama8, "a100_40", gpu_memory=reported, max_num_batched_tokens=16384) == "host"  # activations first
    assert place(llama8, "a100_40", gpu_memory=reported, kv_cache_bytes=8 * GB) == "host"
    assert place(MISTRAL, "rtx4090", host_free=GB) == "mmap"
    # the copy of another actor is shared
    assert place(MISTRAL, "rtx4090", base=BaseChoice.host, host_free=GB, host_copy=0) == "host"
    assert place(MISTRAL, "rtx4090", base=BaseChoice.gpu, tensor_parallel=2) == "gpu"
    assert place(LLAMA70, "h100", tensor_parallel=4, gpu_memory=85 * GB) == "gpu"
