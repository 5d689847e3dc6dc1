"""Access to the memory of an engine's weights, which is written by numba on a CPU and by Triton on a GPU.

Both write the same bits. A `TensorWrite` is one tensor with its inputs; a `DeviceMemory` computes and writes slabs of
it.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch

from workers.noise.definition import GPU_PART, PART, Array, DType, Slab, Term
from workers.weights.checkpoint import MappedCheckpoint, TensorInfo
from workers.weights.staging import CopyQueue, CudaCopyQueue, ImmediateCopyQueue, StagedCopies
from workers.weights.targets import AdapterEndpoint, CheckpointEndpoint, Endpoint

if TYPE_CHECKING:
    from workers.weights.noise_writer import NoiseWriter

TORCH_DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
Job = TypeVar("Job")


@dataclass(frozen=True)
class WriteRecipe:
    """Recipe of a perturbed tensor: the weighted sum `blend`, to which the noise `terms` are added.

    Attributes:
        terms: Contributions of random directions.
        blend: (factor, endpoint) pairs; an endpoint of None is the base. If empty, the sum is the base alone.
    """

    terms: Sequence[Term] = ()
    blend: Sequence[tuple[float, Endpoint | None]] = ()

    @property
    def changes_base(self) -> bool:
        """True if the recipe is not the base alone."""
        return bool(self.terms or self.blend)

    @property
    def needs_whole_tensor(self) -> bool:
        """True if the blend includes an adapter, whose update a CPU computes once and whole, not slab by slab."""
        return any(isinstance(endpoint, AdapterEndpoint) for _, endpoint in self.blend)


@dataclass
class TensorWrite:
    """A tensor to write.

    Attributes:
        info: The tensor in the checkpoint.
        recipe: How it is computed.
        updates: Position in the blend -> the whole update B A of an adapter. A cache while the slabs are written.
    """

    info: TensorInfo
    recipe: WriteRecipe
    updates: dict[int, Any] = field(default_factory=dict)


class DeviceMemory(Protocol):
    """Interface through which ResidentWeights accesses the memory of a device.

    A handle gives access to the memory of one parameter, a window to a slab of it. Their types depend on the
    device: numpy arrays on a CPU, torch tensors on a GPU.
    """

    def open_parameter(self, parameter: torch.Tensor) -> Any:
        """Return a handle of the whole storage of a parameter: a flat view that shares its memory."""

    def scratch(self, n: int, dtype: DType) -> Any:
        """Return a handle of new, uninitialized memory for n elements."""

    def write(self, handle: Any, slab: Slab, tensor: TensorWrite, dtype: DType) -> None:
        """Compute one slab of a tensor and write it, rounded once to `dtype`, the dtype of the parameter."""

    def window(self, handle: Any, slab: Slab) -> Any:
        """Return the slab's elements in the parameter as integers: a view of shape (rows, cols), not a copy."""

    def count_differences(self, a: Any, b: Any) -> int:
        """Count the elements whose bits differ between two windows of the same shape."""

    def to_host(self, window: Any) -> Array:
        """Copy a window to numpy: float32 as uint32, 16-bit dtypes as uint16."""

    def parts(self, slab: Slab) -> Iterator[Slab]:
        """Split the slab into parts that are written or compared one at a time, to limit memory."""

    def address(self, handle: Any) -> int:
        """Return the memory address of the first element."""

    def spread(self, jobs: Iterable[Job], do: Callable[[Job], None]) -> None:
        """Run `do` once on every job, in any order."""

    def noise_writer(self, regions: Iterable[tuple[TensorInfo, Any, Slab]]) -> NoiseWriter | None:
        """Return a writer of noise on these regions at once, (tensor, handle, slab); None if the device has none."""

    def synchronize(self) -> None:
        """Wait until all writes are complete."""


class CpuMemory:
    """CPU implementation of `DeviceMemory`: numba kernels on numpy views. They read the base from the mapped file."""

    def __init__(self, base: MappedCheckpoint) -> None:
        from workers.noise import cpu

        self._base, self._cpu = base, cpu

    def open_parameter(self, parameter: torch.Tensor) -> Array:
        """Return a handle of the whole storage of a parameter."""
        flat = whole_storage(parameter)
        return flat.numpy() if flat.dtype == torch.float32 else flat.view(torch.int16).numpy().view(np.uint16)

    def scratch(self, n: int, dtype: DType) -> Array:
        """Return a handle of new, uninitialized memory for n elements."""
        return np.empty(n, np.float32 if dtype == "float32" else np.uint16)

    def write(self, handle: Array, slab: Slab, tensor: TensorWrite, dtype: DType) -> None:
        """Compute one slab of a tensor and write it, rounded once to `dtype`, the dtype of the parameter."""
        info, recipe = tensor.info, tensor.recipe
        blend = [(c, *self._source(tensor, i, endpoint)) for i, (c, endpoint) in enumerate(recipe.blend)] or None
        base = self._base.base(info.name)
        self._cpu.write_slab(handle, base, slab, info.name, recipe.terms, dtype, info.dtype, blend)

    def _source(self, tensor: TensorWrite, i: int, endpoint: Endpoint | None) -> tuple[Array, DType]:
        if endpoint is None:
            return self._base.base(tensor.info.name), tensor.info.dtype
        if isinstance(endpoint, CheckpointEndpoint):
            return endpoint.values(tensor.info), endpoint.dtype(tensor.info) or tensor.info.dtype
        if i not in tensor.updates:
            tensor.updates[i] = endpoint.values(tensor.info)
        return tensor.updates[i], "float32"

    def window(self, handle: Array, slab: Slab) -> Array:
        """Return the slab's elements in the parameter as integers: a view of shape (rows, cols), not a copy."""
        bits = handle.view(np.uint32 if handle.itemsize == 4 else np.uint16)
        return strided(bits, slab.dst_off, slab.dst_stride, slab)

    def count_differences(self, a: Array, b: Array) -> int:
        """Count the elements whose bits differ between two windows of the same shape."""
        return int(np.count_nonzero(a != b))

    def to_host(self, window: Array) -> Array:
        """Copy a window to numpy: float32 as uint32, 16-bit dtypes as uint16."""
        return window.copy()

    def parts(self, slab: Slab) -> Iterator[Slab]:
        """Split the slab into parts of at most PART elements."""
        return slab.parts(PART)

    def address(self, handle: Array) -> int:
        """Return the memory address of the first element."""
        return int(handle.ctypes.data)

    def spread(self, jobs: Iterable[Job], do: Callable[[Job], None]) -> None:
        """Run `do` once on every job, in any order, on as many threads as numba may use."""
        self._cpu.spread(jobs, do)

    def noise_writer(self, regions: Iterable[tuple[TensorInfo, Array, Slab]]) -> None:
        """Return None: threads write the slabs one by one."""

    def synchronize(self) -> None:
        """Return at once: writes are synchronous."""


class GpuMemory:
    """GPU implementation of `DeviceMemory`: the Triton kernel on torch tensors.

    Of base and checkpoints, only the regions that this rank holds are copied to the device. With `resident` the base's
    regions stay there; otherwise they are copied at every write, while the kernel writes the part before.
    """

    def __init__(self, base: MappedCheckpoint, device: torch.device, resident: bool, is_pinned: bool = False) -> None:
        """Prepare for writes.

        Args:
            base: The unperturbed base.
            device: The device of the engine's weights.
            resident: Whether the base is kept on the device.
            is_pinned: Whether the base's mapped files are registered with CUDA (`pin`).
        """
        from workers.noise import gpu

        self._base, self._device, self._gpu, self._is_pinned = base, device, gpu, is_pinned
        self._resident: dict[tuple[str, Slab], torch.Tensor] | None = {} if resident else None
        queue: CopyQueue = CudaCopyQueue(device) if device.type == "cuda" else ImmediateCopyQueue()
        self._staged = StagedCopies(queue)

    def open_parameter(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return a handle of the whole storage of a parameter."""
        return whole_storage(parameter)

    def scratch(self, n: int, dtype: DType) -> torch.Tensor:
        """Return a handle of new, uninitialized memory for n elements."""
        return torch.empty(n, dtype=TORCH_DTYPES[dtype], device=self._device)

    def write(self, handle: torch.Tensor, slab: Slab, tensor: TensorWrite, dtype: DType) -> None:
        """Compute one slab of a tensor and write it, rounded once to `dtype`, the dtype of the parameter."""
        info, recipe = tensor.info, tensor.recipe
        blend = [(c, self._source(tensor, i, endpoint, slab)) for i, (c, endpoint) in enumerate(recipe.blend)] or None
        base = blend[0][1] if blend else self._base_region(info, slab)
        self._gpu.write_slab(handle, base, slab, info.name, recipe.terms, blend, (0, slab.cols))

    def _source(self, tensor: TensorWrite, i: int, endpoint: Endpoint | None, slab: Slab) -> torch.Tensor:
        if endpoint is None:
            return self._base_region(tensor.info, slab)
        if isinstance(endpoint, CheckpointEndpoint):
            return self._to_device(endpoint.values(tensor.info), endpoint.dtype(tensor.info), slab)
        return self._update(endpoint, tensor.info, slab)

    def _base_region(self, info: TensorInfo, slab: Slab) -> torch.Tensor:
        if self._resident is None:
            base = self._base.base(info.name)
            part = self._staged.copy(strided(base, slab.k_off, slab.k_stride, slab), self._is_pinned)
            return part.view(TORCH_DTYPES[info.dtype])
        key = info.name, dataclasses.replace(slab, dst_off=0, dst_stride=0)
        if key not in self._resident:
            self._resident[key] = self._to_device(self._base.base(info.name), info.dtype, slab)
        return self._resident[key]

    def _update(self, endpoint: AdapterEndpoint, info: TensorInfo, slab: Slab) -> torch.Tensor:
        """Compute the slab's part of the update B A of an adapter on the device, as a flat float32 tensor."""
        factors = endpoint.factors[info.name]
        width = factors.a.shape[1]
        first, column = divmod(slab.k_off, width)
        end = slab.k_off + (slab.rows - 1) * slab.k_stride + slab.cols
        is_block = slab.k_stride == width and column + slab.cols <= width  # of whole rows, or of some of their columns
        a = factors.a[:, column : column + slab.cols] if is_block else factors.a
        b = factors.b[first : -(-end // width)]
        a, b = (torch.from_numpy(np.ascontiguousarray(matrix)).to(self._device) for matrix in (a, b))
        update: torch.Tensor = self._gpu.product(a, b).view(-1)
        return update if is_block else self._packed(update, slab, slab.k_off - first * width)

    @staticmethod
    def _packed(tensor: torch.Tensor, slab: Slab, offset: int) -> torch.Tensor:
        """Return the slab of a flat tensor, of which element `offset` is its first, without gaps."""
        return tensor.as_strided((slab.rows, slab.cols), (slab.k_stride, 1), offset).reshape(-1)

    def _to_device(self, array: Array, dtype: DType | None, slab: Slab) -> torch.Tensor:
        """Copy the slab of a whole tensor to the device as a flat tensor without gaps."""
        assert dtype is not None
        window = np.ascontiguousarray(strided(array, slab.k_off, slab.k_stride, slab)).reshape(-1)
        window = window.view(np.float32 if dtype == "float32" else np.int16)
        return as_torch(window).to(self._device, non_blocking=True).view(TORCH_DTYPES[dtype])

    def window(self, handle: torch.Tensor, slab: Slab) -> torch.Tensor:
        """Return the slab's elements in the parameter as integers: a view of shape (rows, cols), not a copy."""
        bits = handle.view(torch.int32 if handle.element_size() == 4 else torch.int16)
        return bits.as_strided((slab.rows, slab.cols), (slab.dst_stride, 1), slab.dst_off)

    def count_differences(self, a: torch.Tensor, b: torch.Tensor) -> int:
        """Count the elements whose bits differ between two windows of the same shape."""
        return int(torch.count_nonzero(a != b))

    def to_host(self, window: torch.Tensor) -> Array:
        """Copy a window to numpy: float32 as uint32, 16-bit dtypes as uint16."""
        copied: Array = window.contiguous().cpu().numpy().copy()
        return copied.view(np.uint32 if copied.itemsize == 4 else np.uint16)

    def parts(self, slab: Slab) -> Iterator[Slab]:
        """Split the slab into parts of at most GPU_PART elements, or half of that if their base must be copied."""
        return slab.parts(GPU_PART if self._resident is not None else GPU_PART // 2)

    def address(self, handle: torch.Tensor) -> int:
        """Return the memory address of the first element."""
        return handle.untyped_storage().data_ptr()

    def spread(self, jobs: Iterable[Job], do: Callable[[Job], None]) -> None:
        """Run `do` once on every job, in order."""
        for job in jobs:
            do(job)

    def noise_writer(self, regions: Iterable[tuple[TensorInfo, torch.Tensor, Slab]]) -> NoiseWriter | None:
        """Return a writer of noise on these regions at once; None if the base is not on the GPU."""
        from workers.noise.gpu_table import SlabTable, TableEntry
        from workers.weights.noise_writer import NoiseWriter

        if self._resident is None:
            return None
        tensors: dict[str, TensorInfo] = {}
        entries = []
        for info, handle, slab in regions:
            tensors.setdefault(info.name, info)
            position = len(tensors) - 1  # the regions of a tensor follow one another
            entries += [TableEntry(position, p, handle, self._base_region(info, p)) for p in self.parts(slab)]
        return NoiseWriter(tensors.values(), SlabTable(list(tensors), entries, self._device), self._device)

    def synchronize(self) -> None:
        """Wait until all writes are complete."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def memory_for(
    device: torch.device, base: MappedCheckpoint, resident: bool, is_pinned: bool = False
) -> CpuMemory | GpuMemory:
    """Return the memory of a device. Support for another kind of device starts here."""
    return CpuMemory(base) if device.type == "cpu" else GpuMemory(base, device, resident, is_pinned)


def pin(base: MappedCheckpoint) -> bool:
    """Register the mapped files with CUDA, so that copies to a GPU are direct. Return False if CUDA declines.

    The files must be mapped writable, because few machines can register memory that is read-only. CUDA remembers a
    refusal as its last error, which the next kernel launch would report as its own; it is cleared.
    """
    runtime = torch.cuda.cudart()
    for mapped in base.mapped():
        if int(runtime.cudaHostRegister(mapped.ctypes.data, mapped.nbytes, 0)) != 0:
            _cuda_library().cudaGetLastError()
            return False
    return True


def _cuda_library() -> ctypes.CDLL:
    """Return the CUDA runtime that torch has loaded; torch's own binding lacks cudaGetLastError."""
    return ctypes.CDLL(f"libcudart.so.{str(torch.version.cuda).partition('.')[0]}")


def whole_storage(parameter: torch.Tensor) -> torch.Tensor:
    """Return a flat view of everything that a parameter's storage holds."""
    with torch.inference_mode():
        size = parameter.untyped_storage().nbytes() // parameter.element_size()
        return parameter.detach().as_strided((size,), (1,), 0)


def strided(array: Array, offset: int, stride: int, slab: Slab) -> Array:
    """Return a slab of a flat array as a read-only view of shape (rows, cols), by its offset and row stride."""
    strides = (stride * array.itemsize, array.itemsize)
    return np.lib.stride_tricks.as_strided(array[offset:], (slab.rows, slab.cols), strides, writeable=False)


def as_torch(array: Array) -> torch.Tensor:
    """Return a tensor that shares the memory of an array, which may be read-only. The tensor must not be written."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)
