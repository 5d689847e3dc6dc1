"""What the noise is, apart from how it is computed: version, keys, table. docs/noise.md says it in words.

z_k, element k of a tensor's noise, is a pure function of (seed, tensor name, k): Philox4x32-10
(Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) gives 16 random bits, a table
of 65,536 normal quantiles turns them into a fixed-point number. Integers all the way: every device
gets the same bits.
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

CHUNK = 1024  # elements a chunk: 128 counters of 8 samples
COUNTERS = 128
SAMPLES = 8
UNIT = 2.0**-12  # what one step of the table is worth
PART = 1 << 22  # elements a CPU writes or compares at once: bounds what a check needs of memory

TABLE_SHA256 = "1ea009ce409dac97d6bd609266910f809c5fb912f78e16bd89145b08174d6fc5"

DType = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")

Array = npt.NDArray[Any]
Blend = Sequence[tuple[float, Array, DType]]  # coefficient, a whole tensor, its dtype: what a tensor starts from


@dataclass(frozen=True)
class Slab:
    """The region of one tensor that is written, in elements.

    Element (r, c), 0 <= r < rows, 0 <= c < cols, is element k = k_off + r k_stride + c of the (flattened,
    row-major) checkpoint tensor and goes to dst[dst_off + r dst_stride + c].
    """

    rows: int
    cols: int
    k_off: int
    k_stride: int
    dst_off: int
    dst_stride: int

    @classmethod
    def whole(cls, n: int) -> Slab:
        """All n elements, in place."""
        return cls(1, n, 0, n, 0, n)

    def parts(self, most: int) -> Iterator[Slab]:
        """The same elements as slabs of at most `most`."""
        rows = max(1, most // max(1, self.cols))
        for r in range(0, self.rows, rows):
            for c in range(0, self.cols, most):
                yield dataclasses.replace(
                    self,
                    rows=min(rows, self.rows - r),
                    cols=min(most, self.cols - c),
                    k_off=self.k_off + r * self.k_stride + c,
                    dst_off=self.dst_off + r * self.dst_stride + c,
                )


@dataclass(frozen=True, eq=False)
class Term:
    """One random direction's contribution to a tensor: scale[k // row_size] * z_k(seed).

    `scale`: float32, one for each unit of `row_size` elements (one alone: the whole tensor).
    Where a scale is zero nothing is added, not even a zero.
    """

    seed: int
    scale: npt.NDArray[np.float32]
    row_size: int


def tensor_key(seed: int, name: str) -> tuple[int, int]:
    """The two 32-bit words of the Philox key for a tensor.

    BLAKE2b, 8 bytes, of the UTF-8 text "<version>\\n<seed in decimal>\\n<tensor name>"; the words are its
    halves, each read little-endian.
    """
    digest = hashlib.blake2b(f"{NOISE_VERSION}\n{int(seed)}\n{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


@functools.cache
def table() -> npt.NDArray[np.int16]:
    """T, int16[65536], read-only: T[i] = round_half_even(4096 * inverse_normal_cdf((i + 0.5) / 65536)).

    Raises RuntimeError where this machine's arithmetic gives another table than the one defined.
    """
    quantile = statistics.NormalDist().inv_cdf
    lower = [round(4096 * quantile((i + 0.5) / 65536)) for i in range(32768)]
    values = np.array(lower + [-v for v in reversed(lower)], dtype=np.int16)
    if hashlib.sha256(values.astype("<i2").tobytes()).hexdigest() != TABLE_SHA256:
        raise RuntimeError("the table of normal quantiles came out differently on this machine")
    values.flags.writeable = False
    return values
