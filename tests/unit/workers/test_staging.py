"""Copies of the base from the host's memory that overlap the kernel: order, bits, and memory that is used again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from workers.noise.definition import Array
from workers.weights import staging
from workers.weights.staging import ImmediateCopyQueue, StagedCopies

Event = tuple[str, int]


@dataclass
class Work:
    do: Callable[[], None]
    after: list[Event]
    done: bool = False


@dataclass
class SimulatedQueue:
    """A device with a stream of copies and one of kernels, which run as early or as late as their order allows."""

    early: bool
    streams: dict[str, list[Work]] = field(default_factory=lambda: {"copies": [], "kernels": []})
    waits: list[Event] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def pinned(self, size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.uint8)

    on_device = pinned

    def mark(self) -> Event:
        return "kernels", len(self.streams["kernels"])

    def copy(self, target: torch.Tensor, source: torch.Tensor, after: Any) -> Event:
        number = len(self.streams["copies"])
        self.log.append(f"copy {number}")
        event = self._submit("copies", lambda: target.copy_(source), [after] if after else [])
        if self.early and all(self._is_done(other) for other in self.streams["copies"][-1].after):
            self.finish(event)
        return event

    def delay_kernels(self, event: Event) -> None:
        self.waits.append(event)

    def finish(self, event: Event) -> None:
        stream, count = event
        for work in self.streams[stream][:count]:
            if not work.done:
                for other in work.after:
                    self.finish(other)
                work.do()
                work.done = True

    def launch(self, kernel: Callable[[], None]) -> None:
        self.log.append(f"kernel {len(self.streams['kernels'])}")
        self._submit("kernels", kernel, list(self.waits))

    def _submit(self, stream: str, do: Callable[[], Any], after: list[Event]) -> Event:
        self.streams[stream].append(Work(do, after))
        return stream, len(self.streams[stream])

    def _is_done(self, event: Event) -> bool:
        return all(work.done for work in self.streams[event[0]][: event[1]])


def windows() -> list[Array]:
    """Return whole parts, parts of rows with gaps, and parts that are larger than the ones before."""
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 2**16, (40, 48)).astype(np.uint16)
    parts = [whole[i : i + 5] for i in range(0, 20, 5)] + [whole[i : i + 5, 7:31] for i in range(20, 40, 5)]
    larger = rng.standard_normal((1, 5000)).astype(np.float32)
    return [*parts, larger, *parts, whole[3:9, :48], larger[:, 17:4000]]


@pytest.mark.parametrize("early", [True, False], ids=["early copies", "late copies"])
@pytest.mark.parametrize("is_pinned", [True, False], ids=["pinned", "gathered"])
def test_every_kernel_reads_its_own_part(early: bool, is_pinned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "SHARE", 100)  # so that threads divide a part
    queue, results = SimulatedQueue(early), []
    staged = StagedCopies(queue)
    for window in windows():
        part = staged.copy(window, is_pinned)
        queue.launch(lambda part=part: results.append(part.numpy().tobytes()))
    queue.finish(queue.mark())
    assert results == [np.ascontiguousarray(window).tobytes() for window in windows()]


def test_the_next_part_is_copied_before_the_kernel_has_read_this_one() -> None:
    queue = SimulatedQueue(early=True)
    staged, part = StagedCopies(queue), np.arange(64, dtype=np.uint16).reshape(4, 16)
    for _ in range(5):
        staged.copy(part)
        queue.launch(lambda: None)
    assert queue.log == [f"{what} {i}" for i in range(5) for what in ("copy", "kernel")]
    # the copy of part i waits for the kernel of part i - 2, which read the same buffer, and not for that of part i - 1
    assert [work.after for work in queue.streams["copies"][2:]] == [[("kernels", i - 1)] for i in range(2, 5)]
    assert [len(work.after) for work in queue.streams["kernels"]] == [1, 2, 3, 4, 5]


def test_without_a_gpu_copies_are_immediate() -> None:
    staged = StagedCopies(ImmediateCopyQueue())
    for window in windows():
        assert staged.copy(window).numpy().tobytes() == np.ascontiguousarray(window).tobytes()
