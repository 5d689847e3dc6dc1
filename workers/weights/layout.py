"""Loader tracing: which region of which checkpoint tensor lives where in the engine's memory.

The model's own `load_weights` is fed the checkpoint's tensors once more under a TorchDispatchMode that
records each `copy_` instead of doing it. So fusion, sharding and padding are whatever the engine made
of them, for any architecture and any tensor parallelism, and nothing is known here of either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from workers.noise.definition import Slab
from workers.weights.checkpoint import Checkpoint
from workers.weights.device_memory import TORCH, as_torch


class LayoutError(RuntimeError):
    """The engine holds a tensor in a way that cannot be written exactly; the message names it."""


@dataclass(frozen=True)
class Region:
    """A slab of a checkpoint tensor and the engine parameter that holds it (offsets into its whole storage)."""

    parameter: str
    slab: Slab


Layout = Mapping[str, Sequence[Region]]


def slabs(
    shape: Sequence[int], k_off: int, k_strides: Sequence[int], dst_off: int, dst_strides: Sequence[int]
) -> Iterator[Slab]:
    """A strided region of any rank as slabs: neighbouring axes are merged where both sides allow it."""
    axes: list[tuple[int, int, int]] = []
    for axis in zip(shape, k_strides, dst_strides, strict=True):
        size, k, d = axis
        if size == 1:
            continue
        if axes and axes[-1][1] == size * k and axes[-1][2] == size * d:
            axes[-1] = (axes[-1][0] * size, k, d)
        else:
            axes.append((size, k, d))
    cols = axes.pop()[0] if axes and axes[-1][1:] == (1, 1) else 1  # else transposed: one element a row
    rows, k_stride, dst_stride = axes.pop() if axes else (1, cols, cols)
    for outer in np.ndindex(*(size for size, _, _ in axes)):
        k = k_off + sum(i * axis[1] for i, axis in zip(outer, axes, strict=True))
        d = dst_off + sum(i * axis[2] for i, axis in zip(outer, axes, strict=True))
        yield Slab(rows, cols, k, k_stride, d, dst_stride)


class _Recorder(TorchDispatchMode):
    """Records copies out of known source storages; the values are there already, so nothing is copied."""

    def __init__(self, parameters: Mapping[int, str]) -> None:
        super().__init__()
        self.parameters = parameters
        self.sources: dict[int, str] = {}
        self.regions: dict[str, list[Region]] = {}
        self._kept: list[torch.Tensor] = []  # alive, so that no address is used twice

    def add(self, name: str, tensor: torch.Tensor) -> None:
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
    checkpoint: Checkpoint,
) -> dict[str, list[Region]]:
    """Where every checkpoint tensor lives on this rank, found by feeding `load` (the model's `load_weights`).

    A rank may hold a part of a tensor, or none of it. Raises LayoutError for what is not a plain copy.
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


def mapped(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """A checkpoint tensor as torch sees it: a view of the mapped file, with a storage of its own. Not to be written."""
    info = checkpoint[name]
    flat = as_torch(checkpoint.base(name))
    return (flat if info.dtype == "float32" else flat.view(TORCH[info.dtype])).view(info.shape)


def uncovered(size: int, regions: Iterable[Slab]) -> int:
    """How many of a tensor's `size` elements lie in none of the regions (of all ranks together)."""
    starts, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
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
