"""Estimate an actor's memory on a GPU or a CPU, and from it the place of the base and the number of GPUs needed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.planning.gpus import GB, find_gpu
from orchestrator.planning.workload import (
    EngineSetup,
    ModelSize,
    PromptLoad,
    batch_size,
    largest_visit,
    sequence_tokens,
)
from orchestrator.utils.choices import EngineKind, WriteChoice
from orchestrator.utils.errors import UserError
from workers.engines.gpu_settings import (
    ACTIVATIONS_PER_TOKEN,
    CPU_BATCHED_TOKENS,
    CPU_SEQUENCES,
    LOGIT_COPIES,
    RUNTIME_BYTES,
    GpuMemory,
    GpuSettings,
    RankSize,
    Requested,
    card_bytes,
    gpu_memory,
    gpu_settings,
    part_bytes,
    usable_bytes,
    wanted_settings,
)
from workers.weights.base_placement import MemoryBudget, Placement, choose_placement

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
        overhead: Everything else: libraries, runtime, activations, logits, CUDA graphs, the check of writes.
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
    base_at = _placement(model, setup, loads)
    if setup.gpu and setup.engine == EngineKind.transformers:
        return _transformers_gpu_estimate(model, resolve_setup(model, setup, loads), loads, base_at)
    if setup.gpu:
        return _gpu_memory_estimate(model, setup, loads, base_at)
    return _cpu_memory_estimate(model, resolve_setup(model, setup, loads), loads, base_at, available)


def resolve_setup(model: ModelSize, setup: EngineSetup, loads: Sequence[PromptLoad]) -> EngineSetup:
    """Return the setup with the settings that an actor will choose in place of those that are None.

    On a GPU the actor uses the same function (`gpu_settings`).

    Args:
        model: Size of the model.
        setup: Settings of the engine.
        loads: Every prompt set of the sweep.
    """
    if setup.engine == EngineKind.transformers and setup.gpu:
        batch = min(setup.max_num_seqs or TRANSFORMERS_BATCH, TRANSFORMERS_BATCH)
        return dataclasses.replace(setup, eager=True, max_num_seqs=batch)
    if not setup.gpu:
        return dataclasses.replace(
            setup,
            eager=setup.eager is not False,
            max_num_seqs=setup.max_num_seqs or CPU_SEQUENCES,
            max_num_batched_tokens=setup.max_num_batched_tokens or CPU_BATCHED_TOKENS,
        )
    settings = _gpu_settings(model, setup, loads, _placement(model, setup, loads))
    return dataclasses.replace(
        setup,
        eager=settings.eager,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
    )


def _gpu_settings(
    model: ModelSize, setup: EngineSetup, loads: Sequence[PromptLoad], base_at: Placement | None
) -> GpuSettings:
    visit = largest_visit(loads, setup.exact)
    return gpu_settings(_rank_size(model, setup), _card(setup), _requested(setup), visit, base_at == "gpu")


def gpu_memory_of(
    model: ModelSize, setup: EngineSetup, loads: Sequence[PromptLoad], base_at: Placement | None
) -> GpuMemory:
    """Return the memory of each GPU by use."""
    settings = _gpu_settings(model, setup, loads, base_at)
    return gpu_memory(_rank_size(model, setup), settings, base_at == "gpu")


def _gpu_memory_estimate(
    model: ModelSize, setup: EngineSetup, loads: Sequence[PromptLoad], base_at: Placement | None
) -> MemoryEstimate:
    """Return the memory of each GPU: of weights, base and KV cache its share.

    If memory is short, the batch and with it the KV cache shrinks first, down to one sequence of the maximum length.
    """
    uses, capacity = gpu_memory_of(model, setup, loads, base_at), usable_bytes(_card(setup))
    fits = base_at is not None and uses.total <= capacity
    base = (model.base or 0) // setup.tensor_parallel
    return MemoryEstimate(uses.weights, base, uses.kv, uses.overhead, uses.total, capacity, base_at, fits)


def _transformers_batch(model: ModelSize, setup: EngineSetup, loads: Sequence[PromptLoad]) -> tuple[int, int]:
    """Return the bytes of the KV cache of transformers, which has the size of its batch, and of its activations."""
    batch = min(TRANSFORMERS_BATCH, batch_size(setup, loads))
    tokens = batch * sequence_tokens(loads)
    activations = tokens * (model.hidden or 0) * ACTIVATIONS_PER_TOKEN * model.item_bytes
    return tokens * (model.kv_token or 0), activations + LOGIT_COPIES * batch * (model.vocabulary or 0) * 4


def _transformers_gpu_estimate(
    model: ModelSize, setup: EngineSetup, loads: Sequence[PromptLoad], base_at: Placement | None
) -> MemoryEstimate:
    """Return the memory of the one GPU that the transformers engine uses."""
    setup = dataclasses.replace(setup, tensor_parallel=1)
    weights, capacity = model.weights or 0, usable_bytes(_card(setup))
    kv, activations = _transformers_batch(model, setup, loads)
    overhead = RUNTIME_BYTES + activations + part_bytes(_rank_size(model, setup))
    peak = weights + kv + overhead
    return MemoryEstimate(weights, model.base or 0, kv, overhead, peak, capacity, base_at, peak <= capacity)


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
        activations = (setup.max_num_batched_tokens or 0) * hidden * ACTIVATIONS_PER_TOKEN * model.item_bytes
        activations += LOGIT_COPIES * (setup.max_num_seqs or 0) * vocabulary * 4
    else:
        kv, activations = _transformers_batch(model, setup, loads)
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


def _placement(model: ModelSize, setup: EngineSetup, loads: Sequence[PromptLoad]) -> Placement | None:
    """Return the place of the unperturbed base; None if it does not fit the requested place."""
    try:
        return place_base(model, setup, loads)
    except UserError:
        return None


def place_base(model: ModelSize, setup: EngineSetup, loads: Sequence[PromptLoad] = ()) -> Placement:
    """Return the place of the unperturbed base, by the rule that actors use (`choose_placement`).

    Args:
        model: Size of the model.
        setup: Settings of the engine.
        loads: Every prompt set of the sweep. Not needed if the setup is resolved.

    Raises:
        UserError: The base does not fit the requested place (engine.base).
    """
    if setup.engine != EngineKind.vllm:
        return "mmap"
    weights, base, group = model.weights or 0, model.base or 0, setup.tensor_parallel
    copy = base if setup.host_copy is None else setup.host_copy
    if setup.host_free is None:
        copy = 0  # unknown free space is assumed to be enough
    card = _card(setup)
    overhead = 0
    if setup.gpu:
        wanted = wanted_settings(card, _requested(setup), largest_visit(loads, setup.exact))
        overhead = gpu_memory(_rank_size(model, setup), wanted, base_on_gpu=False).overhead
    budget = MemoryBudget(
        weights=weights // group,
        base=base // group,
        copy=copy,
        gpu_total=card,
        overhead=overhead,
        kv_cache=setup.kv_cache_bytes,
        host_free=setup.host_free or 0,
    )
    return choose_placement(setup.base, "cuda" if setup.gpu else "cpu", budget)


def smallest_fitting_tp(model: ModelSize, setup: EngineSetup, loads: Sequence[PromptLoad]) -> int | None:
    """Return the smallest `engine.tensor_parallel` of 1, 2, 4 and 8 with which the model fits.

    None if it does not fit on eight GPUs or the model's size is unknown. The transformers engine uses one GPU.
    """
    for group in TENSOR_PARALLEL_SIZES[: 1 if setup.engine == EngineKind.transformers else None]:
        memory = estimate_memory(model, dataclasses.replace(setup, tensor_parallel=group), loads)
        if memory is not None and memory.fits:
            return group
    return None


def _rank_size(model: ModelSize, setup: EngineSetup) -> RankSize:
    """Return the sizes of what each GPU holds. Unknown sizes count as 0."""
    group, weights, base = setup.tensor_parallel, model.weights or 0, model.base or 0
    return RankSize(
        weights=weights // group,
        base=base // group,
        layers=model.layers or 0,
        hidden=model.hidden or 0,
        vocabulary=model.vocabulary or 0,
        kv_token=model.kv_token_of_rank(group) or 0,
        item_bytes=model.item_bytes,
        base_item_bytes=math.ceil(base / max(1, weights // model.item_bytes)),
        ranks=group,
    )


def _requested(setup: EngineSetup) -> Requested:
    """Return the settings of a setup that are not None."""
    return Requested(
        max_model_len=setup.max_model_len,
        max_num_seqs=setup.max_num_seqs,
        max_num_batched_tokens=setup.max_num_batched_tokens,
        kv_cache_bytes=setup.kv_cache_bytes,
        eager=setup.eager,
    )


def _card(setup: EngineSetup) -> int:
    """Return the bytes of a GPU that belong to an actor; 0 on a CPU."""
    return 0 if setup.gpu is None else card_bytes(setup.gpu_memory or find_gpu(setup.gpu).memory)


def format_bytes(size: int) -> str:
    """Return a size as readable text: in gigabytes from 0.1 GB, otherwise in megabytes."""
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 1e6:.1f} MB"
