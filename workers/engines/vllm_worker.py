"""Inside vLLM's worker, beside the weights. vLLM mixes `Extension` into its worker class (`worker_extension_cls`).

It is imported before the model is loaded: that is when vLLM's packing of linear weights is taken in hand. On a CPU it
gives them to oneDNN in a layout of its own and leaves the parameter empty; a write in place would then reach nothing.
Here the parameter stays, and is either what is multiplied with (`inplace`) or packed anew after every write (`repack`).
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from vllm.model_executor.layers import utils as vllm_layers
from vllm.model_executor.layers.fused_moe.activation import MoEActivation, apply_moe_activation
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

from orchestrator.sweep.points import Point
from workers.engines.vllm import limit_kernels
from workers.noise.definition import DType
from workers.weights.base_placement import HostCopy, Where, host_copy
from workers.weights.checkpoint import Checkpoint
from workers.weights.device_memory import memory_for, pin
from workers.weights.layout import Region, trace
from workers.weights.resident import Piece, ResidentWeights
from workers.weights.targets import Target, open_ends

WRITE = "SAFETY_LANDSCAPE_WRITE"  # `inplace` or `repack`. An environment variable: workers may be processes
UNIT_VECTORS = 64  # rows of a packed layer that a check reads back through its forward


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.nn.functional.linear(x, weight, bias)


def _keeping_the_weight(original: Any) -> Any:
    @functools.wraps(original)
    def dispatch(layer: torch.nn.Module, remove_weight: bool) -> None:
        if layer.weight.is_meta or layer.weight.ndim != 2:
            original(layer, remove_weight)
        elif os.environ.get(WRITE) == "repack":
            layer.landscape_pack = functools.partial(original, layer, False)
            layer.landscape_pack()
        else:
            layer.cpu_linear = _linear  # as vLLM does

    return dispatch


if not hasattr(vllm_layers.dispatch_cpu_unquantized_gemm, "__wrapped__"):
    vllm_layers.dispatch_cpu_unquantized_gemm = _keeping_the_weight(vllm_layers.dispatch_cpu_unquantized_gemm)


def _experts_as_loaded(self: Any, layer: torch.nn.Module) -> None:
    """Instead of packing the experts' weights: nothing."""


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
    """A mixture of experts from plain weights, expert by expert. w1: (experts, 2 x inner, hidden), gate then up;
    w2: (experts, hidden, inner); output: (tokens, hidden). Where asked, vLLM has weighted the input itself."""
    weights = torch.ones_like(topk_weights) if apply_router_weight_on_input else topk_weights
    output.zero_()
    for expert in topk_ids.unique().tolist():
        token, choice = torch.where(topk_ids == expert)
        inner = torch.nn.functional.linear(hidden_states[token], w1[expert], _row(self.w1_bias, expert))
        activated = inner.new_empty(len(token), w2.shape[-1])
        apply_moe_activation(activation, activated, inner)
        out = torch.nn.functional.linear(activated, w2[expert], _row(self.w2_bias, expert))
        output.index_add_(0, token, (out * weights[token, choice, None].to(out.dtype)).to(output.dtype))


def _row(bias: torch.Tensor | None, expert: int) -> torch.Tensor | None:
    return None if bias is None else bias[expert]


CPUUnquantizedExperts.process_weights_after_loading = _experts_as_loaded
CPUUnquantizedExperts.apply = _apply_experts


class _Reads(TorchDispatchMode):
    """Which operations read which storages."""

    def __init__(self) -> None:
        super().__init__()
        self.by_address: dict[int, set[str]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for value in torch.utils._pytree.tree_leaves((args, kwargs)):
            if isinstance(value, torch.Tensor) and not func.is_view:
                self.by_address.setdefault(value.untyped_storage().data_ptr(), set()).add(str(func))
        return func(*args, **(kwargs or {}))


class Extension:
    """Methods that `collective_rpc` calls on every rank. The prefix keeps clear of the worker's own names."""

    model_runner: Any
    _landscape_copy: HostCopy | None = None

    def landscape_open(
        self,
        folder: str,
        dtype: DType,
        targets: Sequence[Target] = (),
        base: Where = "mmap",
        name: str = "",
        threads: int = 1,
    ) -> dict[str, list[Region]]:
        """Trace the layout and take hold of the weights. Returns this rank's layout; raises LayoutError.

        `base`: where the pristine base is to be; a copy on the host goes by `name`. `threads`: this rank's.
        """
        limit_kernels(threads)
        model = self.model_runner.get_model()
        checkpoint = Checkpoint(folder)
        parameters = dict(model.named_parameters())
        layout = trace(model.load_weights, parameters, checkpoint)
        if base == "host":
            self._landscape_copy = host_copy(checkpoint, name)
            checkpoint = Checkpoint(self._landscape_copy.folder)
        ends = open_ends(targets, checkpoint)
        device = next(iter(parameters.values())).device
        if base == "host" and device.type == "cuda":
            pin(checkpoint)  # where CUDA declines, copies are slower
        memory = memory_for(device, checkpoint, resident=base == "gpu")
        self._landscape = ResidentWeights(checkpoint, layout, parameters, dtype, ends, memory)
        return layout

    def landscape_close(self) -> None:
        """Let go of what would outlive this process."""
        if self._landscape_copy:
            self._landscape_copy.release()

    def landscape_write(self, point: Point, scalars: Mapping[str, pa.Table]) -> None:
        self._landscape.move(point, scalars)
        self._landscape_repack()

    def landscape_read(self, name: str) -> list[Piece]:
        return self._landscape.read(name)

    def landscape_canary(self) -> None:
        self._landscape.canary()
        self._landscape_repack()

    def landscape_origin(self) -> None:
        self._landscape.origin()
        self._landscape_repack()

    def landscape_wrong(self, where: str) -> dict[str, str]:
        """Tensor (or packed parameter) -> what is wrong with it, at the `base` or at the `canary`."""
        wrong = self._landscape.holds_base() if where == "base" else self._landscape.holds_canary()
        for name, layer in self._landscape_packed():
            if differing := _differs_packed(layer):
                wrong[name] = f"{differing} elements that were read back through the packed layer differ"
        return wrong

    def _landscape_packed(self) -> Iterator[tuple[str, Any]]:
        for name, module in self.model_runner.get_model().named_modules():
            if hasattr(module, "landscape_pack"):
                yield f"{name}.weight", module

    def _landscape_repack(self) -> None:
        with torch.inference_mode():
            for _, layer in self._landscape_packed():
                layer.landscape_pack()

    def landscape_watch(self) -> None:
        """From here on, note which parameters the engine's operations read."""
        self._landscape_reads = _Reads()
        self._landscape_reads.__enter__()

    def landscape_unread(self) -> dict[str, str]:
        """End of the watch: tensor -> why, for those whose live memory no forward pass has read.

        A parameter with two owners (an embedding tied to the head) must be read by two operations. What is packed is
        not read where it is written: `landscape_wrong` looks at it.
        """
        reads = self._landscape_reads
        reads.__exit__(None, None, None)
        owners: Counter[int] = Counter()
        for module in self.model_runner.get_model().modules():
            owners.update(parameter.untyped_storage().data_ptr() for parameter in module.parameters(recurse=False))
        packed = [layer.weight.untyped_storage().data_ptr() for _, layer in self._landscape_packed()]
        owners.subtract(packed)
        unread: dict[str, str] = {}
        for name, addresses in self._landscape.addresses().items():
            for address in addresses:
                readers = reads.by_address.get(address, set())
                if owners[address] == 0 and address in packed:
                    continue  # and nowhere else in use
                if not readers:
                    unread[name] = "no operation reads the memory it is written to"
                elif len(readers) < owners[address]:
                    unread[name] = f"it has {owners[address]} uses, and only {', '.join(sorted(readers))} reads it"
        return unread


def _differs_packed(layer: Any) -> int:
    """How many elements of a layer's weight its packed form holds otherwise, in some columns spread over all of them:
    asked by unit vectors, whose products are exact."""
    weight = layer.weight
    columns = torch.linspace(0, weight.shape[1] - 1, min(UNIT_VECTORS, weight.shape[1])).round().long().unique()
    with torch.inference_mode():
        asked = torch.nn.functional.one_hot(columns, weight.shape[1]).to(weight.dtype)
        answered = layer.cpu_linear(asked, weight, None)
        return int(torch.count_nonzero(answered != weight[:, columns].T))
