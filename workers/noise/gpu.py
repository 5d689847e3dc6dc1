"""Perturbation on a GPU: one Triton kernel, one pass over memory. The results are those of reference.py, bit for bit.

A launch writes many slabs: it reads what to do from records, rows of 64-bit words in one buffer, which is copied to the
GPU once per write. Its grid is (programs of a slab, slabs), so the slabs of a launch have equally many programs.

Each Triton program writes CHUNKS chunks of 1,024 elements: sample j of a chunk's 128 counters gives 128 neighboring
elements, and each of the 128 threads computes its counter's four words once for its eight samples. Fused multiply-add
is switched off, so that the product of scale and z is rounded before it is added.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from workers.noise.definition import CHUNK, Slab, Term, table, tensor_key

OPTIONS = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": False}
CHUNKS = 4  # chunks per program
SLABS = 65535  # maximum size of a grid in its second dimension
MAX_SIZE = 2**31 - CHUNK * CHUNKS  # what the kernel divides has 31 bits
SUM_PART = 1 << 22  # elements whose weighted sum is computed at once: 64 MiB in between

# Words of a record. Addresses are those of the slab's first element.
DST, SOURCES, K_OFF, K_END, COLS, K_STRIDE, DST_STRIDE, SRC_STRIDE, DIVISION, COEFFICIENTS, TERMS = (
    0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 14,
)  # fmt: skip
KEY, SCALE, SIZE, SIZE_DIVISION, TERM_WORDS = 0, 1, 2, 3, 4  # words of a term

_ELEMENTS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.int16}
I64 = npt.NDArray[np.int64]


@triton.jit
def _philox(c0, c1, k0, k1):  # Triton infers the types
    """Run ten rounds of Philox on the counter (c0, c1, 0, 0), all uint32."""
    c2 = c0 * 0
    c3 = c0 * 0
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high2, low2 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0 = high2 ^ c1 ^ k0
        c1 = low2
        c2 = high0 ^ c3 ^ k1
        c3 = low0
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _divide(n, size, division):
    """Return n // size of int32 n >= 0 by a multiplication; `division` is that of `divisions(size)`."""
    magic = (division & 0xFFFFFFFF).to(tl.uint32)
    shift = (division >> 32).to(tl.uint32)
    quotient = (tl.umulhi(n.to(tl.uint32), magic) >> shift).to(tl.int32)
    return tl.where(size == 1, n, quotient)


@triton.jit
def _float(word):
    """Return the float32 whose bits are the low half of a 64-bit word."""
    return word.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _read(source, mask):
    """Load as float32, exactly. The source is float32, float16, or the bits of bfloat16 as int16.

    The load bypasses the first cache, which is for the table.
    """
    value = tl.load(source, mask=mask, other=0, cache_modifier=".cg")
    if value.dtype == tl.int16:
        value = (value.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return value.to(tl.float32)


@triton.jit
def _round(x, DTYPE: tl.constexpr):
    """Round float32 once. int16 stands for the bits of bfloat16."""
    if DTYPE == tl.int16:
        u = x.to(tl.uint32, bitcast=True)
        rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16
        rounded = tl.where((u & 0x7FFFFFFF) > 0x7F800000, (u >> 16) | 0x40, rounded)
        return rounded.to(tl.uint16).to(tl.int16, bitcast=True)
    return x.to(DTYPE)


@triton.jit
def write_kernel(
    records,
    quantiles,
    WORDS: tl.constexpr,
    DTYPE: tl.constexpr,
    SOURCE0: tl.constexpr,
    SOURCE1: tl.constexpr,
    SOURCE2: tl.constexpr,
    N_SOURCES: tl.constexpr,
    IS_PLAIN_COPY: tl.constexpr,
    N_TERMS: tl.constexpr,
    ROWS: tl.constexpr,
    CONTIGUOUS: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Write the part of CHUNKS chunks of a tensor that is in the slab of record `program_id(1)`.

    The function stays in one piece: Triton compiles it into one kernel, whose steps share the pointers, masks and
    constants, and split functions would need as many arguments as it has lines. Everything is loaded before the first
    store, because the compiler must load again whatever a store may have changed.

    Args:
        records: int64[slabs, WORDS]. The words are named above; a product of a float32 and an address is its bits.
        quantiles: int16[65536], the table.
        WORDS: Number of words of a record.
        DTYPE: Element type of the destination; that of bfloat16 is int16.
        SOURCE0: Element type of the first tensor of the weighted sum to start from.
        SOURCE1: The same of the second tensor. Not used if N_SOURCES < 2.
        SOURCE2: The same of the third tensor. Not used if N_SOURCES < 3.
        N_SOURCES: Number of source tensors, 1 to 3.
        IS_PLAIN_COPY: Whether the sum to start from is a copy of one tensor: its only source has coefficient 1.
        N_TERMS: Number of terms.
        ROWS: Bit t is set if term t has one scale per row and not one for the tensor.
        CONTIGUOUS: Whether the slabs are contiguous in tensor, sources and destination.
        CHUNKS: Number of chunks per program.
    """
    record = records + tl.program_id(1) * WORDS
    dst = tl.load(record).to(tl.pointer_type(DTYPE))
    source0 = tl.load(record + 1).to(tl.pointer_type(SOURCE0))
    if N_SOURCES > 1:
        source1 = tl.load(record + 2).to(tl.pointer_type(SOURCE1))
    if N_SOURCES > 2:
        source2 = tl.load(record + 3).to(tl.pointer_type(SOURCE2))
    k_off = tl.load(record + 4)
    k_end = tl.load(record + 5)
    first = (k_off >> 10) + tl.program_id(0) * CHUNKS
    begin = first * 1024
    if not CONTIGUOUS:
        cols = tl.load(record + 6).to(tl.int32)
        k_stride = tl.load(record + 7)
        dst_stride = tl.load(record + 8)
        src_stride = tl.load(record + 9)
        division = tl.load(record + 10)
        # one 64-bit division per program; inside it 32 bits suffice
        width = k_stride.to(tl.int32)
        first_row = tl.maximum(begin - k_off, 0) // k_stride
        first_column = (begin - k_off - first_row * k_stride).to(tl.int32)  # negative in the first chunk
    if not IS_PLAIN_COPY:
        coefficient0 = _float(tl.load(record + 11))
        if N_SOURCES > 1:
            coefficient1 = _float(tl.load(record + 12))
        if N_SOURCES > 2:
            coefficient2 = _float(tl.load(record + 13))
    keys = ()
    scales = ()  # a float32, or the address of the scale of the first chunk's first row
    sizes = ()
    divisions = ()
    lefts = ()  # elements of that row before the first chunk
    for t in tl.static_range(N_TERMS):
        key = tl.load(record + 14 + 4 * t)
        keys = keys + ((key & 0xFFFFFFFF).to(tl.uint32), (key >> 32).to(tl.uint32))
        one_scale = tl.load(record + 15 + 4 * t)
        if (ROWS >> t) & 1:
            size = tl.load(record + 16 + 4 * t)
            unit = begin // size
            scales = scales + (one_scale.to(tl.pointer_type(tl.float32)) + unit,)
            sizes = sizes + (size,)
            divisions = divisions + (tl.load(record + 17 + 4 * t),)
            lefts = lefts + ((begin - unit * size).to(tl.int32),)
        else:
            scales = scales + (_float(one_scale),)
            sizes = sizes + (0,)
            divisions = divisions + (0,)
            lefts = lefts + (0,)
    b = tl.arange(0, 128)
    for i in range(tl.minimum(((k_end - 1) >> 10) - first + 1, CHUNKS).to(tl.int32)):
        start = begin + 1024 * i
        needed = True
        if not CONTIGUOUS:
            down = _divide(tl.maximum(first_column + 1024 * i, 0), width, division)
            row = first_row + down
            column = first_column + 1024 * i - down * width
            needed = (column < cols) or (column + 1024 > width)
        if needed:
            counter = (first + i) * 128 + b
            words = ()
            for t in tl.static_range(N_TERMS):
                words = words + _philox(
                    (counter & 0xFFFFFFFF).to(tl.uint32), (counter >> 32).to(tl.uint32), keys[2 * t], keys[2 * t + 1]
                )
            low = tl.maximum(k_off - start, 0).to(tl.int32)
            high = tl.minimum(k_end - start, 1024).to(tl.int32)
            for j in tl.static_range(8):
                within = 128 * j + b
                mask = (within >= low) & (within < high)
                if CONTIGUOUS:
                    to = (start - k_off) + within
                    at = to
                else:
                    c = column + within
                    r = _divide(tl.maximum(c, 0), width, division)
                    c = c - r * width
                    mask = mask & (c < cols)
                    to = (row + r) * dst_stride + c
                    at = (row + r) * src_stride + c
                if N_TERMS == 0 and IS_PLAIN_COPY and SOURCE0 == DTYPE:
                    tl.store(dst + to, tl.load(source0 + at, mask=mask, cache_modifier=".cg"), mask=mask)
                else:
                    x = _read(source0 + at, mask)
                    if not IS_PLAIN_COPY:
                        x = coefficient0 * x
                    if N_SOURCES > 1:
                        x = x + coefficient1 * _read(source1 + at, mask)
                    if N_SOURCES > 2:
                        x = x + coefficient2 * _read(source2 + at, mask)
                    for t in tl.static_range(N_TERMS):
                        bits = (words[4 * t + j // 2] >> (16 * (j % 2))) & 0xFFFF
                        z = tl.load(quantiles + bits.to(tl.int32)).to(tl.float32) * 0.000244140625
                        if (ROWS >> t) & 1:
                            further = _divide(lefts[t] + 1024 * i + within, sizes[t], divisions[t])
                            scale = tl.load(scales[t] + further, mask=mask, other=0)
                        else:
                            scale = scales[t]
                        x = tl.where(scale != 0, x + scale * z, x)
                    tl.store(dst + to, _round(x, DTYPE), mask=mask)


@dataclass(frozen=True)
class Form:
    """The compile-time properties of a kernel (see `write_kernel`).

    Attributes:
        dtype: Dtype of the destination.
        sources: Dtypes of the sources.
        is_plain_copy: Whether the only source has coefficient 1.
        n_terms: Number of terms.
        rows: Bit t is set if term t has one scale per row.
        contiguous: Whether the slabs are contiguous.
    """

    dtype: torch.dtype
    sources: tuple[torch.dtype, ...]
    is_plain_copy: bool
    n_terms: int
    rows: int
    contiguous: bool

    @property
    def words(self) -> int:
        """Number of words of a record; even, so that records stay aligned to 16 bytes."""
        return TERMS + TERM_WORDS * self.n_terms

    def constants(self) -> dict[str, Any]:
        """Return the kernel's compile-time arguments."""
        kinds = [_ELEMENTS[dtype] for dtype in (*self.sources, *self.sources[:1] * 2)[:3]]
        return {
            "WORDS": self.words,
            "DTYPE": _ELEMENTS[self.dtype],
            **{f"SOURCE{i}": kind for i, kind in enumerate(kinds)},
            "N_SOURCES": len(self.sources),
            "IS_PLAIN_COPY": self.is_plain_copy,
            "N_TERMS": self.n_terms,
            "ROWS": self.rows,
            "CONTIGUOUS": self.contiguous,
            "CHUNKS": CHUNKS,
        }


@dataclass(frozen=True)
class Group:
    """Slabs of one launch: their form, programs per slab, and records int64[slabs, form.words]."""

    form: Form
    programs: int
    records: I64


def host_memory(n: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return uninitialized memory on the host for n elements, which a GPU copies directly (pinned).

    torch keeps pinned memory for the next request, and reuses it after the copies from it have ended.
    """
    return torch.empty(n, dtype=dtype, pin_memory=device.type == "cuda")


def launch(groups: Iterable[Group], device: torch.device) -> None:
    """Copy all records to the device at once, then write each group by one kernel.

    Args:
        groups: The groups.
        device: The device.
    """
    groups = [
        Group(g.form, g.programs, g.records[i : i + SLABS]) for g in groups for i in range(0, len(g.records), SLABS)
    ]
    if not groups:
        return
    packed = host_memory(sum(group.records.size for group in groups), torch.int64, device)
    buffer = torch.empty_like(packed, device=device)
    np.concatenate([group.records.ravel() for group in groups], out=packed.numpy())
    _upload(packed, buffer)
    position = 0
    for group in groups:
        _run(group.form, (group.programs, len(group.records)), buffer[position:], _table(device))
        position += group.records.size


def _run(form: Form, grid: tuple[int, int], records: torch.Tensor, quantiles: torch.Tensor) -> None:
    write_kernel[grid](records, quantiles, **form.constants(), **OPTIONS)


def _upload(packed: torch.Tensor, buffer: torch.Tensor) -> None:
    buffer.copy_(packed, non_blocking=True)


@functools.cache
def _table(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(table().copy()).to(device)


def divisions(sizes: I64 | int) -> I64:
    """Return magic + (shift << 32) so that n // size = (n magic) >> (32 + shift) for 0 <= n < 2^31 and size > 1.

    With l = ceil(log2 size), the magic number is ceil(2^(31 + l) / size), and the shift l - 1 (Granlund, Montgomery:
    "Division by invariant integers using multiplication", PLDI 1994, for 31 bits).
    """
    sizes = np.clip(np.asarray(sizes, np.int64), 2, MAX_SIZE)  # the kernel divides by no others
    logarithm = np.frexp(sizes - 1)[1].astype(np.int64)
    magic = -(-(np.int64(1) << (31 + logarithm)) // sizes)
    return magic + ((logarithm - 1) << 32)


def key_word(seed: int, name: str) -> int:
    """Return the Philox key of a tensor as one signed 64-bit word."""
    low, high = tensor_key(seed, name)
    return (low | high << 32) - (high >> 31 << 64)


def slab_words(slab: Slab, dst: int, sources: Sequence[int], src_stride: int) -> list[int]:
    """Return the words of a slab's record before its terms, with coefficients of zero.

    Args:
        slab: The slab.
        dst: Address of its first element in the destination.
        sources: The same in each source.
        src_stride: Row stride of the slab in the sources.
    """
    k_end = _end(slab)
    division = int(divisions(slab.k_stride))
    addresses = [*sources, 0, 0][:3]
    strides = [slab.cols, slab.k_stride, slab.dst_stride, src_stride, division]
    return [dst, *addresses, slab.k_off, k_end, *strides, 0, 0, 0]


def is_contiguous(slab: Slab, src_stride: int) -> bool:
    """Return whether a slab is contiguous in tensor, sources and destination."""
    return slab.rows == 1 or slab.cols == slab.k_stride == slab.dst_stride == src_stride


def _end(slab: Slab) -> int:
    """Return the place after the slab's last element. No slab is written beyond it, even if its rows overlap."""
    return (
        slab.k_off + (slab.rows - 1) * slab.k_stride + (slab.cols if slab.rows == 1 else min(slab.cols, slab.k_stride))
    )


def programs(slab: Slab) -> int:
    """Return the number of the kernel's programs that a slab takes."""
    k_end = _end(slab)
    return -(-((k_end - 1) // CHUNK - slab.k_off // CHUNK + 1) // CHUNKS)


def check_slab(slab: Slab, src_stride: int, sizes: Iterable[int] = ()) -> None:
    """Check that what the kernel computes in 32 bits fits into them.

    Args:
        slab: The slab.
        src_stride: Its row stride in the sources.
        sizes: Row sizes of terms with one scale per row.
    """
    assert is_contiguous(slab, src_stride) or max(slab.k_stride, slab.cols) < MAX_SIZE, slab
    assert all(size < MAX_SIZE for size in sizes), slab


def _float_word(value: float | np.floating[Any]) -> int:
    return int(np.float32(value).view(np.int32))


def write_slab(
    dst: torch.Tensor,
    base: torch.Tensor,
    slab: Slab,
    name: str,
    terms: Sequence[Term],
    blend: Sequence[tuple[float, torch.Tensor]] | None = None,
    place: tuple[int, int] | None = None,
) -> None:
    """Write the perturbed elements of one slab of a tensor, as workers.noise.cpu.write_slab does.

    Rows of a slab that is not contiguous, and scaling units other than the whole tensor, must have fewer than
    2^31 - 4096 elements.

    Args:
        dst: The destination: a flat tensor.
        base: The base: a flat tensor on the same device, in its own dtype.
        slab: The elements to write.
        name: The tensor's name.
        terms: Terms, which are added in this order.
        blend: Up to three (coefficient, flat tensor), whose weighted sum replaces `base`.
        place: (offset, row stride) of the slab in `base` and in the blended tensors, which may then be parts of the
            checkpoint tensor. None: they are whole, and the slab's own offset and stride apply.
    """
    if slab.rows <= 0 or slab.cols <= 0:
        return
    sources = [(1.0, base)] if blend is None else [(float(np.float32(c)), a) for c, a in blend if np.float32(c) != 0]
    assert 1 <= len(sources) <= 3, "base and two checkpoints at most, and coefficients that sum to 1"
    terms = [term for term in terms if np.any(term.scale)]
    src_off, src_stride = place or (slab.k_off, slab.k_stride)
    last = slab.dst_off + (slab.rows - 1) * slab.dst_stride + slab.cols
    read = src_off + (slab.rows - 1) * src_stride + slab.cols
    assert min(slab.k_off, slab.dst_off, src_off) >= 0 and last <= len(dst), slab
    assert all(read <= len(a) for _, a in sources), (slab, place)
    rows = [len(term.scale) > 1 for term in terms]
    check_slab(slab, src_stride, (term.row_size for term, by_row in zip(terms, rows, strict=True) if by_row))
    form = Form(
        dst.dtype,
        tuple(a.dtype for _, a in sources),
        len(sources) == 1 and sources[0][0] == 1.0,
        len(terms),
        sum(by_row << t for t, by_row in enumerate(rows)),
        is_contiguous(slab, src_stride),
    )
    words = slab_words(slab, address(dst, slab.dst_off), [address(a, src_off) for _, a in sources], src_stride)
    words[COEFFICIENTS : COEFFICIENTS + len(sources)] = [_float_word(c) for c, _ in sources]
    row_scales = []  # keeps them on the device until the kernel is launched
    for term, by_row in zip(terms, rows, strict=True):
        scale = _float_word(term.scale[0])
        if by_row:
            row_scales.append(_to_device(term.scale, dst.device))
            scale = row_scales[-1].data_ptr()
        words += [key_word(term.seed, name), scale, term.row_size, int(divisions(term.row_size))]
    launch([Group(form, programs(slab), np.array([words], np.int64))], dst.device)


def _to_device(scale: npt.NDArray[np.float32], device: torch.device) -> torch.Tensor:
    packed = host_memory(len(scale), torch.float32, device)
    packed.numpy()[:] = scale
    on_device = torch.empty_like(packed, device=device)
    _upload(packed, on_device)
    return on_device


def weighted_sum(total: torch.Tensor, summands: Sequence[tuple[float, torch.Tensor]]) -> None:
    """Set total = the sum of coefficient times values, added in float64 in this order and rounded to float32 once.

    Uses elementwise operations only, each rounded and none fused, on at most SUM_PART elements at a time.

    Args:
        total: The result, float32, overwritten.
        summands: (coefficient, values) pairs, at least one. Values are float64, on the device of the result.
    """
    (first, values), *rest = summands
    for start in range(0, len(total), SUM_PART):
        part = slice(start, start + SUM_PART)
        exact = values[part] * first
        for coefficient, further in rest:
            exact += further[part] * coefficient
        total[part] = exact


def address(tensor: torch.Tensor, offset: int) -> int:
    """Return the address of an element of a flat tensor."""
    assert tensor.dim() == 1 and tensor.is_contiguous()
    return tensor.data_ptr() + offset * tensor.element_size()


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return B A in float32, with the same bits as workers.noise.reference.product.

    Uses elementwise operations only, each rounded and none fused. Rows are processed in groups of at most 2^24
    elements, but at least one row.

    Args:
        a: A, float32 (r, in).
        b: B, float32 (out, r).
    """
    out = torch.empty(len(b), a.shape[1], dtype=torch.float32, device=a.device)
    for total, factors in zip(*(x.split(max(1, (1 << 24) // a.shape[1])) for x in (out, b)), strict=True):
        torch.mul(factors[:, :1], a[:1], out=total)
        for i in range(1, len(a)):
            total.add_(factors[:, i : i + 1] * a[i : i + 1])
    return out
