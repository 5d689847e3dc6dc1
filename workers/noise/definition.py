"""Definition of the noise, independent of its implementations: version, keys, table (in full: docs/noise.md).

z_k, element k of a tensor's noise, is a pure function of (seed, tensor name, k). Philox4x32-10 (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011) gives 16 random bits, and a table of 65,536 normal quantiles
maps them to a fixed-point number. Only integers are involved, so that every device gets the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

NOISE_VERSION = 1

CHUNK = 1024  # elements per chunk: 128 counters of 8 samples
COUNTERS = 128
SAMPLES = 8
UNIT = 2.0**-12  # noise per integer step of the table's entries
PART = 1 << 22  # maximum number of elements that a CPU writes or compares at once; it limits a check's memory
GPU_PART = 1 << 26  # the same on a GPU; whole chunks, and parts of 128 MiB in 16 bits

TABLE_SHA256 = "1ea009ce409dac97d6bd609266910f809c5fb912f78e16bd89145b08174d6fc5"

DType = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")

Array = npt.NDArray[Any]
Blend = Sequence[tuple[float, Array, DType]]
"""Weighted sum that a tensor starts from: (coefficient, whole tensor, its dtype)."""


@dataclass(frozen=True)
class Slab:
    """Rows of elements of one tensor, with the positions to which they are written.

    Element (r, c), 0 <= r < rows, 0 <= c < cols, is element k = k_off + r k_stride + c of the (flattened, row-major)
    checkpoint tensor and is written to dst[dst_off + r dst_stride + c].
    """

    rows: int
    cols: int
    k_off: int
    k_stride: int
    dst_off: int
    dst_stride: int

    @classmethod
    def whole(cls, n: int) -> Slab:
        """Return the slab of all n elements of a tensor, where element k is written to dst[k]."""
        return cls(1, n, 0, n, 0, n)

    def parts(self, limit: int) -> Iterator[Slab]:
        """Split the slab into slabs of at most `limit` elements."""
        rows = max(1, limit // max(1, self.cols))
        for r in range(0, self.rows, rows):
            for c in range(0, self.cols, limit):
                yield dataclasses.replace(
                    self,
                    rows=min(rows, self.rows - r),
                    cols=min(limit, self.cols - c),
                    k_off=self.k_off + r * self.k_stride + c,
                    dst_off=self.dst_off + r * self.dst_stride + c,
                )


@dataclass(frozen=True, eq=False)
class Term:
    """Contribution of one seed's noise to a tensor: scale[k // row_size] * z_k(seed).

    Attributes:
        seed: The seed of the noise.
        scale: One value per scaling unit of `row_size` elements; a single value if the whole tensor is one unit. Where
            the scale is zero, nothing is added, not even a zero (which would turn -0 into 0).
        row_size: Number of elements per scaling unit.
    """

    seed: int
    scale: npt.NDArray[np.float32]
    row_size: int


@dataclass(frozen=True, eq=False)
class SeedTerms:
    """Terms of one seed for many tensors. Their scales are a part of those of a write; a scale of zero adds nothing.

    Attributes:
        seed: The seed of the noise.
        starts: int64[tensors + 1]; tensor i has scales[starts[i] : starts[i + 1]] of the write, at least one.
        row_sizes: int64[tensors], the number of elements per scaling unit.
    """

    seed: int
    starts: npt.NDArray[np.int64]
    row_sizes: npt.NDArray[np.int64]

    @functools.cached_property
    def by_row(self) -> npt.NDArray[np.bool_]:
        """bool[tensors], whether a tensor has more than one scale."""
        return np.diff(self.starts) > 1


def tensor_key(seed: int, name: str) -> tuple[int, int]:
    r"""Return the two 32-bit words of the Philox key for a tensor.

    They are the halves, each read little-endian, of the 8-byte BLAKE2b digest of the UTF-8 text
    "<version>\n<seed in decimal>\n<tensor name>".
    """
    digest = hashlib.blake2b(f"{NOISE_VERSION}\n{int(seed)}\n{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


@functools.cache
def table() -> npt.NDArray[np.int16]:
    """Return the table T, int16[65536], read-only: T[i] = round_half_even(4096 Q((i + 0.5) / 65536)).

    Q is the inverse of the standard normal distribution function.

    Raises:
        RuntimeError: The table computed on this machine differs from the one that docs/noise.md defines.
    """
    quantile = statistics.NormalDist().inv_cdf
    lower = [round(4096 * quantile((i + 0.5) / 65536)) for i in range(32768)]
    values = np.array(lower + [-v for v in reversed(lower)], dtype=np.int16)
    if hashlib.sha256(values.astype("<i2").tobytes()).hexdigest() != TABLE_SHA256:
        raise RuntimeError("the table of normal quantiles came out differently on this machine")
    values.flags.writeable = False
    return values
