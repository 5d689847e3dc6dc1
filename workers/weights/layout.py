"""Layout tracing: map the regions of checkpoint tensors to positions in the engine's memory.

The model's own `load_weights` receives the checkpoint's tensors once more, under a TorchDispatchMode that records each
`copy_` instead of executing it. The result reflects the engine's fusion, sharding and padding for any architecture and
any tensor parallelism. This module contains no rules about either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from workers.noise.definition import Slab
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.device_memory import TORCH_DTYPES, as_torch


class LayoutError(RuntimeError):
    """A tensor is packed or transformed in the engine, so that it cannot be written exactly. The message names it."""


@dataclass(frozen=True)
class Region:
    """A slab of a checkpoint tensor and the engine parameter that holds it.

    Destination offsets count elements from the start of the parameter's whole storage.
    """

    parameter: str
    slab: Slab


Layout = Mapping[str, Sequence[Region]]


def slabs(
    shape: Sequence[int], k_off: int, k_strides: Sequence[int], dst_off: int, dst_strides: Sequence[int]
) -> Iterator[Slab]:
    """Split a strided region of any rank into slabs.

    Neighboring axes are merged if both the source's and the destination's strides allow it.

    Args:
        shape: Size of each axis.
        k_off: Offset of the region in the checkpoint tensor.
        k_strides: Strides of the checkpoint tensor.
        dst_off: Offset of the region in the parameter's storage.
        dst_strides: Strides of the parameter.
    """
    axes: list[tuple[int, int, int]] = []
    for size, k, d in zip(shape, k_strides, dst_strides, strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1] == size * k and axes[-1][2] == size * d:
            axes[-1] = (axes[-1][0] * size, k, d)
        else:
            axes.append((size, k, d))
    cols = axes.pop()[0] if axes and axes[-1][1:] == (1, 1) else 1  # otherwise transposed: one element per row
    rows, k_stride, dst_stride = axes.pop() if axes else (1, cols, cols)
    for outer in np.ndindex(*(size for size, _, _ in axes)):
        k = k_off + sum(i * axis[1] for i, axis in zip(outer, axes, strict=True))
        d = dst_off + sum(i * axis[2] for i, axis in zip(outer, axes, strict=True))
        yield Slab(rows, cols, k, k_stride, d, dst_stride)


class _Recorder(TorchDispatchMode):
    """Record copies from registered source storages without executing them: the parameters hold the values already."""

    def __init__(self, parameters: Mapping[int, str]) -> None:
        super().__init__()
        self.parameters = parameters
        self.sources: dict[int, str] = {}
        self.regions: dict[str, list[Region]] = {}
        self._kept: list[torch.Tensor] = []  # keeps them alive, so that no address is used twice

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Register a source tensor."""
        self.sources[tensor.untyped_storage().data_ptr()] = name
        self._kept.append(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.copy_.default:
            dst, src = args[:2]
            if (name := self.sources.get(_address(src))) is not None:
                self._record(name, dst, src)
                return dst
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            names = {self.sources[a] for a in map(_address, _tensors(args)) if a in self.sources}
            if names and _address(out) not in self.sources and _address(out) not in self.parameters:
                raise LayoutError(
                    f"tensor {min(names)} is not stored as it is, but changed by {func} when it is loaded"
                )
        return out

    def _record(self, name: str, dst: torch.Tensor, src: torch.Tensor) -> None:
        parameter = self.parameters.get(_address(dst))
        if parameter is None:
            raise LayoutError(f"tensor {name} is loaded into something that is no parameter of the model")
        source = src.expand(dst.shape)
        self.regions.setdefault(name, []).extend(
            Region(parameter, slab)
            for slab in slabs(
                dst.shape, int(source.storage_offset()), source.stride(), int(dst.storage_offset()), dst.stride()
            )
        )


def trace(
    load: Callable[[Iterable[tuple[str, torch.Tensor]]], Any],
    parameters: Mapping[str, torch.Tensor],
    checkpoint: MappedCheckpoint,
) -> dict[str, list[Region]]:
    """Find the regions of the engine's parameters that hold each checkpoint tensor on this rank.

    Args:
        load: The model's `load_weights`.
        parameters: Name -> parameter of the engine's model.
        checkpoint: The checkpoint whose tensors are fed to `load`.

    Returns:
        Tensor -> regions. A rank may hold a part of a tensor, or none of it.

    Raises:
        LayoutError: Loading transforms a tensor or copies it outside the parameters, or a parameter is empty.
    """
    for name, parameter in parameters.items():
        if parameter.numel() == 0:
            raise LayoutError(f"parameter {name} is empty: the engine has packed it away")
    recorder = _Recorder({_address(parameter): name for name, parameter in parameters.items()})

    def feed() -> Iterator[tuple[str, torch.Tensor]]:
        for info in checkpoint.tensors():
            tensor = mapped(checkpoint, info.name)
            recorder.add(info.name, tensor)
            yield info.name, tensor

    with torch.inference_mode(), recorder:
        load(feed())
    return recorder.regions


def mapped(checkpoint: MappedCheckpoint, name: str) -> torch.Tensor:
    """Return a checkpoint tensor as a torch view of the mapped file, with its own storage. It must not be written."""
    info = checkpoint[name]
    flat = as_torch(checkpoint.base(name))
    return (flat if info.dtype == "float32" else flat.view(TORCH_DTYPES[info.dtype])).view(info.shape)


def uncovered(size: int, regions: Iterable[Slab]) -> int:
    """Count the elements of a tensor that are in none of the regions.

    Args:
        size: Number of elements of the tensor.
        regions: Slabs of all ranks together.
    """
    starts, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]  # of each row of each slab
    for slab in regions:
        first = slab.k_off + slab.k_stride * np.arange(slab.rows, dtype=np.int64)
        starts.append(first)
        ends.append(first + slab.cols)
    start = np.concatenate(starts)
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.concatenate(ends)[order]
    reached = np.maximum.accumulate(np.concatenate([[0], end]))
    gaps = np.maximum(0, np.append(start, size) - reached)
    return int(gaps.sum())


def _address(tensor: Any) -> int:
    return tensor.untyped_storage().data_ptr() if isinstance(tensor, torch.Tensor) else -1


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
