"""Choose where to keep the unperturbed weights between visits: GPU memory, shared host memory, or the mapped file.

A copy in host memory is a folder in this user's private folder in shared memory, named after its content. The actors of
one node map the same pages, and the last one to release the copy removes it. A copy is used only if its files have the
hashes of the files that were copied.
"""

from __future__ import annotations

import concurrent.futures
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.utils.choices import BaseChoice
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import blocks
from orchestrator.utils.private import NotPrivateError, acquire, open_private, user_folder
from workers.weights.checkpoint import MappedCheckpoint

Placement = Literal["gpu", "host", "mmap"]

SHARED_MEMORY = Path("/dev/shm")
COMPLETE_MARKER = ".complete"  # written into a copy's folder after its last file: the files' hashes
LONGEST_COPY = 2 * 3600.0  # maximum seconds to wait for an actor that copies the same weights
HASHING_THREADS = 8
HOST_COPY_MARGIN = 1.1  # this multiple of a host copy's size must be free
GPU_UTILIZATION = 0.92  # share of a GPU's memory that is planned to be used, for everything; vLLM's default share
MIN_KV_CACHE_BYTES = 2 << 30  # minimum memory for the engine's KV cache


@dataclass(frozen=True, kw_only=True)
class MemoryBudget:
    """Sizes in bytes that decide where the base can be kept. Sizes of weights are those that one GPU holds.

    Attributes:
        weights: The engine's weights.
        base: The unperturbed weights. Differs from `weights` if their dtypes differ.
        copy: Bytes still to be copied for a copy of the whole checkpoint in host memory (`missing_host_bytes`).
        gpu_total: The engine's share of the GPU's memory.
        overhead: Memory of the engine besides weights and KV cache (`GpuMemory.overhead`).
        kv_cache: Requested size of the KV cache. None if the user requested none.
        host_free: Free shared memory.
    """

    weights: int
    base: int
    copy: int
    gpu_total: int = 0
    overhead: int = 0
    kv_cache: int | None = None
    host_free: int = 0

    @property
    def fits_gpu(self) -> bool:
        """True if the GPU can hold the base beside the weights and the KV cache."""
        needed = self.weights + self.base + self.overhead + max(MIN_KV_CACHE_BYTES, self.kv_cache or 0)
        return needed <= GPU_UTILIZATION * self.gpu_total

    @property
    def fits_host(self) -> bool:
        """True if shared memory can hold a copy."""
        return HOST_COPY_MARGIN * self.copy <= self.host_free


def choose_placement(requested: BaseChoice, device: str, budget: MemoryBudget) -> Placement:
    """Choose where to keep the base. The driver's plan calls this too (orchestrator/planning/memory.py).

    On a GPU, `auto` takes the GPU's memory if the engine's weights, the base and the KV cache fit, else host memory if
    a copy fits, else the mapped file. On a CPU, `auto` takes the mapped file, whose pages are in host memory and shared
    between processes already.

    Raises:
        UserError: The requested place is too small or does not exist (engine.base).
    """
    if requested == BaseChoice.gpu:
        if device != "cuda":
            raise UserError("engine.base", "gpu", "there is no GPU: use engine.base=mmap")
        if not budget.fits_gpu:
            needed = (
                f"two copies of the weights ({(budget.weights + budget.base) / 2**30:.1f} GiB), the KV cache and the "
                "engine itself do not fit the GPU"
            )
            raise UserError("engine.base", "gpu", f"{needed}: use engine.base=host")
        return "gpu"
    if requested == BaseChoice.host:
        if not budget.fits_host:
            free, copy = f"{budget.host_free / 2**30:.1f} GiB free", f"{budget.copy / 2**30:.1f} GiB"
            remedy = f"shared memory has {free}, and the weights are {copy}: use engine.base=mmap"
            raise UserError("engine.base", "host", remedy)
        return "host"
    if requested == BaseChoice.mmap or device != "cuda":
        return "mmap"
    if budget.fits_gpu:
        return "gpu"
    return "host" if budget.fits_host else "mmap"


def free_host_bytes() -> int:
    """Return the bytes free in shared memory; 0 if there is none, or none in which this user can have a folder."""
    try:
        return shutil.disk_usage(user_folder(SHARED_MEMORY)).free
    except OSError:
        return 0


def missing_host_bytes(checkpoint: MappedCheckpoint, name: str, root: Path = SHARED_MEMORY) -> int:
    """Return the number of bytes that are not yet in a checkpoint's host copy.

    Args:
        checkpoint: The checkpoint to copy.
        name: Name of the copy, derived from the checkpoint's content.
        root: Folder of the copies.
    """
    whole = sum(file.stat().st_size for file in _files_to_copy(checkpoint))
    try:
        return max(0, whole - sum(file.stat().st_size for file in _copy_folder(name, root).glob("[!.]*")))
    except OSError:  # its last holder is removing it, or this user can have no folder there
        return whole


@dataclass
class HostCopy:
    """A checkpoint's files in shared memory, held by this process until `release`."""

    folder: Path
    lock: int  # file descriptor

    def release(self) -> None:
        """Release the copy; the last process to release it removes it.

        If a process dies, the operating system releases its lock, and `remove_stale_copies` removes its copy later.
        """
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same_file(self.lock, _lock_file(self.folder)):  # otherwise another process has replaced it
                shutil.rmtree(self.folder, ignore_errors=True)
                _lock_file(self.folder).unlink(missing_ok=True)
        except OSError:
            pass  # others hold it
        finally:
            os.close(self.lock)


def remove_stale_copies(keep: str, root: Path = SHARED_MEMORY) -> None:
    """Remove this user's copies that no process holds, left by processes that were killed.

    Args:
        keep: Name of a copy that stays.
        root: Folder of the copies.
    """
    try:
        folders = [folder for folder in user_folder(root).iterdir() if folder.is_dir() and folder.name != keep]
    except OSError:  # no shared memory, or none in which this user can have a folder
        return
    for folder in folders:
        HostCopy(folder, open_private(_lock_file(folder))).release()


def share_on_host(checkpoint: MappedCheckpoint, name: str, root: Path = SHARED_MEMORY) -> HostCopy:
    """Return the checkpoint's files in shared memory. The first process copies them, others wait for it.

    Args:
        checkpoint: The checkpoint to copy.
        name: Name of the copy, derived from the checkpoint's content.
        root: Folder of the copies.

    Raises:
        UserError: (engine.base) The files do not fit, a copy that others use is damaged, or other users hold the place.
    """
    try:
        folder = _copy_folder(name, root)
    except NotPrivateError as error:
        raise UserError("engine.base", "host", f"{error}: use engine.base=mmap") from error
    while True:
        lock, verified = open_private(_lock_file(folder)), False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same_file(lock, _lock_file(folder)):
                _fill(folder, checkpoint)
                verified = True
        except BlockingIOError:
            pass  # others hold it, or one of them is copying
        except OSError as error:
            os.close(lock)
            raise UserError("engine.base", "host", f"{root} could not take the weights ({error}): use mmap") from error
        acquire(lock, fcntl.LOCK_SH, _lock_file(folder), LONGEST_COPY)
        if _is_same_file(lock, _lock_file(folder)) and (folder / COMPLETE_MARKER).exists():
            if verified or _is_intact(folder):
                return HostCopy(folder, lock)
            os.close(lock)
            remedy = f"the copy that other actors use is not what was copied ({folder}): end them, or use mmap"
            raise UserError("engine.base", "host", remedy)
        os.close(lock)  # the last holder has just removed it, or the process that was copying died


def _fill(folder: Path, checkpoint: MappedCheckpoint) -> None:
    """Copy the files, unless they are there already. Raises OSError if a copy differs from its source."""
    if _is_intact(folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
        files = list(_files_to_copy(checkpoint))
        for file in files:
            shutil.copyfile(file, folder / file.name)
        (folder / COMPLETE_MARKER).write_text(json.dumps(_hashes(files)))
        if not _is_intact(folder):
            raise OSError("the copy differs from the files")
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _hashes(files: Sequence[Path]) -> dict[str, str]:
    """Return the hash of each file by its name. Several files are read at a time: memory is faster than hashing."""
    with concurrent.futures.ThreadPoolExecutor(HASHING_THREADS) as pool:
        return dict(zip([file.name for file in files], pool.map(_hash, files), strict=True))


def _hash(file: Path) -> str:
    digest = hashlib.blake2b(digest_size=32)
    for block in blocks(file):
        digest.update(block)
    return digest.hexdigest()


def _is_intact(folder: Path) -> bool:
    """Return whether a copy is complete and its files have the hashes of those that were copied."""
    try:
        hashes = json.loads((folder / COMPLETE_MARKER).read_bytes())
        return bool(hashes == _hashes([folder / name for name in hashes]))
    except (OSError, ValueError, TypeError):
        return False


def _files_to_copy(checkpoint: MappedCheckpoint) -> Iterator[Path]:
    yield checkpoint.folder / "config.json"
    index = checkpoint.folder / "model.safetensors.index.json"
    if index.exists():
        yield index
    yield from checkpoint.files()


def _copy_folder(name: str, root: Path) -> Path:
    return user_folder(root) / name


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
