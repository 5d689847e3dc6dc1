"""Patches of third-party libraries. The docstring of each states the affected version and the reason.

`tests/engine/test_patches.py` runs the unpatched code and fails when a patch is no longer needed. Every patch keeps
the original behind `__wrapped__` and may be applied more than once. vLLM is imported inside the functions: the patch
of llvmlite must be in place before vLLM starts.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation

WRITE_VARIABLE = "SAFETY_LANDSCAPE_WRITE"  # `inplace` or `repack`; in the environment because ranks may be processes


def hide_llvmlite_dict() -> None:
    """Make llvmlite's library wrapper raise AttributeError for `__dict__`.

    Needed for vLLM 0.32 with llvmlite 0.47 (numba 0.65). When vLLM registers its CPU kernels, it looks up `kernel` in
    the `__dict__` of every object of every imported module. For every attribute, `__dict__` too, llvmlite's wrapper
    returns a wrapped C function. That function has no method `get`, so vLLM fails to start in a process that has
    imported numba.
    """
    from llvmlite.binding import ffi

    wrapper = type(ffi.lib)
    original = wrapper.__getattr__
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def without_dict(self: Any, name: str) -> Any:
        if name == "__dict__":
            raise AttributeError(name)
        return original(self, name)

    wrapper.__getattr__ = without_dict


def keep_linear_weights() -> None:
    """Keep the weights of linear layers as parameters that can be written in place.

    Needed for vLLM 0.32 on a CPU, which passes the weights of linear layers to oneDNN in a packed layout and leaves the
    parameter empty, so that a write in place would have no effect. With this patch the parameter stays. The environment
    variable SAFETY_LANDSCAPE_WRITE decides how it is used: `inplace` multiplies with it directly; `repack` packs it
    again after every write, by `layer.landscape_pack()`.
    """
    from vllm.model_executor.layers import utils

    original = utils.dispatch_cpu_unquantized_gemm
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def dispatch(layer: torch.nn.Module, remove_weight: bool) -> None:
        if layer.weight.is_meta or layer.weight.ndim != 2:
            original(layer, remove_weight)
        elif os.environ.get(WRITE_VARIABLE) == "repack":
            layer.landscape_pack = functools.partial(original, layer, False)
            layer.landscape_pack()
        else:
            layer.cpu_linear = _plain_linear  # vLLM's own fallback does the same

    utils.dispatch_cpu_unquantized_gemm = dispatch


def _plain_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.nn.functional.linear(x, weight, bias)


def keep_expert_weights() -> None:
    """Keep the weights of experts in the layout in which they were loaded, and multiply with them directly.

    Needed for vLLM 0.32 on a CPU, which replaces the weights of a mixture of experts by a packed form whose elements
    can be neither written nor read back in place.
    """
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

    if hasattr(CPUUnquantizedExperts.apply, "__wrapped__"):
        return
    leave_as_loaded = functools.wraps(CPUUnquantizedExperts.process_weights_after_loading)(_leave_as_loaded)
    CPUUnquantizedExperts.process_weights_after_loading = leave_as_loaded
    CPUUnquantizedExperts.apply = functools.wraps(CPUUnquantizedExperts.apply)(_apply_experts)


def _leave_as_loaded(self: Any, layer: torch.nn.Module) -> None:
    """Do nothing instead of packing the experts' weights."""


def _apply_experts(
    self: Any,
    output: torch.Tensor,
    hidden_states: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    activation: MoEActivation,
    *unused: Any,
    apply_router_weight_on_input: bool = False,
    **also_unused: Any,
) -> None:
    """Apply a mixture of experts from plain weights, expert by expert.

    The signature is that of vLLM's `CPUUnquantizedExperts.apply`. Shapes: `output` (overwritten) and `hidden_states`
    (tokens, hidden); `w1` (experts, 2 x inner, hidden), the rows of the gate before those of the up projection; `w2`
    (experts, hidden, inner); `topk_weights` and `topk_ids`, the router's weights and experts, (tokens, choices). With
    `apply_router_weight_on_input` vLLM has weighted the input already.
    """
    from vllm.model_executor.layers.fused_moe.activation import apply_moe_activation

    weights = torch.ones_like(topk_weights) if apply_router_weight_on_input else topk_weights
    output.zero_()
    for expert in topk_ids.unique().tolist():
        token, choice = torch.where(topk_ids == expert)
        inner = torch.nn.functional.linear(hidden_states[token], w1[expert], _expert_bias(self.w1_bias, expert))
        activated = inner.new_empty(len(token), w2.shape[-1])
        apply_moe_activation(activation, activated, inner)
        out = torch.nn.functional.linear(activated, w2[expert], _expert_bias(self.w2_bias, expert))
        output.index_add_(0, token, (out * weights[token, choice, None].to(out.dtype)).to(output.dtype))


def _expert_bias(bias: torch.Tensor | None, expert: int) -> torch.Tensor | None:
    return None if bias is None else bias[expert]


def count_undefined_choices() -> None:
    """Count the rows of logits without a largest finite value, where vLLM counts NaNs.

    Needed for vLLM 0.32, whose count of NaNs in a request's logits (VLLM_COMPUTE_NANS_IN_LOGITS) misses infinite ones.
    float16 overflows to infinity, and the greedy choice among infinite logits is as arbitrary as among NaNs. The count
    is 1 for such a row and 0 otherwise. It takes one reduction over the logits.
    """
    from vllm.v1.worker import gpu_model_runner
    from vllm.v1.worker.gpu.sample import sampler

    for module, name in ((gpu_model_runner, "count_nans_per_row"), (sampler, "get_num_nans")):
        _replace_count(module, name)


def _replace_count(module: Any, name: str) -> None:
    original = getattr(module, name)
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def undefined_choices(logits: torch.Tensor) -> torch.Tensor:
        return (~logits.amax(-1).isfinite()).int()

    setattr(module, name, undefined_choices)


def zero_new_cache_blocks() -> None:
    """Let vLLM fill each block of the KV cache with zeros before a request uses it.

    Needed for vLLM 0.32, which does so only for models with Mamba layers, and on a CPU never in layers with a sliding
    window. Attention on a CPU reads a block to its end and gives positions after the sequence the weight zero. Zero
    times a NaN is NaN: a block that held the keys and values of a response with logits that are not finite would ruin
    every later response that gets it. Zero times a finite number is zero, so no other response changes.
    """
    from vllm.v1.kv_cache_interface import KVCacheConfig

    original = KVCacheConfig.needs_kv_cache_zeroing.fget
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def always(self: Any) -> bool:
        return True

    KVCacheConfig.needs_kv_cache_zeroing = property(always)

    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from vllm.v1.worker.cpu_model_runner import CPUModelRunner

        CPUModelRunner._zero_block_ids = functools.wraps(CPUModelRunner._zero_block_ids)(_zero_blocks)


def _zero_blocks(self: Any, block_ids: list[int]) -> None:
    """Fill these blocks with zeros in all attention layers. The signature is that of vLLM's method."""
    from vllm.v1.kv_cache_interface import AttentionSpec

    groups = [group for group in self.kv_cache_config.kv_cache_groups if isinstance(group.kv_cache_spec, AttentionSpec)]
    layers = self.compilation_config.static_forward_context
    caches = [getattr(layers.get(name), "kv_cache", None) for group in groups for name in group.layer_names]
    for cache in {cache.data_ptr(): cache for cache in caches if isinstance(cache, torch.Tensor)}.values():
        cache[block_ids] = 0


def count_ranks_eagerly() -> None:
    """Count the ranks of prompt tokens on a CPU without compiling the operation.

    Needed for vLLM 0.32 on a CPU, which compiles one comparison with inductor when log-probabilities of prompts are
    first requested. That takes half a minute and a C++ compiler. The patched function returns the same counts.
    """
    from vllm.platforms import current_platform
    from vllm.v1.sample import sampler

    original = sampler.batched_count_greater_than
    if not current_platform.is_cpu() or original is _count_at_least:
        return
    _count_at_least.__wrapped__ = original  # type: ignore[attr-defined]
    sampler.batched_count_greater_than = _count_at_least


def _count_at_least(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return (x >= values).sum(-1)
