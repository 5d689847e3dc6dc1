"""Parts of the noise kernel by themselves, to see which of them limits it: the table's look-ups, and the arithmetic."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from workers.noise.gpu import OPTIONS, _philox, _table


@triton.jit
def _gather(quantiles, out, CHUNKS: tl.constexpr):
    b = tl.arange(0, 128)
    state = (tl.program_id(0) * 128 + b).to(tl.uint32) * 2654435761
    total = b * 0
    for _ in range(CHUNKS):
        for _ in tl.static_range(8):
            state = state * 1664525 + 1013904223
            total += tl.load(quantiles + (state >> 16).to(tl.int32)).to(tl.int32)
    tl.store(out + tl.program_id(0) * 128 + b, total)


@triton.jit
def _words(out, CHUNKS: tl.constexpr):
    b = tl.arange(0, 128)
    total = (b * 0).to(tl.uint32)
    for i in range(CHUNKS):
        counter = ((tl.program_id(0) * CHUNKS + i) * 128 + b).to(tl.uint32)
        w0, w1, w2, w3 = _philox(counter, counter * 0, counter * 0 + 7, counter * 0 + 9)
        total = total ^ w0 ^ w1 ^ w2 ^ w3
    tl.store(out + tl.program_id(0) * 128 + b, total.to(tl.int32))


def gather(n: int, device: torch.device) -> None:
    """Look up n random entries of the table."""
    programs = n // 4096
    out = torch.empty(programs * 128, dtype=torch.int32, device=device)
    _gather[(programs,)](_table(device), out, CHUNKS=4, **OPTIONS)


def philox(n: int, device: torch.device) -> None:
    """Compute the words of n elements."""
    programs = n // 4096
    out = torch.empty(programs * 128, dtype=torch.int32, device=device)
    _words[(programs,)](out, CHUNKS=4, **OPTIONS)
