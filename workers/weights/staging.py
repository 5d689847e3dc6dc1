"""Copies from the host's memory to a GPU that overlap the kernel: two buffers, filled by threads, copied by a stream.

While the kernel reads one buffer's part of the base, the next part is gathered into the other buffer's pinned memory
and copied. Pinned memory makes copies several times as fast, and gathering packs the slabs of a tensor's columns.
"""

from __future__ import annotations

import concurrent.futures
import itertools
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from workers.noise.definition import Array

BUFFERS = 2
THREADS = 8  # maximum number of threads that gather a part; fewer fill a link of 50 GB/s
SHARE = 1 << 20  # minimum bytes for a thread


class CopyQueue(Protocol):
    """Copies to a device and their order relative to its kernels. Events are opaque."""

    def pinned(self, size: int) -> torch.Tensor:
        """Return memory of the host for `size` bytes from which copies are fast."""

    def on_device(self, size: int) -> torch.Tensor:
        """Return memory of the device for `size` bytes."""

    def mark(self) -> Any:
        """Return an event that follows every kernel launched so far."""

    def copy(self, target: torch.Tensor, source: torch.Tensor, after: Any) -> Any:
        """Copy to the device once `after` has happened (None: at once); return the event of the copy's end."""

    def delay_kernels(self, event: Any) -> None:
        """Let kernels that are launched from now on wait for an event."""

    def finish(self, event: Any) -> None:
        """Wait on the host until an event has happened."""


class CudaCopyQueue:
    """A CUDA stream for copies beside the current one, on which the kernels run."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def pinned(self, size: int) -> torch.Tensor:
        """Return page-locked memory of the host."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def on_device(self, size: int) -> torch.Tensor:
        """Return memory of the GPU."""
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def mark(self) -> torch.cuda.Event:
        """Return an event that follows every kernel launched so far."""
        return torch.cuda.current_stream(self._device).record_event()

    def copy(self, target: torch.Tensor, source: torch.Tensor, after: torch.cuda.Event | None) -> torch.cuda.Event:
        """Copy on the second stream, after an event."""
        with torch.cuda.stream(self._stream):
            if after is not None:
                self._stream.wait_event(after)
            target.copy_(source, non_blocking=True)
            return self._stream.record_event()

    def delay_kernels(self, event: torch.cuda.Event) -> None:
        """Let the current stream wait for an event."""
        torch.cuda.current_stream(self._device).wait_event(event)

    def finish(self, event: torch.cuda.Event) -> None:
        """Wait on the host until an event has happened."""
        event.synchronize()


class ImmediateCopyQueue:
    """Copies within the host's memory, at once."""

    def pinned(self, size: int) -> torch.Tensor:
        """Return memory."""
        return torch.empty(size, dtype=torch.uint8)

    def on_device(self, size: int) -> torch.Tensor:
        """Return memory."""
        return torch.empty(size, dtype=torch.uint8)

    def mark(self) -> None:
        """Return None: kernels are over when they return."""

    def copy(self, target: torch.Tensor, source: torch.Tensor, after: None) -> None:
        """Copy at once."""
        target.copy_(source)

    def delay_kernels(self, event: None) -> None:
        """Return at once."""

    def finish(self, event: None) -> None:
        """Return at once."""


@dataclass
class _Buffer:
    """A part on its way: its memory on both sides, and the events after which that memory may be used again."""

    pinned: torch.Tensor
    device: torch.Tensor
    copied: Any = None
    read: Any = None


class StagedCopies:
    """Copies of one part after another. A part is valid until the next but one is copied."""

    def __init__(self, queue: CopyQueue) -> None:
        self._queue = queue
        self._buffers: list[_Buffer] = []
        self._count = 0
        self._pool = concurrent.futures.ThreadPoolExecutor(THREADS)

    def copy(self, window: Array, is_pinned: bool = False) -> torch.Tensor:
        """Copy a window of the host's memory, shape (rows, cols), to the device as a flat tensor of bytes, packed.

        Kernels that are launched afterwards wait for the copy; every kernel that reads the part before this one must
        have been launched.

        Args:
            window: Two-dimensional array whose rows are contiguous.
            is_pinned: Whether its memory is registered with CUDA; it is then copied directly if it has no gaps.
        """
        if self._buffers:
            self._buffers[(self._count - 1) % BUFFERS].read = self._queue.mark()
        buffer = self._next_buffer(window.nbytes)
        if is_pinned and window.flags.c_contiguous:
            source = _as_bytes(window.reshape(-1))
        else:
            if buffer.copied is not None:
                self._queue.finish(buffer.copied)
            source = buffer.pinned[: window.nbytes]
            self._gather(window, source.numpy())
        target = buffer.device[: window.nbytes]
        buffer.copied = self._queue.copy(target, source, buffer.read)
        self._queue.delay_kernels(buffer.copied)
        return target

    def _next_buffer(self, size: int) -> _Buffer:
        """Return the buffer whose turn it is, with memory for `size` bytes."""
        position = self._count % BUFFERS
        self._count += 1
        if position < len(self._buffers) and len(self._buffers[position].device) >= size:
            return self._buffers[position]
        if position < len(self._buffers):
            small = self._buffers[position]
            self._queue.finish(small.copied)
            self._queue.finish(small.read)
        # the allocator may hand out memory that kernels launched before still use
        buffer = _Buffer(self._queue.pinned(size), self._queue.on_device(size), read=self._queue.mark())
        self._buffers[position : position + 1] = [buffer]
        return buffer

    def _gather(self, window: Array, packed: npt.NDArray[np.uint8]) -> None:
        """Copy a window into packed memory, in equal shares by threads."""
        rows, cols = window.shape
        target = packed.view(window.dtype).reshape(rows, cols)
        shares = max(1, min(THREADS, window.nbytes // SHARE))
        if rows == 1:
            bounds = np.linspace(0, cols, shares + 1).astype(int)
            pieces = [(target[:, a:b], window[:, a:b]) for a, b in itertools.pairwise(bounds)]
        else:
            bounds = np.linspace(0, rows, min(shares, rows) + 1).astype(int)
            pieces = [(target[a:b], window[a:b]) for a, b in itertools.pairwise(bounds)]
        list(self._pool.map(lambda piece: np.copyto(*piece), pieces))


def _as_bytes(array: Array) -> torch.Tensor:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the array may be read-only, and the tensor is only read
        return torch.from_numpy(array.view(np.uint8))
