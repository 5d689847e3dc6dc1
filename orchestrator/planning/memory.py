"""Estimate an actor's memory on a GPU or a CPU, and from it the place of the base and the number of GPUs needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.planning.gpus import GB, find_gpu
from orchestrator.planning.workload import EngineSetup, ModelSize, PromptLoad, batch_size, sequence_tokens
from orchestrator.utils.choices import EngineKind, WriteChoice
from orchestrator.utils.errors import UserError
from workers.weights.base_placement import (
    ACTIVATIONS_PER_TOKEN,
    GPU_RUNTIME_BYTES,
    GPU_UTILIZATION,
    MemoryBudget,
    Placement,
    choose_placement,
    engine_overhead,
)

TENSOR_PARALLEL_SIZES = (1, 2, 4, 8)

CPU_LIBRARY_BYTES = {  # memory of a process before it loads weights
    EngineKind.vllm: int(1.2 * GB),
    EngineKind.transformers: int(0.75 * GB),
    EngineKind.dummy: int(0.3 * GB),
}
TRANSFORMERS_BATCH = 16  # maximum number of sequences in a batch of the transformers engine
DEFAULT_CPU_KV_BYTES = 1 << 30  # vLLM's KV cache on a CPU unless engine.kv_cache_gib is set

PLACEMENT_TEXT: dict[Placement, str] = {
    "gpu": "on the GPU",
    "host": "in the host's memory",
    "mmap": "mapped from disk",
}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on each GPU, or of an actor on a CPU.

    Attributes:
        weights: Resident weights.
        base: Unperturbed base, wherever it is kept.
        kv: KV cache.
        overhead: Everything else: libraries, runtime, activations.
        peak: Maximum of all together.
        capacity: Memory of the device. None if unknown.
        base_at: Where the base is kept. None if it does not fit the requested place.
        fits: Whether the model fits. None if `capacity` is None.
    """

    weights: int
    base: int
    kv: int
    overhead: int
    peak: int
    capacity: int | None
    base_at: Placement | None
    fits: bool | None


def estimate_memory(
    model: ModelSize, setup: EngineSetup, loads: Sequence[PromptLoad], available: int | None = None
) -> MemoryEstimate | None:
    """Estimate the memory of a GPU, or of an actor on a CPU. Returns None if the model's size is unknown.

    Args:
        model: Size of the model.
        setup: Settings of the engine.
        loads: Every prompt set of the sweep.
        available: Free memory of a CPU's machine. None if unknown.
    """
    if model.weights is None or model.base is None:
        return None
    try:
        base_at = place_base(model, setup)
    except UserError:
        base_at = None
    if setup.gpu:
        return _gpu_memory_estimate(model, setup, loads, base_at)
    return _cpu_memory_estimate(model, setup, loads, base_at, available)


def _gpu_memory_estimate(
    model: ModelSize, setup: EngineSetup, loads: Sequence[PromptLoad], base_at: Placement | None
) -> MemoryEstimate:
    """Divide weights, base and KV cache among the GPUs and add the activations and the runtime of each.

    If memory is short, the KV cache shrinks first, down to one sequence of the maximum length.
    """
    group = setup.tensor_parallel
    weights, base = (model.weights or 0) // group, (model.base or 0) // group
    overhead = _overhead(model, setup)
    capacity = int(_gpu_memory(setup) * GPU_UTILIZATION)
    kv_token = model.kv_token or 0
    min_kv = setup.max_model_len * kv_token // group
    batch_kv = batch_size(setup, loads) * sequence_tokens(loads) * kv_token // group
    desired_kv = setup.kv_cache_bytes or max(min_kv, batch_kv)
    without_kv = weights + overhead + (base if base_at == "gpu" else 0)
    kv = max(min_kv, min(desired_kv, capacity - without_kv))
    peak = without_kv + kv
    fits = base_at is not None and peak <= capacity
    return MemoryEstimate(weights, base, kv, overhead, peak, capacity, base_at, fits)


def _cpu_memory_estimate(
    model: ModelSize,
    setup: EngineSetup,
    loads: Sequence[PromptLoad],
    base_at: Placement | None,
    available: int | None,
) -> MemoryEstimate:
    """Add up libraries, weights, KV cache, activations and the mapped base.

    Mapped pages count, although the system can drop them. vLLM that packs its linear weights holds them twice, and the
    largest tensor once more while it is packed.
    """
    weights, base = model.weights or 0, model.base or 0
    hidden, vocabulary = model.hidden or 0, model.vocabulary or 0
    if setup.engine == EngineKind.vllm:
        kv = setup.kv_cache_bytes or DEFAULT_CPU_KV_BYTES
        activations = _overhead(model, setup) - GPU_RUNTIME_BYTES
    else:  # the KV cache of transformers has the size of its batch
        batch = min(TRANSFORMERS_BATCH, batch_size(setup, loads))
        tokens = batch * sequence_tokens(loads)
        kv = tokens * (model.kv_token or 0)
        activations = tokens * hidden * ACTIVATIONS_PER_TOKEN * model.item_bytes + 3 * batch * vocabulary * 4
    overhead = CPU_LIBRARY_BYTES[setup.engine] + activations + base
    if setup.engine == EngineKind.vllm and setup.write == WriteChoice.repack:
        overhead += model.linear + hidden * vocabulary * model.item_bytes
    peak = weights + kv + overhead
    fits: bool | None = None
    if base_at is None:
        fits = False
    elif available is not None:
        fits = peak <= available
    return MemoryEstimate(weights, base, kv, overhead, peak, available, base_at, fits)


def place_base(model: ModelSize, setup: EngineSetup) -> Placement:
    """Return the place of the unperturbed base, by the rule that actors use (`choose_placement`).

    Raises:
        UserError: The base does not fit the requested place (engine.base).
    """
    if setup.engine != EngineKind.vllm:
        return "mmap"
    weights, base, group = model.weights or 0, model.base or 0, setup.tensor_parallel
    copy = base if setup.host_copy is None else setup.host_copy
    if setup.host_free is None:
        copy = 0  # unknown free space is assumed to be enough
    budget = MemoryBudget(
        weights=weights // group,
        base=base // group,
        copy=copy,
        gpu_total=_gpu_memory(setup),
        overhead=_overhead(model, setup),
        kv_cache=setup.kv_cache_bytes,
        host_free=setup.host_free or 0,
    )
    return choose_placement(setup.base, "cuda" if setup.gpu else "cpu", budget)


def smallest_fitting_tp(model: ModelSize, setup: EngineSetup, loads: Sequence[PromptLoad]) -> int | None:
    """Return the smallest `engine.tensor_parallel` of 1, 2, 4 and 8 with which the model fits.

    None if it does not fit on eight GPUs or the model's size is unknown.
    """
    for group in TENSOR_PARALLEL_SIZES:
        memory = estimate_memory(model, dataclasses.replace(setup, tensor_parallel=group), loads)
        if memory is not None and memory.fits:
            return group
    return None


def _overhead(model: ModelSize, setup: EngineSetup) -> int:
    """Return the bytes of the engine's runtime and activations."""
    hidden, vocabulary = model.hidden or 0, model.vocabulary or 0
    return engine_overhead(hidden, vocabulary, model.item_bytes, setup.max_num_batched_tokens, setup.max_num_seqs)


def _gpu_memory(setup: EngineSetup) -> int:
    """Return the bytes of a GPU that belong to an actor; 0 on a CPU."""
    return 0 if setup.gpu is None else setup.gpu_memory or find_gpu(setup.gpu).memory


def format_bytes(size: int) -> str:
    """Return a size as readable text: in gigabytes from 0.1 GB, otherwise in megabytes."""
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 1e6:.1f} MB"
