"""Where an engine's live weights are, and who writes there: numpy and numba on a CPU, torch and Triton on a GPU.

Both do the same to the bit. `Made` is one tensor with all it is made of; a memory writes slabs of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from workers.noise.definition import PART, Array, DType, Slab, Term
from workers.weights.checkpoint import Checkpoint, TensorInfo
from workers.weights.targets import AdapterEnd, CheckpointEnd, End

TORCH: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
Job = TypeVar("Job")


@dataclass(frozen=True)
class Recipe:
    """How a tensor is made: a blend of ends (None: the base), or the base alone where it is empty; then terms."""

    terms: Sequence[Term] = ()
    blend: Sequence[tuple[float, End | None]] = ()

    @property
    def moves(self) -> bool:
        return bool(self.terms or self.blend)

    @property
    def adapted(self) -> bool:
        """An adapter takes part: its tensor is made whole, once."""
        return any(isinstance(end, AdapterEnd) for _, end in self.blend)


@dataclass
class Made:
    """A tensor, its recipe, and what a memory keeps of it while its slabs are written."""

    info: TensorInfo
    recipe: Recipe
    kept: dict[int, Any] = field(default_factory=dict)  # an adapter's tensor, once made


class Memory(Protocol):
    """What ResidentWeights needs of a device. Handles of live memory and windows of it are the device's own."""

    def hold(self, parameter: torch.Tensor) -> Any:
        """The whole storage of a parameter, flat, sharing its memory."""

    def scratch(self, n: int, dtype: DType) -> Any:
        """Memory of n elements that can be written as if it were a parameter's."""

    def write(self, held: Any, slab: Slab, made: Made, dtype: DType) -> None:
        """One slab of a tensor into held memory, rounded once."""

    def window(self, held: Any, slab: Slab) -> Any:
        """The slab of held memory as a view[rows, cols] of integers."""

    def differing(self, a: Any, b: Any) -> int:
        """How many elements of two windows differ, as bits."""

    def host(self, window: Any) -> Array:
        """A copy of a window in numpy: float32 as uint32, 16-bit kinds as uint16."""

    def parts(self, slab: Slab) -> Iterator[Slab]:
        """The slab in parts that can be written or compared at once."""

    def address(self, held: Any) -> int:
        """Where held memory begins."""

    def spread(self, jobs: Iterable[Job], do: Callable[[Job], None]) -> None:
        """Do every job once, in an order of the device's own."""

    def settle(self) -> None:
        """Wait until all that was written is there."""


class CpuMemory:
    """Kernels of workers.noise.cpu on numpy views; the base stays where it is mapped."""

    def __init__(self, base: Checkpoint) -> None:
        from workers.noise import cpu

        self._base, self._cpu = base, cpu

    def hold(self, parameter: torch.Tensor) -> Array:
        flat = whole_storage(parameter)
        return flat.numpy() if flat.dtype == torch.float32 else flat.view(torch.int16).numpy().view(np.uint16)

    def scratch(self, n: int, dtype: DType) -> Array:
        return np.empty(n, np.float32 if dtype == "float32" else np.uint16)

    def write(self, held: Array, slab: Slab, made: Made, dtype: DType) -> None:
        info = made.info
        blend = [(c, *self._source(made, i, end)) for i, (c, end) in enumerate(made.recipe.blend)] or None
        base = self._base.base(info.name)
        self._cpu.write_slab(held, base, slab, info.name, made.recipe.terms, dtype, info.dtype, blend)

    def _source(self, made: Made, i: int, end: End | None) -> tuple[Array, DType]:
        if end is None:
            return self._base.base(made.info.name), made.info.dtype
        if i not in made.kept:
            made.kept[i] = end.rows(made.info)
        return made.kept[i], end.dtype(made.info) or made.info.dtype

    def window(self, held: Array, slab: Slab) -> Array:
        bits = held.view(np.uint32 if held.itemsize == 4 else np.uint16)
        return strided(bits, slab.dst_off, slab.dst_stride, slab)

    def differing(self, a: Array, b: Array) -> int:
        return int(np.count_nonzero(a != b))

    def host(self, window: Array) -> Array:
        return window.copy()

    def parts(self, slab: Slab) -> Iterator[Slab]:
        return slab.parts(PART)

    def address(self, held: Array) -> int:
        return int(held.ctypes.data)

    def spread(self, jobs: Iterable[Job], do: Callable[[Job], None]) -> None:
        self._cpu.spread(jobs, do)

    def settle(self) -> None:
        """Nothing runs behind."""


class GpuMemory:
    """The kernel of workers.noise.gpu on torch tensors. What it reads goes to the device region by region, as much as
    this rank holds; with `resident` the base's regions stay there, else they are copied at every write."""

    def __init__(self, base: Checkpoint, device: torch.device, resident: bool) -> None:
        from workers.noise import gpu

        self._base, self._device, self._gpu = base, device, gpu
        self._resident: dict[tuple[str, Slab], torch.Tensor] | None = {} if resident else None

    def hold(self, parameter: torch.Tensor) -> torch.Tensor:
        return whole_storage(parameter)

    def scratch(self, n: int, dtype: DType) -> torch.Tensor:
        return torch.empty(n, dtype=TORCH[dtype], device=self._device)

    def write(self, held: torch.Tensor, slab: Slab, made: Made, dtype: DType) -> None:
        blend = [(c, self._source(made, i, end, slab)) for i, (c, end) in enumerate(made.recipe.blend)] or None
        base = blend[0][1] if blend else self._base_region(made.info, slab)
        self._gpu.write_slab(held, base, slab, made.info.name, made.recipe.terms, blend, (0, slab.cols))

    def _source(self, made: Made, i: int, end: End | None, slab: Slab) -> torch.Tensor:
        if end is None:
            return self._base_region(made.info, slab)
        if isinstance(end, CheckpointEnd):
            return self._moved(end.rows(made.info), end.dtype(made.info), slab)
        if i not in made.kept:
            made.kept[i] = self._adapted(end, made.info)
        whole: torch.Tensor = made.kept[i]
        return whole.as_strided((slab.rows, slab.cols), (slab.k_stride, 1), slab.k_off).reshape(-1)

    def _base_region(self, info: TensorInfo, slab: Slab) -> torch.Tensor:
        if self._resident is None:
            return self._moved(self._base.base(info.name), info.dtype, slab)
        key = info.name, dataclasses.replace(slab, dst_off=0, dst_stride=0)
        if key not in self._resident:
            self._resident[key] = self._moved(self._base.base(info.name), info.dtype, slab)
        return self._resident[key]

    def _adapted(self, end: AdapterEnd, info: TensorInfo) -> torch.Tensor:
        found = end.factors[info.name]
        base = self._moved(self._base.base(info.name), info.dtype, Slab.whole(info.size)).view(info.shape)
        a, b = (torch.from_numpy(half).to(self._device) for half in (found.a, found.b))
        adapted: torch.Tensor = self._gpu.lora(base, a, b, found.scale)
        return adapted.view(-1)

    def _moved(self, array: Array, dtype: DType | None, slab: Slab) -> torch.Tensor:
        """The slab of a whole tensor in this machine's memory, packed, on the device."""
        assert dtype is not None
        window = np.ascontiguousarray(strided(array, slab.k_off, slab.k_stride, slab)).reshape(-1)
        window = window.view(np.float32 if dtype == "float32" else np.int16)
        return as_torch(window).to(self._device, non_blocking=True).view(TORCH[dtype])

    def window(self, held: torch.Tensor, slab: Slab) -> torch.Tensor:
        bits = held.view(torch.int32 if held.element_size() == 4 else torch.int16)
        return bits.as_strided((slab.rows, slab.cols), (slab.dst_stride, 1), slab.dst_off)

    def differing(self, a: torch.Tensor, b: torch.Tensor) -> int:
        return int(torch.count_nonzero(a != b))

    def host(self, window: torch.Tensor) -> Array:
        copied: Array = window.contiguous().cpu().numpy().copy()
        return copied.view(np.uint32 if copied.itemsize == 4 else np.uint16)

    def parts(self, slab: Slab) -> Iterator[Slab]:
        yield slab

    def address(self, held: torch.Tensor) -> int:
        return held.untyped_storage().data_ptr()

    def spread(self, jobs: Iterable[Job], do: Callable[[Job], None]) -> None:
        for job in jobs:
            do(job)

    def settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def memory_for(device: torch.device, base: Checkpoint, resident: bool) -> CpuMemory | GpuMemory:
    """The memory of a device: the one place where another kind comes in."""
    return CpuMemory(base) if device.type == "cpu" else GpuMemory(base, device, resident)


def pin(base: Checkpoint) -> bool:
    """Registers the mapped files with CUDA, so that a GPU reads them without a detour. False where it declines."""
    runtime, read_only = torch.cuda.cudart(), 0x08
    return all(
        int(runtime.cudaHostRegister(mapped.ctypes.data, mapped.nbytes, read_only)) == 0 for mapped in base.mapped()
    )


def whole_storage(parameter: torch.Tensor) -> torch.Tensor:
    """A flat view of all that a parameter's storage holds."""
    with torch.inference_mode():
        size = parameter.untyped_storage().nbytes() // parameter.element_size()
        return parameter.detach().as_strided((size,), (1,), 0)


def strided(array: Array, offset: int, stride: int, slab: Slab) -> Array:
    """rows x cols of a flat array, as a view."""
    strides = (stride * array.itemsize, array.itemsize)
    return np.lib.stride_tricks.as_strided(array[offset:], (slab.rows, slab.cols), strides, writeable=False)


def as_torch(array: Array) -> torch.Tensor:
    """A numpy array as torch sees it, though it be read-only: not to be written."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)
