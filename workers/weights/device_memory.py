"""Memory of an engine's live weights, and the code that writes there: numba on a CPU, Triton on a GPU.

Both write the same bits. A `TensorWrite` is one tensor with everything that it is computed from; a memory writes slabs
of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from workers.noise.definition import PART, Array, DType, Slab, Term
from workers.weights.checkpoint import MappedCheckpoint, TensorInfo
from workers.weights.targets import AdapterEndpoint, CheckpointEndpoint, Endpoint

TORCH_DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
Job = TypeVar("Job")


@dataclass(frozen=True)
class WriteRecipe:
    """How a tensor is computed: first the blend, then the terms are added.

    Attributes:
        terms: Contributions of random directions.
        blend: (coefficient, endpoint) pairs, None for the base. If empty, the base alone.
    """

    terms: Sequence[Term] = ()
    blend: Sequence[tuple[float, Endpoint | None]] = ()

    @property
    def changes_base(self) -> bool:
        """Whether the result differs from the base."""
        return bool(self.terms or self.blend)

    @property
    def needs_whole_tensor(self) -> bool:
        """Whether an adapter takes part: its tensor is computed once, as a whole."""
        return any(isinstance(endpoint, AdapterEndpoint) for _, endpoint in self.blend)


@dataclass
class TensorWrite:
    """A tensor, its recipe, and what a memory keeps while it writes the tensor's slabs."""

    info: TensorInfo
    recipe: WriteRecipe
    adapted: dict[int, Any] = field(default_factory=dict)  # position in the blend -> an endpoint's tensor


class Memory(Protocol):
    """What ResidentWeights needs of a device.

    A handle refers to the live memory of one parameter, a window to a slab of it. Both are of the device's own types.
    """

    def hold(self, parameter: torch.Tensor) -> Any:
        """Return a handle of the whole storage of a parameter: flat, sharing its memory."""

    def scratch(self, n: int, dtype: DType) -> Any:
        """Return new memory of n elements that can be written as if it were a parameter's."""

    def write(self, held: Any, slab: Slab, tensor: TensorWrite, dtype: DType) -> None:
        """Compute one slab of a tensor and write it, rounded once."""

    def window(self, held: Any, slab: Slab) -> Any:
        """Return the slab of held memory as a view[rows, cols] of integers."""

    def count_differences(self, a: Any, b: Any) -> int:
        """Count the elements of two windows that differ as bits."""

    def to_host(self, window: Any) -> Array:
        """Copy a window to numpy: float32 as uint32, 16-bit dtypes as uint16."""

    def parts(self, slab: Slab) -> Iterator[Slab]:
        """Split the slab into parts that can be written or compared at once."""

    def address(self, held: Any) -> int:
        """Return the address of the first element."""

    def spread(self, jobs: Iterable[Job], do: Callable[[Job], None]) -> None:
        """Do every job once, in any order."""

    def settle(self) -> None:
        """Wait until everything is written."""


class CpuMemory:
    """Memory of a CPU: kernels of workers.noise.cpu on numpy views. The base stays where it is mapped."""

    def __init__(self, base: MappedCheckpoint) -> None:
        from workers.noise import cpu

        self._base, self._cpu = base, cpu

    def hold(self, parameter: torch.Tensor) -> Array:
        """Return a handle of the whole storage of a parameter."""
        flat = whole_storage(parameter)
        return flat.numpy() if flat.dtype == torch.float32 else flat.view(torch.int16).numpy().view(np.uint16)

    def scratch(self, n: int, dtype: DType) -> Array:
        """Return new memory of n elements that can be written as if it were a parameter's."""
        return np.empty(n, np.float32 if dtype == "float32" else np.uint16)

    def write(self, held: Array, slab: Slab, tensor: TensorWrite, dtype: DType) -> None:
        """Compute one slab of a tensor and write it, rounded once."""
        info, recipe = tensor.info, tensor.recipe
        blend = [(c, *self._source(tensor, i, endpoint)) for i, (c, endpoint) in enumerate(recipe.blend)] or None
        base = self._base.base(info.name)
        self._cpu.write_slab(held, base, slab, info.name, recipe.terms, dtype, info.dtype, blend)

    def _source(self, tensor: TensorWrite, i: int, endpoint: Endpoint | None) -> tuple[Array, DType]:
        if endpoint is None:
            return self._base.base(tensor.info.name), tensor.info.dtype
        if i not in tensor.adapted:
            tensor.adapted[i] = endpoint.rows(tensor.info)
        return tensor.adapted[i], endpoint.dtype(tensor.info) or tensor.info.dtype

    def window(self, held: Array, slab: Slab) -> Array:
        """Return the slab of held memory as a view[rows, cols] of integers."""
        bits = held.view(np.uint32 if held.itemsize == 4 else np.uint16)
        return strided(bits, slab.dst_off, slab.dst_stride, slab)

    def count_differences(self, a: Array, b: Array) -> int:
        """Count the elements of two windows that differ as bits."""
        return int(np.count_nonzero(a != b))

    def to_host(self, window: Array) -> Array:
        """Copy a window to numpy: float32 as uint32, 16-bit dtypes as uint16."""
        return window.copy()

    def parts(self, slab: Slab) -> Iterator[Slab]:
        """Split the slab into parts of at most PART elements."""
        return slab.parts(PART)

    def address(self, held: Array) -> int:
        """Return the address of the first element."""
        return int(held.ctypes.data)

    def spread(self, jobs: Iterable[Job], do: Callable[[Job], None]) -> None:
        """Do every job once, in any order, on as many threads as numba may use."""
        self._cpu.spread(jobs, do)

    def settle(self) -> None:
        """Return at once: writes are synchronous."""


class GpuMemory:
    """Memory of a GPU: the kernel of workers.noise.gpu on torch tensors.

    The kernel's inputs are copied to the device region by region, only those that this rank holds. With `resident` the
    base's regions stay there; otherwise they are copied at every write.
    """

    def __init__(self, base: MappedCheckpoint, device: torch.device, resident: bool) -> None:
        from workers.noise import gpu

        self._base, self._device, self._gpu = base, device, gpu
        self._resident: dict[tuple[str, Slab], torch.Tensor] | None = {} if resident else None

    def hold(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return a handle of the whole storage of a parameter."""
        return whole_storage(parameter)

    def scratch(self, n: int, dtype: DType) -> torch.Tensor:
        """Return new memory of n elements that can be written as if it were a parameter's."""
        return torch.empty(n, dtype=TORCH_DTYPES[dtype], device=self._device)

    def write(self, held: torch.Tensor, slab: Slab, tensor: TensorWrite, dtype: DType) -> None:
        """Compute one slab of a tensor and write it, rounded once."""
        info, recipe = tensor.info, tensor.recipe
        blend = [(c, self._source(tensor, i, endpoint, slab)) for i, (c, endpoint) in enumerate(recipe.blend)] or None
        base = blend[0][1] if blend else self._base_region(info, slab)
        self._gpu.write_slab(held, base, slab, info.name, recipe.terms, blend, (0, slab.cols))

    def _source(self, tensor: TensorWrite, i: int, endpoint: Endpoint | None, slab: Slab) -> torch.Tensor:
        if endpoint is None:
            return self._base_region(tensor.info, slab)
        if isinstance(endpoint, CheckpointEndpoint):
            return self._to_device(endpoint.rows(tensor.info), endpoint.dtype(tensor.info), slab)
        if i not in tensor.adapted:
            tensor.adapted[i] = self._adapted(endpoint, tensor.info)
        whole: torch.Tensor = tensor.adapted[i]
        return whole.as_strided((slab.rows, slab.cols), (slab.k_stride, 1), slab.k_off).reshape(-1)

    def _base_region(self, info: TensorInfo, slab: Slab) -> torch.Tensor:
        if self._resident is None:
            return self._to_device(self._base.base(info.name), info.dtype, slab)
        key = info.name, dataclasses.replace(slab, dst_off=0, dst_stride=0)
        if key not in self._resident:
            self._resident[key] = self._to_device(self._base.base(info.name), info.dtype, slab)
        return self._resident[key]

    def _adapted(self, endpoint: AdapterEndpoint, info: TensorInfo) -> torch.Tensor:
        factors = endpoint.factors[info.name]
        base = self._to_device(self._base.base(info.name), info.dtype, Slab.whole(info.size)).view(info.shape)
        a, b = (torch.from_numpy(matrix).to(self._device) for matrix in (factors.a, factors.b))
        adapted: torch.Tensor = self._gpu.lora(base, a, b, factors.scale)
        return adapted.view(-1)

    def _to_device(self, array: Array, dtype: DType | None, slab: Slab) -> torch.Tensor:
        """Copy the slab of a whole tensor to the device, packed."""
        assert dtype is not None
        window = np.ascontiguousarray(strided(array, slab.k_off, slab.k_stride, slab)).reshape(-1)
        window = window.view(np.float32 if dtype == "float32" else np.int16)
        return as_torch(window).to(self._device, non_blocking=True).view(TORCH_DTYPES[dtype])

    def window(self, held: torch.Tensor, slab: Slab) -> torch.Tensor:
        """Return the slab of held memory as a view[rows, cols] of integers."""
        bits = held.view(torch.int32 if held.element_size() == 4 else torch.int16)
        return bits.as_strided((slab.rows, slab.cols), (slab.dst_stride, 1), slab.dst_off)

    def count_differences(self, a: torch.Tensor, b: torch.Tensor) -> int:
        """Count the elements of two windows that differ as bits."""
        return int(torch.count_nonzero(a != b))

    def to_host(self, window: torch.Tensor) -> Array:
        """Copy a window to numpy: float32 as uint32, 16-bit dtypes as uint16."""
        copied: Array = window.contiguous().cpu().numpy().copy()
        return copied.view(np.uint32 if copied.itemsize == 4 else np.uint16)

    def parts(self, slab: Slab) -> Iterator[Slab]:
        """Return the slab as its only part."""
        yield slab

    def address(self, held: torch.Tensor) -> int:
        """Return the address of the first element."""
        return held.untyped_storage().data_ptr()

    def spread(self, jobs: Iterable[Job], do: Callable[[Job], None]) -> None:
        """Do every job once, in order."""
        for job in jobs:
            do(job)

    def settle(self) -> None:
        """Wait until the device has written everything."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def memory_for(device: torch.device, base: MappedCheckpoint, resident: bool) -> CpuMemory | GpuMemory:
    """Return the memory of a device. Support for another kind of device starts here."""
    return CpuMemory(base) if device.type == "cpu" else GpuMemory(base, device, resident)


def pin(base: MappedCheckpoint) -> bool:
    """Register the mapped files with CUDA, so that copies to a GPU are direct. Return False if CUDA declines."""
    runtime, read_only = torch.cuda.cudart(), 0x08
    return all(
        int(runtime.cudaHostRegister(mapped.ctypes.data, mapped.nbytes, read_only)) == 0 for mapped in base.mapped()
    )


def whole_storage(parameter: torch.Tensor) -> torch.Tensor:
    """Return a flat view of everything that a parameter's storage holds."""
    with torch.inference_mode():
        size = parameter.untyped_storage().nbytes() // parameter.element_size()
        return parameter.detach().as_strided((size,), (1,), 0)


def strided(array: Array, offset: int, stride: int, slab: Slab) -> Array:
    """Return rows x cols of a flat array as a view."""
    strides = (stride * array.itemsize, array.itemsize)
    return np.lib.stride_tricks.as_strided(array[offset:], (slab.rows, slab.cols), strides, writeable=False)


def as_torch(array: Array) -> torch.Tensor:
    """Return a numpy array, read-only or not, as a tensor on its memory. The tensor must not be written."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)
