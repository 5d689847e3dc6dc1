"""Settings of the vLLM engine: resolve those that are not given, and translate them into vLLM's options."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.utils.errors import UserError
from orchestrator.utils.model_config import HIDDEN_SIZE_FIELDS
from workers.engines.base import EngineSpec
from workers.engines.gpu_settings import (
    CPU_BATCHED_TOKENS,
    CPU_BLOCK,
    CPU_SEQUENCES,
    GIB,
    GpuSettings,
    RankSize,
    Requested,
    captured_batches,
    card_bytes,
    gpu_memory,
    gpu_settings,
    kv_token_bytes,
    usable_bytes,
    wanted_settings,
)
from workers.weights.base_placement import (
    GPU_UTILIZATION,
    MemoryBudget,
    Placement,
    choose_placement,
    free_host_bytes,
    missing_host_bytes,
)
from workers.weights.checkpoint import MappedCheckpoint, config_integer

DEFAULT_CPU_KV_GIB = 1.0


def resolve_settings(spec: EngineSpec, checkpoint: MappedCheckpoint, sample: str) -> tuple[EngineSpec, Placement]:
    """Return the spec without settings that are None, and the place of the base.

    On a CPU the settings are constants. On a GPU they are computed from the model, the card and the largest visit
    (`gpu_settings`), so that every actor on a card of one kind has the same.

    Args:
        spec: What is requested.
        checkpoint: The unperturbed weights.
        sample: Name of their copy in shared memory.

    Raises:
        UserError: The base does not fit the requested place (engine.base), the size of the KV cache cannot be computed
            (engine.kv_cache_gib), or the model does not fit this actor's share of a GPU (cluster.gpus_per_actor).
    """
    if spec.device == "cpu":
        return _on_cpu(spec), choose_placement(spec.base, "cpu", _budget(spec, checkpoint, sample))
    size, card = rank_size(checkpoint, spec), _card(spec)
    if not size.kv_token and spec.kv_cache_gib is None:
        remedy = "this model's config.json does not have the numbers of layers and heads: give the size in GiB"
        raise UserError("engine.kv_cache_gib", "null", remedy)
    requested = _requested(spec)
    wanted = wanted_settings(card, requested, spec.visit)
    budget = dataclasses.replace(
        _budget(spec, checkpoint, sample), gpu_total=card, overhead=gpu_memory(size, wanted, base_on_gpu=False).overhead
    )
    base = choose_placement(spec.base, "cuda", budget)
    settings = gpu_settings(size, card, requested, spec.visit, base == "gpu")
    _check_share(spec, gpu_memory(size, settings, base == "gpu").total, card)
    resolved = dataclasses.replace(
        spec,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        kv_cache_gib=settings.kv_cache_bytes / GIB,
        eager=settings.eager,
    )
    return resolved, base


def _check_share(spec: EngineSpec, needed: int, card: int) -> None:
    """Raise UserError (cluster.gpus_per_actor) if several actors share a GPU and their share is too small for one."""
    if spec.gpu_share < 1 and needed > usable_bytes(card):
        sizes = f"an actor takes {needed / 1e9:.1f} GB, and its share of this GPU is {usable_bytes(card) / 1e9:.1f} GB"
        raise UserError("cluster.gpus_per_actor", f"{spec.gpu_share:g}", f"{sizes}: raise it")


def _on_cpu(spec: EngineSpec) -> EngineSpec:
    sequences = spec.max_num_seqs or CPU_SEQUENCES
    return dataclasses.replace(
        spec,
        max_num_seqs=sequences,
        block_size=spec.block_size or CPU_BLOCK,
        max_num_batched_tokens=max(spec.max_num_batched_tokens or CPU_BATCHED_TOKENS, sequences),
        kv_cache_gib=DEFAULT_CPU_KV_GIB if spec.kv_cache_gib is None else spec.kv_cache_gib,
        eager=spec.eager is not False,
    )


def rank_size(checkpoint: MappedCheckpoint, spec: EngineSpec) -> RankSize:
    """Return the sizes of what one rank holds of a model."""
    config, tensors = checkpoint.config, checkpoint.tensors()
    item_bytes = 4 if spec.dtype == "float32" else 2
    hidden = config_integer(config, *HIDDEN_SIZE_FIELDS) or 0
    layers = config_integer(config, "num_hidden_layers", "n_layer") or 0
    heads = config_integer(config, "num_attention_heads", "n_head") or 0
    kv_heads = config_integer(config, "num_key_value_heads") or heads
    head_dim = config_integer(config, "head_dim") or (hidden // heads if heads else 0)
    return RankSize(
        weights=sum(info.size for info in tensors) * item_bytes // spec.tensor_parallel,
        base=checkpoint.bytes // spec.tensor_parallel,
        layers=layers,
        hidden=hidden,
        vocabulary=config_integer(config, "vocab_size") or 0,
        kv_token=kv_token_bytes(layers, kv_heads, head_dim, item_bytes, spec.tensor_parallel) if heads else 0,
        item_bytes=item_bytes,
        base_item_bytes=max((4 if info.dtype == "float32" else 2 for info in tensors), default=item_bytes),
        ranks=spec.tensor_parallel,
    )


def _budget(spec: EngineSpec, checkpoint: MappedCheckpoint, sample: str) -> MemoryBudget:
    """Return the sizes that decide where the base is kept, without those of a GPU."""
    size = rank_size(checkpoint, spec)
    return MemoryBudget(
        weights=size.weights,
        base=size.base,
        copy=missing_host_bytes(checkpoint, sample),
        kv_cache=None if spec.kv_cache_gib is None else math.ceil(spec.kv_cache_gib * GIB),
        host_free=free_host_bytes(),
    )


def _requested(spec: EngineSpec) -> Requested:
    return Requested(
        max_model_len=spec.max_model_len,
        max_num_seqs=spec.max_num_seqs,
        max_num_batched_tokens=spec.max_num_batched_tokens,
        kv_cache_bytes=None if spec.kv_cache_gib is None else math.ceil(spec.kv_cache_gib * GIB),
        eager=spec.eager,
    )


def _card(spec: EngineSpec) -> int:
    """Return the bytes of this actor's share of its GPU."""
    return card_bytes(_total_memory() * spec.gpu_share)


def _total_memory() -> int:
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def kv_cache_bytes(spec: EngineSpec) -> int:
    """Return the size of the KV cache on each rank. The spec is resolved."""
    assert spec.kv_cache_gib is not None
    return math.ceil(spec.kv_cache_gib * GIB)


def gpu_utilization(spec: EngineSpec, checkpoint: MappedCheckpoint, base: Placement) -> float:
    """Return the fraction of a GPU's memory that vLLM takes. It refuses to start if less is free. The spec is resolved.

    The base, the CUDA context and the check of written weights are not vLLM's. On a CPU the value has no effect.
    """
    if spec.device == "cpu":
        return GPU_UTILIZATION
    assert spec.max_num_seqs is not None and spec.max_num_batched_tokens is not None
    settings = GpuSettings(spec.max_num_seqs, spec.max_num_batched_tokens, kv_cache_bytes(spec), bool(spec.eager))
    memory = gpu_memory(rank_size(checkpoint, spec), settings, base == "gpu")
    return min(GPU_UTILIZATION * spec.gpu_share, memory.vllm / _total_memory())


def engine_options(spec: EngineSpec, checkpoint: MappedCheckpoint, base: Placement) -> dict[str, Any]:
    """Return the options of `vllm.LLM`. The spec is resolved."""
    images = {"limit_mm_per_prompt": {"image": 0}} if "vision_config" in checkpoint.config else {}
    tekken = (Path(spec.model_dir) / "tekken.json").is_file()  # the tokenizer must be that of the prompts
    return {
        "model": spec.model_dir,
        "tokenizer_mode": "hf" if tekken else "auto",
        "dtype": spec.dtype,
        "seed": 0,
        "max_model_len": spec.max_model_len,
        "max_num_seqs": spec.max_num_seqs,
        "max_num_batched_tokens": spec.max_num_batched_tokens,
        "kv_cache_memory_bytes": kv_cache_bytes(spec),
        "block_size": spec.block_size,
        "gpu_memory_utilization": gpu_utilization(spec, checkpoint, base),
        "tensor_parallel_size": spec.tensor_parallel,
        "distributed_executor_backend": "mp" if spec.tensor_parallel > 1 else "uni",
        "enable_prefix_caching": True,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
        "worker_extension_cls": "workers.engines.vllm_worker.Extension",
        **graph_options(spec),
        **images,
    }


def graph_batches(spec: EngineSpec) -> dict[str, str]:
    """Return the field of an engine's identity with the batch sizes that have a CUDA graph; empty if none has.

    Batches between them are padded, which may change how products are divided and rounded.
    """
    if spec.device == "cpu" or spec.eager:
        return {}
    return {"cudagraph_batches": ",".join(map(str, captured_batches(spec.max_num_seqs or 1)))}


def graph_options(spec: EngineSpec) -> dict[str, Any]:
    """Return vLLM's options for CUDA graphs and for the choice of kernels. The spec is resolved.

    On a GPU decoding runs from CUDA graphs and prompts are processed eagerly, without compilation: graphs hold the
    addresses of weights, which are written in place, and the canary watches which weights a prompt reads. Experts run
    on Triton kernels, which use their weights as they were loaded. No kernel is chosen by timing it at the start, so
    that all actors choose alike. On a CPU the options are those of the first version.
    """
    if spec.device == "cpu":
        return {"enforce_eager": spec.eager}
    options: dict[str, Any] = {
        "enforce_eager": spec.eager,
        "moe_backend": "triton",
        "enable_flashinfer_autotune": False,
    }
    if not spec.eager:
        options["compilation_config"] = {
            "mode": 0,
            "cudagraph_mode": "FULL_DECODE_ONLY",
            "cudagraph_capture_sizes": captured_batches(spec.max_num_seqs or 1),
        }
    return options


@contextlib.contextmanager
def name_unsupported_experts(model_dir: str) -> Iterator[None]:
    """Raise UserError (model.path) if vLLM refuses to run a model's experts with the kernels of `graph_options`."""
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        if "MoE backend" not in str(error):
            raise
        remedy = (
            "vLLM's Triton kernels cannot run its experts on this GPU, and other kernels rearrange weights, which then "
            "cannot be written exactly: use another model or GPU"
        )
        raise UserError("model.path", model_dir, remedy) from error
