"""Time of a visit and of the whole sweep.

The time of a visit is a roofline (Williams, Waterman, Patterson 2009, "Roofline: An Insightful Visual Performance
Model"): the weights are written, the prompts are read at the speed of arithmetic, and the responses are generated at
the speed at which weights and KV cache pass through memory. Constants state how far engines stay below the datasheets'
peaks. Expect the truth within a factor of two.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.planning.gpus import GpuModel, find_gpu
from orchestrator.planning.memory import MemoryEstimate, estimate_memory, resolve_setup
from orchestrator.planning.workload import EngineSetup, ModelSize, PromptLoad, Workload, batch_size, sequence_tokens
from orchestrator.utils.choices import Dtype, EngineKind

Basis = Literal["measured", "roofline", "assumed", "unknown"]
BASIS_TEXT: dict[Basis, str] = {
    "measured": "measured in this study",
    "roofline": "from the datasheet, within a factor of two",
    "assumed": "estimated from the model's size, and measured from the first visit on",
    "unknown": "unknown",
}

# GPUs: the share of a datasheet's peak that engines reach, and overheads.
# Share of the memory's bandwidth during decoding. Times of a step that were measured for vLLM (its pull request 53060:
# Qwen3-8B in bfloat16 on an A100, CUDA graphs, 1 to 32 sequences of 128 to 4,096 tokens) are 0.63 to 0.71 of it.
BANDWIDTH_EFFICIENCY = 0.65
FLOPS_EFFICIENCY = 0.45  # share of the tensor cores' operations during prefill
HOST_LINK_BANDWIDTH = 20e9  # bytes per second and GPU, if the base is in the host's memory (PCIe 4.0 x16)
EAGER_LAYER_SECONDS = 1e-4  # time to launch the kernels of a layer: a lower bound for a step
GRAPH_LAYER_SECONDS = 1e-5  # the same with CUDA graphs
TRANSFORMERS_LAYER_SECONDS = 7e-4  # the same of transformers, whose steps run in Python
STEP_SECONDS = 2e-3  # time of scheduling and sampling in a step
NOISE_INSTRUCTIONS = 40  # integer instructions of the noise of one weight and direction: a limit of the kernel's tests
WRITE_DIRECTIONS = 2  # directions of a point, at most, in a plane
HOST_WRITE_SECONDS = 5e-3  # time of a write on the host
ALL_REDUCE_SECONDS = 4e-5  # time of two all-reduces per layer with tensor parallelism

# CPUs: measured with vLLM without AVX-512 on 2 cores, SmolLM2-135M in float32: 125 to 165 tokens per second in batches
# of 40 to 160.
CPU_DECODE_FLOPS, CPU_PREFILL_FLOPS = 20e9, 100e9  # operations per second and core
CPU_16_BIT_SPEED = 0.18  # relative speed of 16-bit arithmetic, which is emulated
CPU_WRITE_SECONDS = 2.5e-9  # per weight and core: making the noise and adding it

LOAD_BANDWIDTH = 1.5e9  # bytes of weights per second, from disk
CPU_START_SECONDS = 30.0  # time to start an engine, without loading its weights
# The same on a GPU: 12 s of imports (measured), 21 s for vLLM without compilation (published), and 12 s to spare for
# Ray's worker, the noise kernels' compilation and the canary. Sources are in docs/gpus.md.
GPU_START_SECONDS = 45.0


Resource = Literal[
    "writing weights",
    "arithmetic of prompts",
    "reading weights",
    "reading keys and values",
    "arithmetic of responses",
    "launching kernels",
]


@dataclass(frozen=True)
class VisitSeconds:
    """Seconds of one visit: to write weights, to process prompts (prefill), to generate responses (decode).

    Attributes:
        write: Seconds to write the weights.
        prefill: Seconds to process prompts.
        decode: Seconds to generate responses.
        binds: What the longest of the three phases waits for. None on a CPU.
    """

    write: float
    prefill: float
    decode: float
    binds: Resource | None = None

    @property
    def total(self) -> float:
        """The sum of the three."""
        return self.write + self.prefill + self.decode


@dataclass(frozen=True)
class TimeEstimate:
    """Time of the remaining visits. None means unknown.

    Attributes:
        seconds: Estimated mean time of a visit, by phase.
        seconds_per_visit: The total of `seconds`, or the measured mean time if there is one. None if no visit remains.
        basis: Where `seconds_per_visit` comes from.
        start_seconds: Time to start an engine and load its weights, in seconds.
        gpu_hours: Time of all GPUs together. None on a CPU.
        wall_hours: Hours until the sweep is complete.
    """

    seconds: VisitSeconds | None
    seconds_per_visit: float | None
    basis: Basis
    start_seconds: float
    gpu_hours: float | None
    wall_hours: float | None


def estimate_time(
    model: ModelSize, setup: EngineSetup, workload: Workload, tensor_parallel: int, measured: float | None = None
) -> TimeEstimate:
    """Estimate the time of the remaining visits.

    Args:
        model: Size of the model.
        setup: Settings of the engine.
        workload: The visits.
        tensor_parallel: Number of GPUs of an actor, instead of that in `setup`. 0 if the model fits on none.
        measured: Seconds of a visit in this study so far; takes precedence over the estimate.
    """
    visits = len(workload.visits)
    seconds = None
    if tensor_parallel:
        seconds = mean_visit_seconds(model, dataclasses.replace(setup, tensor_parallel=tensor_parallel), workload)
    basis: Basis = "unknown"
    per_visit = None
    if measured is not None:
        per_visit, basis = measured, "measured"
    elif seconds is not None:
        per_visit, basis = seconds.total, "roofline" if setup.gpu else "assumed"
    if not visits:
        gpu_hours = 0.0 if setup.gpu else None
        return TimeEstimate(seconds, None, basis, 0.0, gpu_hours, 0.0)
    start = start_seconds(model, setup)
    wall_hours = gpu_hours = None
    if per_visit is not None:
        actors = max(1, min(setup.actors, visits))
        wall_hours = (math.ceil(visits / actors) * per_visit + start) / 3600
        if setup.gpu:
            gpu_hours = (visits * per_visit + actors * start) * tensor_parallel / 3600
    return TimeEstimate(seconds, per_visit, basis, start, gpu_hours, wall_hours)


def start_seconds(model: ModelSize, setup: EngineSetup) -> float:
    """Return the seconds until an engine has started and loaded its weights."""
    if setup.engine == EngineKind.dummy:
        return 0.0
    start = CPU_START_SECONDS if setup.gpu is None else GPU_START_SECONDS
    return start + (model.base or 0) / LOAD_BANDWIDTH


def mean_visit_seconds(model: ModelSize, setup: EngineSetup, workload: Workload) -> VisitSeconds | None:
    """Return the mean time of the remaining visits; None if none remains or the model's size is unknown."""
    all_loads = list(workload.loads.values())
    memory = estimate_memory(model, setup, all_loads)
    if memory is None or not workload.visits:
        return None
    setup = resolve_setup(model, setup, all_loads)
    parts = [(count, visit_seconds(model, setup, memory, loads)) for count, loads in workload.visits_by_load]
    visits = len(workload.visits)
    return VisitSeconds(
        write=sum(count * part.write for count, part in parts) / visits,
        prefill=sum(count * part.prefill for count, part in parts) / visits,
        decode=sum(count * part.decode for count, part in parts) / visits,
        binds=max(parts, key=lambda part: part[0] * part[1].total)[1].binds,
    )


def visit_seconds(
    model: ModelSize, setup: EngineSetup, memory: MemoryEstimate, loads: Sequence[PromptLoad]
) -> VisitSeconds:
    """Return the time of one visit that generates these prompt sets in one batch, every response of maximum length.

    Args:
        model: Size of the model.
        setup: Settings of the engine, resolved (`resolve_setup`).
        memory: Memory of the engine.
        loads: The prompt sets of the visit.
    """
    if setup.gpu:
        return _gpu_visit_seconds(model, setup, memory, loads)
    parameters = model.parameters or 0
    prompt_tokens, generated = _processed_tokens(setup, loads), _tokens(loads)[1]
    speed = setup.cores * (1.0 if model.dtype == Dtype.float32 else CPU_16_BIT_SPEED)
    return VisitSeconds(
        write=parameters * CPU_WRITE_SECONDS / setup.cores,
        prefill=2 * parameters * prompt_tokens / (CPU_PREFILL_FLOPS * speed),
        decode=2 * parameters * generated / (CPU_DECODE_FLOPS * speed),
    )


def _gpu_visit_seconds(
    model: ModelSize, setup: EngineSetup, memory: MemoryEstimate, loads: Sequence[PromptLoad]
) -> VisitSeconds:
    """Return the time of one visit on a GPU or a group of GPUs.

    The time of a decoding step is the largest of three: the time to read the weights and the batch's KV cache once, the
    time of its arithmetic (two operations per weight and sequence), and the time to launch its kernels. Weights that
    are only looked up, those of an untied embedding, do not count. In the mean over a response's steps, half of the
    response is in the cache. The prefix that prompts share is processed once.
    """
    assert setup.gpu is not None
    gpu, group, linear = find_gpu(setup.gpu), setup.tensor_parallel, model.linear // model.item_bytes
    flops = (gpu.flops32 if model.dtype == Dtype.float32 else gpu.flops16) * FLOPS_EFFICIENCY * group
    bandwidth = gpu.bandwidth * BANDWIDTH_EFFICIENCY
    kv_token = model.kv_token_of_rank(group) or 0
    batch = batch_size(setup, loads)
    if sequence_tokens(loads) * kv_token:
        batch = max(1, min(batch, int(memory.kv / (sequence_tokens(loads) * kv_token))))
    weights, cache = model.linear / group / bandwidth, batch * _mean_cached_tokens(loads) * kv_token / bandwidth
    bounds: dict[Resource, float] = {
        "reading weights" if weights >= cache else "reading keys and values": weights + cache,
        "arithmetic of responses": 2 * linear * batch / flops,
        "launching kernels": STEP_SECONDS + (model.layers or 0) * _layer_seconds(setup),
    }
    limit = max(bounds, key=bounds.__getitem__)
    write = _write_seconds(gpu, model, memory, group)
    processed, steps = _processed_tokens(setup, loads), _steps(setup, loads, batch)
    prefill, decode = 2 * linear * processed / flops, bounds[limit] * steps
    phases: dict[Resource, float] = {"writing weights": write, "arithmetic of prompts": prefill, limit: decode}
    binds = max(phases, key=phases.__getitem__)
    return VisitSeconds(write, prefill, decode, binds)


def _layer_seconds(setup: EngineSetup) -> float:
    """Return the time to launch the kernels of a layer in a decoding step."""
    if setup.engine == EngineKind.transformers:
        return TRANSFORMERS_LAYER_SECONDS
    seconds = EAGER_LAYER_SECONDS if setup.eager else GRAPH_LAYER_SECONDS
    return seconds + (ALL_REDUCE_SECONDS if setup.tensor_parallel > 1 else 0.0)


def _processed_tokens(setup: EngineSetup, loads: Sequence[PromptLoad]) -> int:
    """Return the tokens of prompts that are processed: vLLM processes the prefix that a set's prompts share once."""
    if setup.engine == EngineKind.transformers:
        return _tokens(loads)[0]
    return _tokens(loads)[0] - sum(load.shared_tokens(setup.shared_block) for load in loads)


def _steps(setup: EngineSetup, loads: Sequence[PromptLoad], batch: int) -> int:
    """Return the number of decoding steps, every response having its maximum length.

    vLLM fills the place of a response that has ended. Transformers processes batches of one prompt set one by one.
    """
    if not batch:
        return 0
    if setup.engine == EngineKind.transformers:
        return sum(math.ceil(load.prompts / batch) * load.max_tokens for load in loads)
    return math.ceil(_tokens(loads)[1] / batch)


def _write_seconds(gpu: GpuModel, model: ModelSize, memory: MemoryEstimate, group: int) -> float:
    """Return the time of a write: of copying the base if it is elsewhere, and of the noise or of passing the memory.

    A GPU does a quarter as many integer operations as floating-point ones: it has half the units, and the datasheet
    counts a fused multiply-add as two.
    """
    copied = 0.0 if memory.base_at == "gpu" else memory.base / HOST_LINK_BANDWIDTH
    passed = (memory.base + memory.weights) / (gpu.bandwidth * BANDWIDTH_EFFICIENCY)
    elements = (model.parameters or 0) / group
    noise = WRITE_DIRECTIONS * NOISE_INSTRUCTIONS * elements / (gpu.flops32 / 4)
    return HOST_WRITE_SECONDS + max(copied, passed, noise)


def _mean_cached_tokens(loads: Sequence[PromptLoad]) -> float:
    """Return the tokens in the cache of a sequence in the mean over its steps, in the mean over the prompts."""
    prompts = sum(load.prompts for load in loads)
    tokens = sum(load.prompt_tokens + load.prompts * load.max_tokens / 2 for load in loads)
    return tokens / prompts if prompts else 0.0


def _tokens(loads: Sequence[PromptLoad]) -> tuple[int, int]:
    """Return the tokens of all prompts, and those of all responses at their maximum length."""
    return sum(load.prompt_tokens for load in loads), sum(load.prompts * load.max_tokens for load in loads)
