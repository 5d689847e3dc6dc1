"""Placement of the unperturbed base: the choice, and the copy in shared memory that a node's actors share."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from orchestrator.utils.errors import UserError
from tests.unit.users import as_nobody, needs_two_users
from workers.engines import vllm_settings
from workers.engines.base import EngineSpec
from workers.weights.base_placement import (
    MemoryBudget,
    choose_placement,
    missing_host_bytes,
    remove_stale_copies,
    share_on_host,
)
from workers.weights.checkpoint import MappedCheckpoint

GIB = 1 << 30


def budget(weights: int, base: int | None = None, **gib: int) -> MemoryBudget:
    """Return a budget from sizes in GiB. The base defaults to the weights' size; a host copy has the base's size."""
    base = weights if base is None else base
    sizes = {name: value * GIB for name, value in gib.items()}
    return MemoryBudget(weights=weights * GIB, base=base * GIB, copy=base * GIB, **sizes)


@pytest.mark.parametrize(
    ("requested", "device", "weights", "gpu", "host", "placement"),
    [
        ("auto", "cpu", 14, 0, 100, "mmap"),  # the mapped pages are already in shared memory
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
def test_the_base_goes_where_it_fits(
    requested: Any, device: str, weights: int, gpu: int, host: int, placement: str
) -> None:
    assert choose_placement(requested, device, budget(weights, gpu_total=gpu, host_free=host)) == placement


def test_the_kv_cache_has_priority_over_the_base() -> None:
    assert choose_placement("auto", "cuda", budget(30, gpu_total=80)) == "gpu"
    assert choose_placement("auto", "cuda", budget(30, gpu_total=80, kv_cache=20)) == "mmap"


def test_weights_wider_than_their_base_need_more_memory() -> None:
    assert choose_placement("auto", "cuda", budget(14, 14, gpu_total=40, host_free=20)) == "gpu"
    assert choose_placement("auto", "cuda", budget(28, 14, gpu_total=40, host_free=20)) == "host"


@pytest.mark.parametrize(
    ("requested", "device", "message"),
    [("gpu", "cpu", "there is no GPU"), ("gpu", "cuda", "do not fit the GPU"), ("host", "cuda", "15.0 GiB free")],
)
def test_a_placement_that_does_not_fit_is_refused(requested: Any, device: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"^engine\.base={requested}: .*{message}"):
        choose_placement(requested, device, budget(14, gpu_total=24, host_free=15))


@pytest.fixture
def checkpoint(tmp_path: Path) -> MappedCheckpoint:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 64, "vocab_size": 1000, "num_attention_heads": 2}))
    for i in (1, 2):
        save_file({f"w{i}": np.full(100, i, np.float32)}, folder / f"model-{i}.safetensors")
    index = {"weight_map": {f"w{i}": f"model-{i}.safetensors" for i in (1, 2)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return MappedCheckpoint(folder)


def test_an_engine_budgets_for_its_dtype_and_a_complete_host_copy(
    checkpoint: MappedCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[MemoryBudget] = []
    monkeypatch.setattr(
        vllm_settings, "choose_placement", lambda requested, device, budget: budgets.append(budget) or "host"
    )
    monkeypatch.setattr(vllm_settings, "_total_memory", lambda: 80 << 30)
    spec = EngineSpec(dtype="bfloat16", tensor_parallel=2, device="cuda", kv_cache_gib=1.0, max_num_seqs=16)
    vllm_settings.resolve_settings(spec, checkpoint, "x")
    (placement_budget,) = budgets
    assert (placement_budget.weights, placement_budget.base) == (
        200,
        400,
    )  # per rank: half of 200 elements, stored as float32
    activations, logits = 8192 * 64 * 16 * 2, 3 * 16 * 1000 * 4
    assert placement_budget.overhead > 1_500_000_000 + activations + logits
    assert placement_budget.gpu_total == 80 << 30 and placement_budget.kv_cache == 1 << 30
    assert placement_budget.copy > 800  # two files and their headers, whatever the number of ranks


def test_a_copy_of_another_actor_needs_no_further_memory(checkpoint: MappedCheckpoint, tmp_path: Path) -> None:
    root = tmp_path / "shm"
    root.mkdir()
    complete_size = missing_host_bytes(checkpoint, "abc", root)
    assert complete_size == sum(file.stat().st_size for file in checkpoint.folder.iterdir())
    copy = share_on_host(checkpoint, "abc", root)
    assert (
        missing_host_bytes(checkpoint, "abc", root) == 0
        and missing_host_bytes(checkpoint, "other", root) == complete_size
    )
    (copy.folder / "model-2.safetensors").unlink()  # still being copied
    assert missing_host_bytes(checkpoint, "abc", root) == (checkpoint.folder / "model-2.safetensors").stat().st_size
    full = MemoryBudget(weights=1, base=1, copy=0, gpu_total=0, host_free=0)
    assert choose_placement("auto", "cuda", full) == choose_placement("host", "cuda", full) == "host"
    copy.release()


def test_copies_left_by_killed_actors_are_removed(checkpoint: MappedCheckpoint, tmp_path: Path) -> None:
    root = tmp_path / "shm"
    root.mkdir()
    (root / "landscape-someone-else").mkdir()
    live_copy = share_on_host(checkpoint, "held", root)
    for name in ("dead", "mine"):
        os.close(share_on_host(checkpoint, name, root).lock)  # as the kernel does for a process that is killed
    remove_stale_copies("mine", root)
    assert {path.name for path in live_copy.folder.parent.iterdir()} == {"held", "held.lock", "mine", "mine.lock"}
    assert (root / "landscape-someone-else").is_dir()
    live_copy.release()


def test_actors_of_a_node_share_one_copy_that_the_last_removes(checkpoint: MappedCheckpoint, tmp_path: Path) -> None:
    root = tmp_path / "shm"
    root.mkdir()
    first = share_on_host(checkpoint, "abc", root)
    inode = (first.folder / "model-1.safetensors").stat().st_ino
    second = share_on_host(checkpoint, "abc", root)
    assert second.folder == first.folder and (second.folder / "model-1.safetensors").stat().st_ino == inode
    mapped = MappedCheckpoint(second.folder)
    for info in checkpoint.tensors():
        assert np.array_equal(mapped.base(info.name), checkpoint.base(info.name))
    first.release()
    assert second.folder.exists()
    second.release()
    assert list(second.folder.parent.iterdir()) == []
    assert np.array_equal(mapped.base("w1"), checkpoint.base("w1")), "mapped pages stay readable after the removal"


def test_a_dead_actors_copy_is_reused_and_an_incomplete_one_is_copied_again(
    checkpoint: MappedCheckpoint, tmp_path: Path
) -> None:
    root = tmp_path / "shm"
    root.mkdir()
    dead = share_on_host(checkpoint, "abc", root)
    os.close(dead.lock)  # as the kernel does for a process that is killed
    (dead.folder / ".complete").unlink()
    (dead.folder / "model-2.safetensors").write_bytes(b"half")
    reused = share_on_host(checkpoint, "abc", root)
    assert np.array_equal(MappedCheckpoint(reused.folder).base("w2"), checkpoint.base("w2"))
    reused.release()
    assert list(reused.folder.parent.iterdir()) == []


def test_a_full_disk_is_reported_and_leaves_no_folder(
    checkpoint: MappedCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    root = tmp_path / "shm"
    root.mkdir()
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError, match=r"^engine\.base=host: .*No space left"):
        share_on_host(checkpoint, "abc", root)
    assert [path.name for path in root.glob("*/*") if path.is_dir()] == []


def test_a_copy_is_used_only_if_it_is_what_was_copied(checkpoint: MappedCheckpoint, tmp_path: Path) -> None:
    root = tmp_path / "shm"
    root.mkdir()
    first = share_on_host(checkpoint, "abc", root)
    with open(first.folder / "model-2.safetensors", "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"evil")
    with pytest.raises(UserError, match=r"^engine\.base=host: .*not what was copied"):
        share_on_host(checkpoint, "abc", root)
    os.close(first.lock)  # nobody uses it any more: it is copied again
    again = share_on_host(checkpoint, "abc", root)
    assert np.array_equal(MappedCheckpoint(again.folder).base("w2"), checkpoint.base("w2"))
    again.release()


@needs_two_users
def test_another_users_weights_are_never_the_base(checkpoint: MappedCheckpoint, tmp_path: Path) -> None:
    root = tmp_path / "shm"
    root.mkdir()
    for parent in (root, *tmp_path.parents):
        if parent != Path("/tmp"):
            parent.chmod(0o755)
    root.chmod(0o1777)
    tmp_path.chmod(0o755)
    squatted = [root / f"landscape-{os.geteuid()}", root / f"safety-landscape-{os.geteuid()}-abc"]
    for folder in squatted:
        done = as_nobody("/bin/sh", "-c", f"mkdir {folder} && mkdir {folder}/abc && touch {folder}/.complete")
        assert done.returncode == 0, done.stderr
    copy = share_on_host(checkpoint, "abc", root)
    assert copy.folder.parent not in squatted and copy.folder.stat().st_uid == os.geteuid()
    assert np.array_equal(MappedCheckpoint(copy.folder).base("w1"), checkpoint.base("w1"))
    assert as_nobody("ls", str(copy.folder)).returncode != 0
    copy.release()
