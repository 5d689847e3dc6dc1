"""Test that each patch of another library is still needed: the unpatched code still does what the patch prevents.

If one of these tests fails after an upgrade, remove the patch that it names.
"""

from __future__ import annotations

import importlib
import math
import types
from typing import Any

import pytest
import torch

from workers.engines import patches

pytestmark = pytest.mark.engine


def original(patched: Any) -> Any:
    """Return the library's own function behind a patched one."""
    assert hasattr(patched, "__wrapped__"), "the patch is not applied"
    return patched.__wrapped__


@pytest.fixture(scope="module", autouse=True)
def patched() -> None:
    """Apply all patches twice, because the second time must change nothing."""
    import numba  # noqa: F401 - loads llvmlite's library wrapper

    for apply in (
        patches.hide_llvmlite_dict,
        patches.keep_linear_weights,
        patches.keep_expert_weights,
        patches.count_ranks_eagerly,
        patches.count_undefined_choices,
        patches.zero_new_cache_blocks,
    ):
        apply()
        apply()


@pytest.fixture
def layer() -> torch.nn.Module:
    """Return a linear layer of a size that vLLM packs."""
    return torch.nn.Linear(256, 256, bias=False)


@pytest.fixture
def unpatched_llvmlite(monkeypatch: pytest.MonkeyPatch) -> None:
    from llvmlite.binding import ffi

    wrapper = type(ffi.lib)
    monkeypatch.setattr(wrapper, "__getattr__", original(wrapper.__getattr__))


def scan_for_kernels() -> None:
    """Run vLLM's scan of all imported modules for kernels, with nothing to replace."""
    from vllm.triton_utils import dispatcher

    dispatcher._rebind_kernels([])


def test_hide_llvmlite_dict_is_needed(unpatched_llvmlite: None) -> None:
    with pytest.raises(AttributeError):
        scan_for_kernels()


def test_hide_llvmlite_dict_works() -> None:
    from llvmlite.binding import ffi

    scan_for_kernels()
    assert not hasattr(ffi.lib, "__dict__") and ffi.lib.LLVMPY_GetVersionInfo() > 0


def test_keep_linear_weights_is_needed(layer: torch.nn.Module) -> None:
    from vllm.model_executor.layers import utils

    original(utils.dispatch_cpu_unquantized_gemm)(layer, remove_weight=True)
    assert layer.weight.numel() == 0, "vLLM leaves the weight in its parameter"


@pytest.mark.parametrize("mode", ["inplace", "repack"])
def test_writing_to_a_kept_linear_weight_changes_the_output(
    layer: torch.nn.Module, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.model_executor.layers import utils

    monkeypatch.setenv(patches.WRITE_VARIABLE, mode)
    x = torch.eye(256)
    with torch.inference_mode():
        utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
        layer.weight.data.fill_(0.5)
        if mode == "repack":
            assert not torch.equal(layer.cpu_linear(x, layer.weight, None), layer.weight.T)
            layer.landscape_pack()
        assert torch.equal(layer.cpu_linear(x, layer.weight, None), layer.weight.T)


@pytest.fixture
def experts() -> types.SimpleNamespace:
    """Return vLLM's class for experts, an uninitialized instance, and a layer with the weights of four experts."""
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

    layer = torch.nn.Module()
    for name, shape in (("w13_weight", (4, 128, 64)), ("w2_weight", (4, 64, 64))):
        layer.register_parameter(name, torch.nn.Parameter(torch.randn(shape), requires_grad=False))
    instance = CPUUnquantizedExperts.__new__(CPUUnquantizedExperts)
    instance.moe_config = types.SimpleNamespace(intermediate_size_per_partition=64, activation=MoEActivation.SILU)
    return types.SimpleNamespace(type=CPUUnquantizedExperts, instance=instance, layer=layer)


def test_keep_expert_weights_is_needed(experts: types.SimpleNamespace) -> None:
    before = experts.layer.w13_weight.clone()
    original(experts.type.process_weights_after_loading)(experts.instance, experts.layer)
    after = experts.layer.w13_weight
    assert after.shape != before.shape or not torch.equal(after, before), "vLLM leaves the experts' weights as they are"


def test_kept_expert_weights_equal_the_loaded_weights(experts: types.SimpleNamespace) -> None:
    before = experts.layer.w13_weight.clone()
    experts.instance.process_weights_after_loading(experts.layer)
    assert torch.equal(experts.layer.w13_weight, before)


def test_count_ranks_eagerly_is_needed_and_counts_the_same() -> None:
    from vllm.v1.sample import sampler

    patched = sampler.batched_count_greater_than
    assert hasattr(original(patched), "_torchdynamo_orig_callable"), "vLLM no longer compiles it"
    values = torch.tensor([[0.5, 2.0, 1.0], [3.0, 3.0, 0.0]])
    plain = original(patched)._torchdynamo_orig_callable
    tokens = torch.tensor([[1.0], [3.0]])
    assert patched(values, tokens).tolist() == plain(values, tokens).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("module", "name"), [("gpu_model_runner", "count_nans_per_row"), ("gpu.sample.sampler", "get_num_nans")]
)
def test_count_undefined_choices_counts_rows_without_a_largest_finite_logit(module: str, name: str) -> None:
    """A token that cannot be chosen, with a logit of minus infinity, leaves the choice among the others defined."""
    count = getattr(importlib.import_module(f"vllm.v1.worker.{module}"), name)
    rows = [[1.0, 2.0, -3.0], [1.0, -math.inf, 0.0], [math.nan, 1.0, 2.0], [math.inf, 1.0, 2.0], [-math.inf] * 3]
    assert count(torch.tensor(rows).half()).tolist() == [0, 0, 1, 1, 1]
    assert count(torch.empty(0, 3)).tolist() == []


def test_count_undefined_choices_is_needed() -> None:
    from vllm.v1.worker import gpu_model_runner

    assert original(gpu_model_runner.count_nans_per_row)(torch.tensor([[math.inf, 1.0]])).tolist() == [0]


def test_zero_new_cache_blocks_is_needed() -> None:
    """`test_nonfinite.py` fails without it: a later response gets NaNs from an earlier one."""
    from vllm.v1.kv_cache_interface import KVCacheConfig

    unused = KVCacheConfig(num_blocks=1, kv_cache_tensors=[], kv_cache_groups=[])
    assert unused.needs_kv_cache_zeroing
    assert not original(KVCacheConfig.needs_kv_cache_zeroing.fget)(unused)
