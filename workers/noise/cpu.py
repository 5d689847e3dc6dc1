"""Perturbation on a CPU, on flat numpy arrays. The results are those of reference.py, bit for bit.

Work is divided into slabs (rows of one tensor, see `definition.Slab`). `spread` distributes slabs over the threads, and
one thread writes a whole slab: splitting a small slab between threads would cost more than writing it. Results do not
depend on the number of threads, which `limit_threads` limits.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba
import numpy as np
import numpy.typing as npt

from workers.noise import cpu_kernels as kernels
from workers.noise.definition import Array, Blend, DType, Slab, Term, table, tensor_key

Job = TypeVar("Job")


def limit_threads(n: int) -> None:
    """Limit the kernels that the calling thread runs to n threads.

    numba keeps one limit per calling thread; without a limit it uses every core.
    """
    numba.set_num_threads(max(1, min(n, numba.config.NUMBA_NUM_THREADS)))


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    """Limit kernels inside the context to one thread if n elements are a single task.

    Waking other threads would cost more than it gains, especially on a busy machine.
    """
    before = numba.get_num_threads()
    if n > kernels.TASK or before == 1:
        yield
        return
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def spread(jobs: Iterable[Job], do: Callable[[Job], None]) -> None:
    """Run `do` once on every job, in any order, on as many threads as numba may use.

    A kernel that `do` calls uses one thread.

    Args:
        jobs: The jobs. A free thread takes the next one; two threads never iterate at the same time.
        do: Function that processes one job. If it raises, no further job is started, and the error is raised here.
    """
    threads = numba.get_num_threads()
    if threads == 1:
        for job in jobs:
            do(job)
        return
    remaining, lock, errors = iter(jobs), threading.Lock(), list[BaseException]()

    def work() -> None:
        numba.set_num_threads(1)
        try:
            while not errors:
                with lock:
                    job = next(remaining, None)
                if job is None:
                    return
                do(job)
        except BaseException as error:
            errors.append(error)

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(work)
    if errors:
        raise errors[0]


_NO_F32, _NO_U16 = np.empty(0, np.float32), np.empty(0, np.uint16)
_NO_F32.flags.writeable = _NO_U16.flags.writeable = False


def _source(array: Array, dtype: DType) -> tuple[Array, Array]:
    """Return a flat array in the form that the kernels read: (float32, uint16), one of them empty.

    Both are read-only, so that the kernels are compiled for one array type.
    """
    assert array.ndim == 1 and array.itemsize == (4 if dtype == "float32" else 2), (array.shape, array.dtype, dtype)
    if not (array.flags.c_contiguous and array.flags.aligned):
        array = np.require(array, requirements=["C", "A"])
    view = array.view(np.float32 if dtype == "float32" else np.uint16)
    view.flags.writeable = False
    return (view, _NO_U16) if dtype == "float32" else (_NO_F32, view)


def _target(array: Array, dtype: DType) -> tuple[Array, Array]:
    assert array.ndim == 1 and array.flags.c_contiguous and array.flags.writeable
    view = array.view(np.float32 if dtype == "float32" else np.uint16)
    return (view, np.empty(0, np.uint16)) if dtype == "float32" else (np.empty(0, np.float32), view)


def _copy(dst: Array, source: Array, slab: Slab) -> None:
    """Copy the slab, bit for bit."""

    def region(array: Array, offset: int, stride: int) -> Array:
        bits = array[offset:].view(np.uint32 if array.itemsize == 4 else np.uint16)
        strides = (stride * bits.itemsize, bits.itemsize)
        return np.lib.stride_tricks.as_strided(bits, (slab.rows, slab.cols), strides, writeable=array is dst)

    region(dst, slab.dst_off, slab.dst_stride)[:] = region(source, slab.k_off, slab.k_stride)


def _check(array: Array, offset: int, stride: int, slab: Slab) -> None:
    last = offset + (slab.rows - 1) * stride + slab.cols
    assert offset >= 0 and stride >= 0 and last <= len(array), f"{slab} leaves an array of {len(array)} elements"


def write_slab(
    dst: Array,
    base: Array,
    slab: Slab,
    name: str,
    terms: Sequence[Term],
    dtype: DType,
    base_dtype: DType,
    blend: Blend | None = None,
) -> None:
    """Write the perturbed elements of one slab of a tensor into `dst`, in one pass, on this thread.

    Arrays are flat: float32 for float32, uint16 bits for bfloat16, float16 values or uint16 bits for float16. Without
    terms and blend the slab is copied, and cast if the dtypes differ.

    Args:
        dst: The destination.
        base: The whole checkpoint tensor; it may be a memory-mapped file.
        slab: The elements to write.
        name: The tensor's name.
        terms: Terms, which are added in this order.
        dtype: Dtype of `dst`.
        base_dtype: Dtype of `base`.
        blend: Up to three (coefficient, whole array, its dtype), whose weighted sum, in this order, replaces `base`.
            Entries with coefficient 0 are left out; a single entry with coefficient 1 is copied.
    """
    if slab.rows <= 0 or slab.cols <= 0:
        return
    summands = [(1.0, base, base_dtype)] if blend is None else blend
    sources = [(np.float32(c), array, kind) for c, array, kind in summands if np.float32(c) != 0]
    assert 1 <= len(sources) <= 3, "base and two checkpoints at most, and coefficients that sum to 1"
    terms = [term for term in terms if term.scale.any()]
    _check(dst, slab.dst_off, slab.dst_stride, slab)
    for _, source, _ in sources:
        _check(source, slab.k_off, slab.k_stride, slab)
    if not terms and len(sources) == 1 and sources[0][0] == 1 and sources[0][2] == dtype:
        _copy(dst, sources[0][1], slab)
        return
    if slab.cols == slab.k_stride == slab.dst_stride:
        slab = Slab(1, slab.rows * slab.cols, slab.k_off, 0, slab.dst_off, 0)
    views = [view for _, source, kind in sources for view in _source(source, kind)]
    views += [_NO_F32, _NO_U16] * (3 - len(sources))
    scales = [term.scale.astype(np.float32, copy=False) for term in terms] or [_NO_F32]
    kernels.write(
        kernels.KINDS[dtype],
        *_target(dst, dtype),
        tuple(kernels.KINDS[kind] for _, _, kind in [*sources, *[sources[0]] * (3 - len(sources))]),
        *views,
        np.array([coefficient for coefficient, _, _ in sources], np.float32),
        (slab.rows, slab.cols, slab.k_off, slab.k_stride, slab.dst_off, slab.dst_stride),
        np.array([tensor_key(term.seed, name) for term in terms], np.uint64).reshape(-1, 2),
        np.concatenate(scales),
        np.array([0, *itertools.accumulate(len(scale) for scale in scales)], np.int64),
        np.array([term.row_size for term in terms], np.int64),
        table(),
    )


def product(a: Array, b: Array) -> Array:
    """Return B A in float32, as workers.noise.reference.product computes it, bit for bit.

    Args:
        a: A, float32 (r, in).
        b: B, float32 (rows, r): all rows, or some of them.

    Returns:
        float32 (rows, in).
    """
    assert a.shape[0] == b.shape[1] > 0, (a.shape, b.shape)
    a, b = np.ascontiguousarray(a, np.float32), np.ascontiguousarray(b, np.float32)
    out = np.empty((len(b), a.shape[1]), np.float32)
    step = max(1, kernels.TASK // max(1, a.shape[1]))
    parts = [slice(row, row + step) for row in range(0, len(b), step)]
    with _threads(out.size):
        spread(parts, lambda rows: kernels.product(out[rows], a, b[rows]))
    return out


def _block_sums(seeds: Sequence[int], name: str, rows: int, row_size: int) -> npt.NDArray[np.int64]:
    keys = np.array([tensor_key(seed, name) for seed in seeds], np.uint64)
    with _threads(rows * row_size):
        blocks: npt.NDArray[np.int64] = kernels.sums(rows, row_size, keys, table()).reshape(rows, -1, 3)
    return blocks


def sums(seed1: int, name: str, n: int, seed2: int | None = None) -> tuple[int, int, int]:
    """Return (|z1|^2, <z1, z2>, |z2|^2) of a tensor of n elements, exact, in units of 2^-24.

    Without `seed2` the second and third are 0.
    """
    if n == 0:
        return 0, 0, 0
    seeds = [seed1] if seed2 is None else [seed1, seed2]
    blocks = _block_sums(seeds, name, 1, n)[0]
    a, b, c = (sum(int(v) for v in blocks[:, i]) for i in range(3))  # Python's integers do not overflow
    return a, b, c


def row_sums(seed1: int, name: str, rows: int, row_size: int, seed2: int | None = None) -> npt.NDArray[np.int64]:
    """Return (|z1|^2, <z1, z2>, |z2|^2) of each row, as `sums` does for a tensor.

    Returns:
        int64[rows, 3] in units of 2^-24, exact up to 2.9e10 elements per row.
    """
    if rows == 0 or row_size == 0:
        return np.zeros((rows, 3), np.int64)
    total: npt.NDArray[np.int64] = _block_sums([seed1] if seed2 is None else [seed1, seed2], name, rows, row_size).sum(
        axis=1
    )
    return total


def square_sums(array: Array, dtype: DType, rows: int = 1) -> npt.NDArray[np.float64]:
    """Return |W|^2 of each of `rows` equal parts of a flat array, float64[rows].

    The result is the same bits for every number of threads. Each part is summed in blocks of 65,536 elements: element
    i of a block is added to running sum i % 16, then the 16 sums are added from the first to the last. The sums of the
    blocks are added exactly and rounded once. Squares of these dtypes are exact in float64.
    """
    assert rows > 0 and array.size % rows == 0
    if array.size == 0:
        return np.zeros(rows, np.float64)
    with _threads(array.size):
        blocks: npt.NDArray[np.float64] = kernels.squares(
            kernels.KINDS[dtype], *_source(array, dtype), rows, array.size // rows
        ).reshape(rows, -1)
    if blocks.shape[1] == 1:
        return blocks[:, 0]
    return np.array([math.fsum(row) for row in blocks], np.float64)
