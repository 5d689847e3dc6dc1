"""Watch which weights vLLM reads, and find copies of weights that a write would leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class ReadWatch(TorchDispatchMode):
    """Record which operations read which storages, inside a `with` block around the processing of a prompt.

    While it is active, the model runs without compiled code, and mixtures of experts run as plain functions: on a GPU
    vLLM calls them by an opaque operation that takes a layer's name and finds its weights inside, where no dispatch
    mode is active.

    Attributes:
        operations: Address of a storage -> names of the operations that have read it.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.operations: dict[int, set[str]] = {}
        self._model = model
        self._former: list[tuple[Any, str, Any]] = []  # object, attribute, its value before

    def __enter__(self) -> ReadWatch:
        for module in self._model.modules():
            if hasattr(module, "_forward_entry"):
                self._set(module, "_forward_entry", _plain_experts(module))
            if getattr(module, "do_not_compile", True) is False:
                self._set(module, "do_not_compile", True)
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        while self._former:
            item, attribute, value = self._former.pop()
            setattr(item, attribute, value)

    def _set(self, item: Any, attribute: str, value: Any) -> None:
        self._former.append((item, attribute, getattr(item, attribute)))
        setattr(item, attribute, value)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for value in torch.utils._pytree.tree_leaves((args, kwargs)):
            if isinstance(value, torch.Tensor) and not func.is_view:
                self.operations.setdefault(value.untyped_storage().data_ptr(), set()).add(str(func))
        return func(*args, **(kwargs or {}))


def _plain_experts(runner: Any) -> Any:
    """Return the function behind the opaque operation of a mixture of experts (vLLM 0.32; on a CPU it calls this)."""
    from vllm.model_executor.layers.fused_moe.runner import moe_runner

    return moe_runner._moe_forward if runner.shared_experts is None else moe_runner._moe_forward_shared


KERNELS_IN_PLACE = ("TRITON", "BATCHED_TRITON", "CPU")  # vLLM's kernels that use experts as they were loaded


def derived_copies(model: torch.nn.Module) -> Iterator[tuple[str, str]]:
    """Yield (module, reason) for each copy of a weight that vLLM makes after loading and keeps, or rearranges.

    A copy that was made before the canary's watch would be found by it, because nothing reads the weight any more. One
    that is made by the first prompt would not: that prompt reads the weight, and later ones the copy.
    """
    storages = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    for name, module in model.named_modules():
        if getattr(module, "_fse_fuse_gate", False):
            yield name, "vLLM multiplies with a combined copy of the gates of the experts and of the shared expert"
        kernels = getattr(getattr(module, "quant_method", None), "unquantized_backend", None)
        if kernels is not None and kernels.value not in KERNELS_IN_PLACE:
            yield name, f"vLLM runs its experts with {kernels.value} kernels, which rearrange their weights"
        sinks = getattr(getattr(module, "impl", None), "sinks", None)
        if isinstance(sinks, torch.Tensor) and sinks.untyped_storage().data_ptr() not in storages:
            yield name, "vLLM keeps a copy of the attention sinks in float32"
