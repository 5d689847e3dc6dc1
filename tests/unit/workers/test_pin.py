"""Registration of the shared copy with CUDA, by a stub of its runtime."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from workers.weights import device_memory
from workers.weights.checkpoint import MappedCheckpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> MappedCheckpoint:
    save_file({"w": np.arange(8, dtype=np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    return MappedCheckpoint(tmp_path, writable=True)


class Runtime:
    """CUDA's runtime: an error stays until it is read, and the next launch of a kernel fails with it."""

    def __init__(self, answer: int) -> None:
        self.answer, self.last_error = answer, 0
        self.flags: list[int] = []

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        assert address and size
        self.flags.append(flags)
        self.last_error = self.answer
        return self.answer

    def cudaGetLastError(self) -> int:
        error, self.last_error = self.last_error, 0
        return error


@pytest.mark.parametrize(("answer", "pinned"), [(0, True), (801, False)])
def test_a_refusal_leaves_no_error_behind(
    checkpoint: MappedCheckpoint, monkeypatch: pytest.MonkeyPatch, answer: int, pinned: bool
) -> None:
    runtime = Runtime(answer)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    loaded: list[str] = []
    monkeypatch.setattr(
        device_memory, "ctypes", SimpleNamespace(CDLL=lambda name: loaded.append(name) or runtime), raising=False
    )
    assert device_memory.pin(checkpoint) is pinned
    assert runtime.last_error == 0, "the next kernel would fail"
    assert runtime.flags == [0], "the flag for read-only memory needs support that few machines have"
    assert loaded == ([] if pinned else ["libcudart.so.13"])


def test_the_files_are_mapped_writable_and_no_array_is(checkpoint: MappedCheckpoint) -> None:
    memory = next(iter(checkpoint._maps.values()), None) or checkpoint._map(checkpoint.files()[0])
    memory[0:1] = memory[0:1]  # a map that is read-only raises TypeError
    for array in (checkpoint.base("w"), *checkpoint.mapped()):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
