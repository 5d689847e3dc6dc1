"""Perturbation on a GPU: one Triton kernel, one pass over memory. The results are those of reference.py, bit for bit.

Each Triton program writes one chunk of 1,024 elements: sample j of the chunk's 128 counters gives 128 neighboring
elements. Fused multiply-add is switched off, so that the product of scale and z is rounded before it is added.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl

from workers.noise.definition import CHUNK, Array, Slab, Term, table, tensor_key

OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


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
def _read(source, at, mask):
    """Load as float32, exactly. The source is float32, float16, or the bits of bfloat16 as int16."""
    value = tl.load(source + at, mask=mask, other=0)
    if value.dtype == tl.int16:
        value = (value.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return value.to(tl.float32)


@triton.jit
def write_kernel(
    dst,
    source0,
    source1,
    source2,
    coefficients,
    quantiles,
    keys,
    scales,
    units,
    geometry,
    N_SOURCES: tl.constexpr,
    IS_PLAIN_COPY: tl.constexpr,
    N_TERMS: tl.constexpr,
    CONTIGUOUS: tl.constexpr,
):
    """Write the part of one chunk of the tensor that is in the slab.

    The function stays in one piece: Triton compiles it into one kernel, whose steps share the pointers, masks and
    constants, and split functions would need as many arguments as it has lines.

    Args:
        dst: The destination; bfloat16 as int16.
        source0: First tensor of the weighted sum to start from; bfloat16 as int16.
        source1: Second tensor. Not read if N_SOURCES < 2.
        source2: Third tensor. Not read if N_SOURCES < 3.
        coefficients: float32[sources].
        quantiles: int16[65536], the table.
        keys: int32[terms, 2], the bits of the Philox keys.
        scales: float32, the scales of all terms one after another.
        units: int64[terms, 2], index of a term's first scale, and its row size (0: one scale for the tensor).
        geometry: int64[8]: cols, k_off, end of the slab in the tensor, k_stride, dst_off, dst_stride, offset in the
            sources, their row stride. It is an array because Triton chooses the width of an integer argument by its
            value, and turns an argument of 1 into a constant.
        N_SOURCES: Number of source tensors, 1 to 3.
        IS_PLAIN_COPY: Whether the sum to start from is a copy of one tensor: its only source has coefficient 1.
        N_TERMS: Number of terms.
        CONTIGUOUS: Whether the slab is contiguous in tensor, sources and destination.
    """
    cols = tl.load(geometry)
    k_off = tl.load(geometry + 1)
    k_end = tl.load(geometry + 2)
    k_stride = tl.load(geometry + 3)
    dst_off = tl.load(geometry + 4)
    dst_stride = tl.load(geometry + 5)
    src_off = tl.load(geometry + 6)
    src_stride = tl.load(geometry + 7)
    chunk = k_off // 1024 + tl.program_id(0)
    b = tl.arange(0, 128)
    counter = chunk * 128 + b
    start = chunk * 1024
    # one 64-bit division per program; inside the chunk 32 bits suffice
    before = start - k_off  # negative in the first chunk
    row = tl.maximum(before, 0) // k_stride
    column = (before - row * k_stride).to(tl.int32)
    if CONTIGUOUS or (column < cols) or (column + 1024 > k_stride):
        low = (counter & 0xFFFFFFFF).to(tl.uint32)
        high = (counter >> 32).to(tl.uint32)
        for j in tl.static_range(8):
            within = 128 * j + b
            k = start + within
            mask = (k >= k_off) & (k < k_end)
            if CONTIGUOUS:
                to = dst_off + (k - k_off)
                at = src_off + (k - k_off)
            else:
                c = column + within
                down = tl.maximum(c, 0) // k_stride.to(tl.int32)
                c = c - down * k_stride.to(tl.int32)
                mask = mask & (c < cols)
                to = dst_off + (row + down) * dst_stride + c
                at = src_off + (row + down) * src_stride + c
            x = _read(source0, at, mask)
            if not IS_PLAIN_COPY:
                x = tl.load(coefficients) * x
            if N_SOURCES > 1:
                x = x + tl.load(coefficients + 1) * _read(source1, at, mask)
            if N_SOURCES > 2:
                x = x + tl.load(coefficients + 2) * _read(source2, at, mask)
            for t in tl.static_range(N_TERMS):
                # the source computes the four words again for each j; the compiler reuses them
                k0 = tl.load(keys + 2 * t).to(tl.uint32, bitcast=True)
                k1 = tl.load(keys + 2 * t + 1).to(tl.uint32, bitcast=True)
                w0, w1, w2, w3 = _philox(low, high, k0, k1)
                word = w0
                if j // 2 == 1:
                    word = w1
                if j // 2 == 2:
                    word = w2
                if j // 2 == 3:
                    word = w3
                bits = (word >> (16 * (j % 2))) & 0xFFFF
                z = tl.load(quantiles + bits.to(tl.int32)).to(tl.float32) * 0.000244140625
                size = tl.load(units + 2 * t + 1)
                first = tl.load(units + 2 * t)
                if size == 0:
                    scale = tl.load(scales + first) + tl.zeros_like(z)
                else:
                    unit = start // size
                    left = (start - unit * size).to(tl.int32) + within
                    scale = tl.load(scales + first + unit + left // size.to(tl.int32), mask=mask, other=0)
                x = tl.where(scale != 0, x + scale * z, x)
            if dst.dtype.element_ty == tl.int16:
                u = x.to(tl.uint32, bitcast=True)
                rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16
                rounded = tl.where((u & 0x7FFFFFFF) > 0x7F800000, (u >> 16) | 0x40, rounded)
                tl.store(dst + to, rounded.to(tl.uint16).to(tl.int16, bitcast=True), mask=mask)
            else:
                tl.store(dst + to, x.to(dst.dtype.element_ty), mask=mask)


@functools.cache
def _table(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(table().copy()).to(device)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.dim() == 1 and tensor.is_contiguous()
    return tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor


def _copy(dst: torch.Tensor, source: torch.Tensor, slab: Slab, src_off: int, src_stride: int) -> None:
    """Copy the slab, bit for bit. `source` has the dtype of `dst`."""
    region = (slab.rows, slab.cols)
    target, origin = _bits(dst), _bits(source)
    window = target.as_strided(region, (slab.dst_stride, 1), target.storage_offset() + slab.dst_off)
    window.copy_(origin.as_strided(region, (src_stride, 1), origin.storage_offset() + src_off))


def _term_arrays(terms: Sequence[Term], sizes: Sequence[int], name: str) -> tuple[Array, Array, Array]:
    """Return the kernel's keys, scales and units; one element of zeros if there are no terms.

    Args:
        terms: The terms.
        sizes: Row size of each term; 0 if it has one scale for the tensor.
        name: The tensor's name.
    """
    if not terms:
        return np.zeros((1, 2), np.int32), np.zeros(1, np.float32), np.zeros((1, 2), np.int64)
    starts = np.cumsum([0, *(len(term.scale) for term in terms)])[: len(terms)]
    keys = np.array([tensor_key(term.seed, name) for term in terms], np.uint32).view(np.int32)
    scales = np.concatenate([term.scale for term in terms]).astype(np.float32)
    return keys, scales, np.array(list(zip(starts, sizes, strict=True)), np.int64)


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
    2^31 - 1024 elements.

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
    k_end = slab.k_off + (slab.rows - 1) * slab.k_stride + slab.cols
    last = slab.dst_off + (slab.rows - 1) * slab.dst_stride + slab.cols
    read = src_off + (slab.rows - 1) * src_stride + slab.cols
    assert min(slab.k_off, slab.dst_off, src_off) >= 0 and last <= len(dst), slab
    assert all(read <= len(a) for _, a in sources), (slab, place)
    contiguous = slab.rows == 1 or slab.cols == slab.k_stride == slab.dst_stride == src_stride
    is_plain_copy = len(sources) == 1 and sources[0][0] == 1.0
    if not terms and is_plain_copy and dst.dtype == sources[0][1].dtype:
        _copy(dst, sources[0][1], slab, src_off, src_stride)
        return
    limit = 2**31 - CHUNK
    sizes = [0 if len(term.scale) == 1 else term.row_size for term in terms]
    assert (contiguous or max(slab.k_stride, slab.cols) < limit) and all(size < limit for size in sizes), slab
    device = dst.device
    arrays = [_bits(a) for _, a in sources] + [_bits(sources[0][1])] * (3 - len(sources))
    k_stride = max(1, k_end - slab.k_off if contiguous else slab.k_stride)
    geometry = [slab.cols, slab.k_off, k_end, k_stride, slab.dst_off, slab.dst_stride, src_off, src_stride]
    write_kernel[((k_end - 1) // CHUNK - slab.k_off // CHUNK + 1,)](
        _bits(dst),
        *arrays,
        torch.tensor([c for c, _ in sources], dtype=torch.float32, device=device),
        _table(device),
        *(torch.from_numpy(array).to(device) for array in _term_arrays(terms, sizes, name)),
        torch.tensor(geometry, device=device),
        N_SOURCES=len(sources),
        IS_PLAIN_COPY=is_plain_copy,
        N_TERMS=len(terms),
        CONTIGUOUS=contiguous,
        **OPTIONS,
    )


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
