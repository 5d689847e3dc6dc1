"""The noise on a GPU: one Triton kernel, one pass over memory. Bit for bit what reference.py says.

One program a chunk of 1,024 elements: 128 counters, of which sample j of all goes to 128 neighbouring elements. Fused
multiply-add is switched off: a z is rounded before it is added.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl

from workers.noise.definition import CHUNK, Slab, Term, table, tensor_key

OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


@triton.jit
def _philox(c0, c1, k0, k1):  # Triton infers
    """Ten rounds on (c0, c1, 0, 0), all uint32."""
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
    """As float32, exactly: float32, float16, or the bits of bfloat16 as int16."""
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
    LONE: tl.constexpr,
    N_TERMS: tl.constexpr,
    CONTIGUOUS: tl.constexpr,
):
    """One chunk of the tensor, as far as it lies in the slab.

    keys: int32[terms, 2], bits; units: int64[terms, 2], first scale and row size (0: one scale for the tensor);
    geometry: int64[8] (Triton would choose an integer argument's width by its value, and make a 1 a constant).
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
    # 64-bit division once a program; inside the chunk 32 bits will do
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
            if not LONE:
                x = tl.load(coefficients) * x
            if N_SOURCES > 1:
                x = x + tl.load(coefficients + 1) * _read(source1, at, mask)
            if N_SOURCES > 2:
                x = x + tl.load(coefficients + 2) * _read(source2, at, mask)
            for t in tl.static_range(N_TERMS):
                # the four words are made anew for each j in the source; the compiler keeps them
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


def write_slab(
    dst: torch.Tensor,
    base: torch.Tensor,
    slab: Slab,
    name: str,
    terms: Sequence[Term],
    blend: Sequence[tuple[float, torch.Tensor]] | None = None,
    place: tuple[int, int] | None = None,
) -> None:
    """What workers.noise.cpu.write_slab does, on flat torch tensors of one device, whose dtypes are their own.

    `place`: (offset, row stride) of the slab in `base` and in the blended tensors, which then need not be whole.
    Rows of a slab that is not contiguous, and scaling units but the whole tensor, have fewer than 2^31 - 1024 elements.
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
    lone = len(sources) == 1 and sources[0][0] == 1.0
    if not terms and lone and dst.dtype == sources[0][1].dtype:
        region = (slab.rows, slab.cols)
        target = _bits(dst).as_strided(region, (slab.dst_stride, 1), dst.storage_offset() + slab.dst_off)
        origin = _bits(sources[0][1])
        target.copy_(origin.as_strided(region, (src_stride, 1), origin.storage_offset() + src_off))
        return
    limit = 2**31 - CHUNK
    sizes = [0 if len(term.scale) == 1 else term.row_size for term in terms]
    assert (contiguous or max(slab.k_stride, slab.cols) < limit) and all(size < limit for size in sizes), slab
    starts = np.cumsum([0, *(len(term.scale) for term in terms)])[: len(terms)]
    keys = np.array([tensor_key(term.seed, name) for term in terms] or [(0, 0)], np.uint32).view(np.int32)
    units = np.array(list(zip(starts, sizes, strict=True)) or [(0, 0)], np.int64)
    scales = np.concatenate([np.zeros(0, np.float32), *(term.scale for term in terms)] if terms else [np.zeros(1)])
    device = dst.device
    arrays = [_bits(a) for _, a in sources] + [_bits(sources[0][1])] * (3 - len(sources))
    k_stride = max(1, k_end - slab.k_off if contiguous else slab.k_stride)
    geometry = [slab.cols, slab.k_off, k_end, k_stride, slab.dst_off, slab.dst_stride, src_off, src_stride]
    write_kernel[((k_end - 1) // CHUNK - slab.k_off // CHUNK + 1,)](
        _bits(dst),
        *arrays,
        torch.tensor([c for c, _ in sources], dtype=torch.float32, device=device),
        _table(device),
        torch.from_numpy(keys).to(device),
        torch.from_numpy(scales.astype(np.float32)).to(device),
        torch.from_numpy(units).to(device),
        torch.tensor(geometry, device=device),
        N_SOURCES=len(sources),
        LONE=lone,
        N_TERMS=len(terms),
        CONTIGUOUS=contiguous,
        **OPTIONS,
    )


def lora(base: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """What workers.noise.cpu.lora does: base (out, in) + s B A, in base's dtype; a: (r, in), b: (out, r), float32.

    Elementwise operations only, each rounded and none fused, in rows of at most 2^24 elements together.
    """
    out = torch.empty_like(base)
    for rows in torch.arange(len(base)).split(max(1, (1 << 24) // base.shape[1])):
        first, last = int(rows[0]), int(rows[-1]) + 1
        total = b[first:last, :1] * a[:1]
        for i in range(1, len(a)):
            total += b[first:last, i : i + 1] * a[i : i + 1]
        total *= float(np.float32(scale))
        out[first:last] = (base[first:last].float() + total).to(base.dtype)
    return out
