"""Perturbation in plain numpy, written for readability: the reference against which every kernel is tested."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from workers.noise.definition import CHUNK, COUNTERS, UNIT, Array, Blend, DType, Term, table, tensor_key

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: Sequence[Array], key: tuple[int, int]) -> list[Array]:
    """Compute Philox4x32-10.

    Args:
        counter: The four words of the counter: arrays of 32-bit values.
        key: The two words of the key.

    Returns:
        Four arrays of 32-bit random words, as uint64.
    """
    c0, c1, c2, c3 = (np.asarray(word, dtype=np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(10):
        p, q = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (q >> _HALF) ^ c1 ^ np.uint64(k0), q & _LOW, (p >> _HALF) ^ c3 ^ np.uint64(k1), p & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


def z_int(seed: int, name: str, start: int, stop: int) -> npt.NDArray[np.int16]:
    """Return elements start..stop-1 of a tensor's noise, int16 in units of 2^-12. `start` may exceed 2^32."""
    k = np.arange(start, stop, dtype=np.uint64)
    chunk, within = k // np.uint64(CHUNK), k % np.uint64(CHUNK)
    counter = chunk * np.uint64(COUNTERS) + within % np.uint64(COUNTERS)
    sample = within // np.uint64(COUNTERS)
    zero = np.zeros_like(k)
    words = np.stack(philox([counter & _LOW, counter >> _HALF, zero, zero], tensor_key(seed, name)))
    word = np.take_along_axis(words, (sample // np.uint64(2)).astype(np.intp)[None, :], axis=0)[0]
    bits = (word >> (sample % np.uint64(2) * np.uint64(16))) & np.uint64(0xFFFF)
    noise: npt.NDArray[np.int16] = table()[bits.astype(np.intp)]
    return noise


def to_float32(values: Array, dtype: DType) -> npt.NDArray[np.float32]:
    """Convert to float32, exactly. bfloat16 is given as its bits (uint16), float16 as itself or as its bits."""
    if dtype == "bfloat16":
        return (values.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.view(np.float16 if dtype == "float16" else np.float32).astype(np.float32)


def from_float32(x: npt.NDArray[np.float32], dtype: DType) -> Array:
    """Round to the dtype, to nearest, ties to even.

    bfloat16 and float16 are returned as their bits (uint16). NaN stays NaN.
    """
    if dtype == "float32":
        return x
    if dtype == "float16":
        with np.errstate(over="ignore", under="ignore"):
            return x.astype(np.float16).view(np.uint16)
    bits = x.view(np.uint32)
    kept, dropped = bits >> np.uint32(16), bits & np.uint32(0xFFFF)
    up = (dropped > 0x8000) | ((dropped == 0x8000) & (kept & np.uint32(1) == 1))
    return np.where(np.isnan(x), kept | np.uint32(0x40), kept + up).astype(np.uint16)


def product(a: Array, b: Array) -> npt.NDArray[np.float32]:
    """Return B A, the update of a LoRA adapter before scaling: one row of `b` for each row of the result.

    The products are summed over the rank in ascending order, starting from the first. Every product and sum is rounded
    to float32.

    Args:
        a: A, float32 (r, in).
        b: B, float32 (rows, r).
    """
    total: npt.NDArray[np.float32] = b[:, :1] * a[:1]
    for i in range(1, a.shape[0]):
        total += b[:, i : i + 1] * a[i : i + 1]
    return total


def perturb(
    base: Array,
    name: str,
    terms: Sequence[Term],
    dtype: DType,
    base_dtype: DType,
    blend: Blend | None = None,
    start: int = 0,
) -> Array:
    """Compute elements start, ..., start + len(base) - 1 of the perturbed tensor.

    Args:
        base: Flat array of these elements of the base.
        name: The tensor's name.
        terms: Terms, which are added in this order.
        dtype: Dtype of the result.
        base_dtype: Dtype of `base`.
        blend: The weighted sum to start from; each array holds the same elements as `base`. None starts from `base`.
        start: Index of the first element in the tensor.

    Returns:
        A flat array in `dtype`; 16-bit dtypes as uint16 bits.
    """
    summands = [(1.0, base, base_dtype)] if blend is None else blend
    sources = [(np.float32(c), array, kind) for c, array, kind in summands if np.float32(c) != 0]
    if not terms and len(sources) == 1 and sources[0][0] == 1 and sources[0][2] == dtype:
        return sources[0][1].view(np.float32 if dtype == "float32" else np.uint16).copy()
    x = np.zeros(len(base), dtype=np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for i, (coefficient, source, kind) in enumerate(sources):
            part = to_float32(source, kind)
            part = part if coefficient == 1 else coefficient * part
            x = part.copy() if i == 0 else x + part
        unit = np.arange(start, start + len(base))
        for term in terms:
            z = z_int(term.seed, name, start, start + len(base)).astype(np.float32) * np.float32(UNIT)
            scale = term.scale[unit // term.row_size]
            x = np.where(scale != 0, x + scale * z, x)
    return from_float32(x, dtype)
