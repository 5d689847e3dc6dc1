"""CPU kernels, compiled by numba and called by workers/noise/cpu.py: they process every element of a tensor.

`write` works in pieces of 16 chunks (a chunk is 1,024 elements): it draws the noise of every term, then reads source
and noise, adds, rounds and stores. The sums work in blocks of 64 chunks. Some arguments have no annotations, because
numba infers their types.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

from workers.noise.definition import CHUNK, COUNTERS, SAMPLES, UNIT, Array

PIECE = 16 * CHUNK  # elements that are read and stored at once, enough for the processor to prefetch
TASK = 64 * CHUNK  # elements per task and block of a sum; part of the definition of square_sums
LANES = 16  # running sums per block; part of the definition of square_sums

_F32, _BF16, _F16 = 0, 1, 2
KINDS: dict[str, int] = {"float32": _F32, "bfloat16": _BF16, "float16": _F16}

# numba converts uint64 with a signed literal to float64: every constant combined with a uint64 must be a uint64.
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _HALF, _QUARTER, _SAMPLE = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(16), np.uint64(0xFFFF)
_UNIT = np.float32(UNIT)

_jit = numba.njit(cache=True, fastmath=False, nogil=True)
_parallel = numba.njit(cache=True, fastmath=False, nogil=True, parallel=True)


@_jit
def words_of(out: Array, chunk: int, key: Array, first: int, last: int) -> None:
    """Compute the random words (Philox4x32-10) of the counters first, ..., last - 1 of a chunk.

    The low 32 bits of out[128 w + b] are word w of counter b. The high 32 bits are undefined, because clearing them
    would take 1.5 times as long.
    """
    base = np.uint64(chunk) * np.uint64(COUNTERS)
    low, high = base & _LOW, base >> _HALF  # 128 divides 2^32: the high word is constant within a chunk
    w0, w1, w2, w3 = out[0:128], out[128:256], out[256:384], out[384:512]
    for b in range(first, last):
        # Masked, so that the compiler knows that each factor has 32 bits and multiplies with one instruction.
        c0, c1, c2, c3 = (low + np.uint64(b)) & _LOW, high, np.uint64(0), np.uint64(0)
        k0, k1 = key[0] & _LOW, key[1] & _LOW
        for _ in range(10):
            p, q = (c0 & _LOW) * _M0, (c2 & _LOW) * _M1
            c0, c1, c2, c3 = (q >> _HALF) ^ c1 ^ k0, q, (p >> _HALF) ^ c3 ^ k1, p
            k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
        w0[b], w1[b], w2[b], w3[b] = c0, c1, c2, c3


@_jit
def fill(out: Array, held: int, k: int, n: int, key: Array, quantiles: Array, words: Array) -> int:
    """Write the noise of elements k, ..., k + n - 1, all of one chunk, to out[k % 1024:].

    Args:
        out: The chunk's noise: entries of the table of quantiles.
        held: Index of the chunk that `out` holds completely, -1 if none. If it is the chunk of k, nothing is computed.
        k: Index of the first element in the tensor.
        n: Number of elements.
        key: Key of the tensor.
        quantiles: The table of quantiles (`definition.table`).
        words: uint64[512], overwritten.

    Returns:
        Index of the chunk that `out` now holds completely, -1 if none.
    """
    chunk, e = k // CHUNK, k % CHUNK
    if held == chunk:
        return held
    b = e % COUNTERS
    if b + n <= COUNTERS:
        j = e // COUNTERS
        shift = _QUARTER * np.uint64(j % 2)
        words_of(words, chunk, key, b, b + n)
        drawn, word = out[e:], words[j // 2 * COUNTERS + b :]
        for i in range(n):
            drawn[i] = quantiles[(word[i] >> shift) & _SAMPLE]
        return -1
    words_of(words, chunk, key, 0, COUNTERS)
    for w in range(SAMPLES // 2):
        word = words[w * COUNTERS : (w + 1) * COUNTERS]
        even, odd = out[2 * w * COUNTERS : (2 * w + 1) * COUNTERS], out[(2 * w + 1) * COUNTERS : (2 * w + 2) * COUNTERS]
        for b in range(COUNTERS):
            even[b] = quantiles[word[b] & _SAMPLE]
            odd[b] = quantiles[(word[b] >> _QUARTER) & _SAMPLE]
    return chunk


# Every intermediate result below is cast to 32 bits, because numba widens sums to 64 bits, of which only half as many
# fit into a vector register.
@_jit
def _from_bf16(bits: Any) -> Any:
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@_jit
def _to_bf16(x: Any) -> Any:
    u = np.float32(x).view(np.uint32)
    odd = np.uint32(np.uint32(u >> np.uint32(16)) & np.uint32(1))
    rounded = np.uint32(np.uint32(u + np.uint32(0x7FFF)) + odd)
    nan = np.uint32(u | np.uint32(0x400000))
    kept = nan if np.uint32(u & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000) else rounded
    return np.uint16(np.uint32(kept >> np.uint32(16)))


@_jit
def _from_f16(bits: Any) -> Any:
    """Convert float16 bits to float32, exactly: shift the exponent's bias; normalize subnormals by a subtraction."""
    h = np.uint32(bits)
    magnitude = np.uint32((h & np.uint32(0x7FFF)) << np.uint32(13))
    exponent = magnitude & np.uint32(0x0F800000)
    if exponent == np.uint32(0x0F800000):
        magnitude = np.uint32(magnitude + np.uint32(0x70000000))
    elif exponent != np.uint32(0):
        magnitude = np.uint32(magnitude + np.uint32(0x38000000))
    else:
        shifted = np.uint32(magnitude + np.uint32(0x38800000)).view(np.float32)
        magnitude = np.float32(shifted - np.float32(2.0**-14)).view(np.uint32)
    return np.uint32(magnitude | ((h & np.uint32(0x8000)) << np.uint32(16))).view(np.float32)


@_jit
def _to_f16(x: Any) -> Any:
    u = np.float32(x).view(np.uint32)
    magnitude = np.uint32(u & np.uint32(0x7FFFFFFF))
    if magnitude > np.uint32(0x7F800000):
        h = np.uint32(0x7E00) | ((magnitude >> np.uint32(13)) & np.uint32(0x1FF))
    elif magnitude >= np.uint32(0x47800000):
        h = np.uint32(0x7C00)
    elif magnitude < np.uint32(
        0x38800000
    ):  # subnormal: adding 1/2 leaves the rounded multiple of 2^-24 in the low bits
        h = np.uint32(np.float32(magnitude.view(np.float32) + np.float32(0.5)).view(np.uint32) - np.uint32(0x3F000000))
    else:
        odd = (magnitude >> np.uint32(13)) & np.uint32(1)
        h = np.uint32(magnitude + np.uint32(0xC8000FFF) + odd) >> np.uint32(13)
    return np.uint16(h | ((u >> np.uint32(16)) & np.uint32(0x8000)))


def _wide(element: Any) -> Any:
    """Convert an element of a source to float32, exactly. int16 holds the bits of float16, uint16 those of bfloat16."""


def _narrow(x: Any, array: Any) -> Any:
    """Round x to the element type of the array, to nearest, ties to even."""


@overload(_wide)
def _wide_by_type(element):  # numba compares signatures, annotations too
    if element is types.uint16:
        return lambda element: _from_bf16(element)
    return (lambda element: _from_f16(element)) if element is types.int16 else lambda element: element


@overload(_narrow)
def _narrow_by_type(x, array):
    if array.dtype is types.uint16:
        return lambda x, array: _to_bf16(x)
    return (lambda x, array: _to_f16(x)) if array.dtype is types.int16 else lambda x, array: x


@_jit
def _cast(target: Array, source: Array) -> None:
    for i in range(len(target)):
        target[i] = _narrow(_wide(source[i]), target)


@_jit
def _cast_moved(target: Array, source: Array, z1: Array, scale1: float, z2: Array, scale2: float) -> None:
    """Set target = round(fl(fl(source + fl(scale1 z1)) + fl(scale2 z2))), without the terms whose scale is zero.

    fl rounds to float32, `round` to the dtype of the target. z is given in units of 2^-12, and exact in float32.
    """
    if scale1 == np.float32(0) and scale2 == np.float32(0):
        _cast(target, source)
    elif scale1 == np.float32(0) or scale2 == np.float32(0):
        z, scale = (z1, scale1) if scale2 == np.float32(0) else (z2, scale2)
        for i in range(len(target)):
            target[i] = _narrow(np.float32(_wide(source[i]) + scale * (np.float32(z[i]) * _UNIT)), target)
    else:
        for i in range(len(target)):
            x = np.float32(_wide(source[i]) + scale1 * (np.float32(z1[i]) * _UNIT))
            target[i] = _narrow(np.float32(x + scale2 * (np.float32(z2[i]) * _UNIT)), target)


@_jit
def _load(x: Array, kind: int, f32: Array, u16: Array, k: int) -> None:
    """Set x = elements k, k + 1, ... of a source."""
    if kind == _F32:
        _cast(x, f32[k:])
    elif kind == _BF16:
        _cast(x, u16[k:])
    else:
        _cast(x, u16[k:].view(np.int16))


@_jit
def _store(x: Array, kind: int, f32: Array, u16: Array, at: int) -> None:
    """Set elements at, at + 1, ... of the destination = x."""
    if kind == _F32:
        _cast(f32[at : at + len(x)], x)
    elif kind == _BF16:
        _cast(u16[at : at + len(x)], x)
    else:
        _cast(u16[at : at + len(x)].view(np.int16), x)


@_jit
def _move_to(
    target: Array, kind: int, f32: Array, u16: Array, z1: Array, scale1: float, z2: Array, scale2: float
) -> None:
    if kind == _F32:
        _cast_moved(target, f32, z1, scale1, z2, scale2)
    else:
        _cast_moved(target, u16, z1, scale1, z2, scale2)


@_jit
def _move(kind, dst_f, dst_u, at, n, of, f32, u16, z1, scale1, z2, scale2):
    """Set n elements of the destination to those of one source plus two noise terms.

    Args:
        kind: Dtype of the destination (KINDS).
        dst_f: The destination if it is float32.
        dst_u: The destination if it has 16 bits.
        at: Index of the first element in the destination.
        n: Number of elements.
        of: Dtype of the source (KINDS).
        f32: The source, from its first element, if it is float32.
        u16: The source, likewise, if it has 16 bits.
        z1: Noise of the first term, in units of 2^-12.
        scale1: Scale of the first term.
        z2: Noise of the second term.
        scale2: Scale of the second term. 0: there is none.
    """
    if kind == _F32:
        _move_to(dst_f[at : at + n], of, f32, u16, z1, scale1, z2, scale2)
    elif kind == _BF16:
        _move_to(dst_u[at : at + n], of, f32, u16, z1, scale1, z2, scale2)
    else:
        _move_to(dst_u[at : at + n].view(np.int16), of, f32, u16, z1, scale1, z2, scale2)


@_jit
def _scale(x: Array, coefficient: float) -> None:
    for i in range(len(x)):
        x[i] = coefficient * x[i]


@_jit
def _add(x: Array, y: Array) -> None:
    for i in range(len(x)):
        x[i] = x[i] + y[i]


@_jit
def _add_noise(x: Array, drawn: Array, scale: float) -> None:
    """Add noise in place. `_cast_moved` would find that target and source overlap, and would not be vectorized."""
    for i in range(len(x)):
        x[i] = x[i] + scale * (np.float32(drawn[i]) * _UNIT)


@_jit
def write(
    dst_kind,
    dst_f,
    dst_u,
    src_kinds,
    f0,
    u0,
    f1,
    u1,
    f2,
    u2,
    coefficients,
    geometry,
    keys,
    scales,
    first,
    row_sizes,
    quantiles,
):
    """Write one slab.

    Every array is passed as float32 and as uint16, one of them empty, so that one compiled kernel serves all dtypes.
    The function stays in one piece: its two inner loops share twelve arrays and as many offsets, all of which numba
    would pass to a split function, and it is the innermost code of every write.

    Args:
        dst_kind: Dtype of the destination (KINDS).
        dst_f: The destination if it is float32.
        dst_u: The destination if it has 16 bits.
        src_kinds: Dtypes of the three sources.
        f0: First source if it is float32.
        u0: First source if it has 16 bits.
        f1: Second source, likewise.
        u1: Second source, likewise.
        f2: Third source, likewise.
        u2: Third source, likewise.
        coefficients: float32, one per source that is used.
        geometry: (rows, cols, k_off, k_stride, dst_off, dst_stride) of the slab.
        keys: uint64[terms, 2].
        scales: float32, the scales of all terms one after another.
        first: int64[terms + 1], index of each term's first scale.
        row_sizes: int64[terms], elements per scale.
        quantiles: The table of quantiles (`definition.table`).
    """
    rows, cols, k_off, k_stride, dst_off, dst_stride = geometry
    n, n_terms = rows * cols, len(row_sizes)
    is_plain_copy = len(coefficients) == 1 and coefficients[0] == np.float32(1)
    # The fast path, without intermediate sums. float16 is left out, so that three kernels fewer are compiled.
    fast_path = is_plain_copy and 1 <= n_terms <= 2 and src_kinds[0] != _F16
    other = n_terms - 1  # index of the second term, or of the first if there is one only
    x, y = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    drawn = np.empty((n_terms, PIECE), np.int16)
    words = np.empty(4 * COUNTERS, np.uint64)
    held = np.full(n_terms, -1, np.int64)
    at = 0
    while at < n:
        r = at // cols
        c = at - r * cols
        k = k_off + r * k_stride + c
        stop = k + min(n - at, cols - c, PIECE - k % PIECE)
        to = dst_off + r * dst_stride + c - k
        at += stop - k
        for t in range(n_terms):
            now = k
            while now < stop:
                part = min(stop - now, CHUNK - now % CHUNK)
                out = drawn[t, now % PIECE // CHUNK * CHUNK :]
                held[t] = fill(out, held[t], now, part, keys[t], quantiles, words)
                now += part
        while k < stop:
            if fast_path:
                part = min(stop - k, row_sizes[0] - k % row_sizes[0], row_sizes[other] - k % row_sizes[other])
                z1, z2, scale2 = drawn[0, k % PIECE :], drawn[other, k % PIECE :], np.float32(0)
                scale1 = scales[first[0] + k // row_sizes[0]]
                if other:
                    scale2 = scales[first[other] + k // row_sizes[other]]
                _move(dst_kind, dst_f, dst_u, to + k, part, src_kinds[0], f0[k:], u0[k:], z1, scale1, z2, scale2)
                k += part
                continue
            part = min(stop - k, CHUNK)
            total = x[:part]
            _load(total, src_kinds[0], f0, u0, k)
            if coefficients[0] != np.float32(1):
                _scale(total, coefficients[0])
            for i in range(1, len(coefficients)):
                addend = y[:part]
                if i == 1:
                    _load(addend, src_kinds[1], f1, u1, k)
                else:
                    _load(addend, src_kinds[2], f2, u2, k)
                if coefficients[i] != np.float32(1):
                    _scale(addend, coefficients[i])
                _add(total, addend)
            for t in range(n_terms):
                done = 0
                while done < part:
                    now = k + done
                    run = min(part - done, row_sizes[t] - now % row_sizes[t])
                    scale = scales[first[t] + now // row_sizes[t]]
                    if scale != np.float32(0):
                        _add_noise(total[done : done + run], drawn[t, now % PIECE :], scale)
                    done += run
            _store(total, dst_kind, dst_f, dst_u, to + k)
            k += part


@_jit
def product(dst, a, b):
    """Set dst = B A in float32, summed over the rank in ascending order."""
    cols = a.shape[1]
    for row in range(b.shape[0]):
        for c in range(0, cols, CHUNK):
            piece = min(CHUNK, cols - c)
            total, factor = dst[row, c : c + piece], a[0, c : c + piece]
            for i in range(piece):
                total[i] = b[row, 0] * factor[i]
            for rank in range(1, a.shape[0]):
                weight, factor = b[row, rank], a[rank, c : c + piece]
                for i in range(piece):
                    total[i] = total[i] + weight * factor[i]


@_parallel
def sums(n_rows, row_size, keys, quantiles):
    """Return |z1|^2, <z1, z2>, |z2|^2 of each block of each row of a tensor, in units of 2^-24.

    Args:
        n_rows: Number of rows.
        row_size: Elements per row. A row is split into blocks of TASK elements.
        keys: uint64[1 or 2, 2]: the Philox keys of z1 and z2. With one key the second and third result are 0.
        quantiles: The table of quantiles (`definition.table`).

    Returns:
        int64[rows x blocks, 3].
    """
    blocks = (row_size + TASK - 1) // TASK
    items = n_rows * blocks
    group = max(1, TASK // row_size)  # short rows share a task and its chunks
    out = np.zeros((items, 3), np.int64)
    for task in numba.prange((items + group - 1) // group):
        drawn1, drawn2 = np.empty(CHUNK, np.int16), np.empty(CHUNK, np.int16)
        words = np.empty(4 * COUNTERS, np.uint64)
        held1, held2 = -1, -1
        for item in range(task * group, min(items, (task + 1) * group)):
            row = item // blocks
            k = row * row_size + (item - row * blocks) * TASK
            end = min((row + 1) * row_size, k + TASK)
            a, b, c = np.int64(0), np.int64(0), np.int64(0)
            while k < end:
                piece = min(end - k, CHUNK - k % CHUNK)
                held1 = fill(drawn1, held1, k, piece, keys[0], quantiles, words)
                z1 = drawn1[k % CHUNK :]
                if len(keys) == 1:
                    for i in range(piece):
                        u = np.int64(z1[i])
                        a += u * u
                else:
                    held2 = fill(drawn2, held2, k, piece, keys[1], quantiles, words)
                    z2 = drawn2[k % CHUNK :]
                    for i in range(piece):
                        u, v = np.int64(z1[i]), np.int64(z2[i])
                        a += u * u
                        b += u * v
                        c += v * v
                k += piece
            out[item, 0], out[item, 1], out[item, 2] = a, b, c
    return out


@_parallel
def squares(kind, f32, u16, n_rows, row_size):
    """Return the sum of squares of each block of TASK elements of each row: float64[rows x blocks].

    `cpu.square_sums` documents the order of the additions.
    """
    blocks = (row_size + TASK - 1) // TASK
    items = n_rows * blocks
    group = max(1, TASK // row_size)
    out = np.zeros(items, np.float64)
    for task in numba.prange((items + group - 1) // group):
        x = np.empty(CHUNK, np.float32)
        lanes = np.empty(LANES, np.float64)
        for item in range(task * group, min(items, (task + 1) * group)):
            row = item // blocks
            k = row * row_size + (item - row * blocks) * TASK
            end = min((row + 1) * row_size, k + TASK)
            lanes[:] = 0.0
            while k < end:
                piece = min(end - k, CHUNK)
                _load(x[:piece], kind, f32, u16, k)
                full = piece // LANES * LANES
                for i in range(0, full, LANES):
                    for lane in range(LANES):
                        value = np.float64(x[i + lane])
                        lanes[lane] += value * value
                for lane in range(piece - full):
                    value = np.float64(x[full + lane])
                    lanes[lane] += value * value
                k += piece
            total = 0.0
            for lane in range(LANES):
                total += lanes[lane]
            out[item] = total
    return out
