"""Where the pristine base waits: the choice, and the copy that a node's actors share."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from orchestrator.errors import UserError
from workers.checkpoint import Checkpoint
from workers.residency import choose, host_copy

GIB = 1 << 30


@pytest.mark.parametrize(
    ("asked", "device", "weights", "gpu", "host", "where"),
    [
        ("auto", "cpu", 14, 0, 100, "mmap"),  # mapped pages are shared memory already
        ("host", "cpu", 14, 0, 100, "host"),
        ("mmap", "cuda", 14, 80, 100, "mmap"),
        ("auto", "cuda", 14, 80, 100, "gpu"),
        ("auto", "cuda", 14, 24, 100, "host"),
        ("auto", "cuda", 35, 80, 20, "gpu"),  # a rank's share of a 70B model over four
        ("auto", "cuda", 37, 80, 20, "mmap"),
        ("gpu", "cuda", 14, 80, 0, "gpu"),
        ("host", "cuda", 14, 80, 16, "host"),
    ],
)
def test_the_base_goes_where_it_fits(asked: Any, device: str, weights: int, gpu: int, host: int, where: str) -> None:
    assert choose(asked, device, weights * GIB, gpu * GIB, None, host * GIB) == where


def test_room_for_the_kv_cache_comes_first() -> None:
    assert choose("auto", "cuda", 30 * GIB, 80 * GIB, None, 0) == "gpu"
    assert choose("auto", "cuda", 30 * GIB, 80 * GIB, 20 * GIB, 0) == "mmap"


@pytest.mark.parametrize(
    ("asked", "device", "story"),
    [("gpu", "cpu", "there is no GPU"), ("gpu", "cuda", "do not fit the GPU"), ("host", "cuda", "15.0 GiB free")],
)
def test_a_place_that_is_too_small_is_refused(asked: Any, device: str, story: str) -> None:
    with pytest.raises(UserError, match=rf"^engine\.base={asked}: .*{story}"):
        choose(asked, device, 14 * GIB, 24 * GIB, None, 15 * GIB)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": False}))
    for i in (1, 2):
        save_file({f"w{i}": np.full(100, i, np.float32)}, folder / f"model-{i}.safetensors")
    index = {"weight_map": {f"w{i}": f"model-{i}.safetensors" for i in (1, 2)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return Checkpoint(folder)


def test_actors_of_a_node_share_one_copy_and_the_last_removes_it(checkpoint: Checkpoint, tmp_path: Path) -> None:
    root = tmp_path / "shm"
    root.mkdir()
    first = host_copy(checkpoint, "abc", root)
    inode = (first.folder / "model-1.safetensors").stat().st_ino
    second = host_copy(checkpoint, "abc", root)
    assert second.folder == first.folder and (second.folder / "model-1.safetensors").stat().st_ino == inode
    copied = Checkpoint(second.folder)
    for info in checkpoint.tensors():
        assert np.array_equal(copied.base(info.name), checkpoint.base(info.name))
    first.release()
    assert second.folder.exists()
    second.release()
    assert list(root.iterdir()) == []
    assert np.array_equal(copied.base("w1"), checkpoint.base("w1")), "what is mapped stays"


def test_what_a_dead_actor_left_is_used_and_half_a_copy_made_anew(checkpoint: Checkpoint, tmp_path: Path) -> None:
    root = tmp_path / "shm"
    root.mkdir()
    dead = host_copy(checkpoint, "abc", root)
    os.close(dead.lock)  # as the kernel does for a process that is killed
    (dead.folder / ".complete").unlink()
    (dead.folder / "model-2.safetensors").write_bytes(b"half")
    again = host_copy(checkpoint, "abc", root)
    assert np.array_equal(Checkpoint(again.folder).base("w2"), checkpoint.base("w2"))
    again.release()
    assert list(root.iterdir()) == []


def test_no_room_is_said_and_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    root = tmp_path / "shm"
    root.mkdir()
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError, match=r"^engine\.base=host: .*No space left"):
        host_copy(checkpoint, "abc", root)
    assert [path.name for path in root.iterdir() if path.is_dir()] == []


def test_what_a_process_held_is_its_own_not_its_parents() -> None:
    held = bytearray(400 << 20)  # written to, so that this process holds it
    code = "from workers.actor import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10 << 20 < int(done.stdout) < len(held)
