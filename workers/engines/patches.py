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
