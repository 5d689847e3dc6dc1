"""Where the pristine base waits between writes: on the GPU, in this machine's memory, or in the mapped file.

A host copy lies in shared memory, under a name made of its content: the actors of one node map the same pages, and the
last one to leave takes it away.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.utils.errors import UserError
from workers.weights.checkpoint import Checkpoint

Where = Literal["gpu", "host", "mmap"]
Asked = Literal["auto", "gpu", "host", "mmap"]

SHARED_MEMORY = Path("/dev/shm")
COMPLETE = ".complete"  # in a copy's folder, once all is there
ROOM = 1.1  # of a host copy's size must be free
UTILISATION = 0.92  # of a GPU's memory is vLLM's by its own default; a second copy of the weights is taken out of it
LEAST_KV = 2 << 30  # bytes that must be left for the engine's KV cache
GPU_RUNTIME = 1_500_000_000  # bytes: CUDA context, kernels, communication
ACTIVATIONS = 24  # live values a token, in units of the hidden size


def overhead(hidden: int, vocabulary: int, item: int, tokens: int, sequences: int) -> int:
    """Bytes that an engine takes of a GPU besides weights and KV cache: its runtime, and the activations of a batch of
    so many tokens and sequences, in a dtype of `item` bytes."""
    return GPU_RUNTIME + tokens * hidden * ACTIVATIONS * item + 3 * sequences * vocabulary * 4


def choose(
    asked: Asked,
    device: str,
    *,
    weights: int,
    base: int,
    copy: int,
    gpu_total: int = 0,
    besides: int = 0,
    kv: int | None = None,
    host_free: int = 0,
) -> Where:
    """Where the base goes. weights, base: bytes of the resident weights and of the pristine ones that one GPU holds,
    which may differ in dtype; copy: bytes that a host copy still takes; besides: the engine's `overhead`; kv: bytes of
    KV cache asked for. The driver's plan asks here too (orchestrator/planning/cost.py).

    `auto`: a GPU's memory where both and the KV cache fit, else this machine's where a copy fits, else the file.
    On a CPU it is the file: its pages are in this machine's memory, and shared, already.
    Raises UserError (engine.base) for a place that is too small or isn't there.
    """
    fits_gpu = weights + base + besides + max(LEAST_KV, kv or 0) <= UTILISATION * gpu_total
    fits_host = ROOM * copy <= host_free
    if asked == "gpu" and device != "cuda":
        raise UserError("engine.base", "gpu", "there is no GPU: use engine.base=mmap")
    if asked == "gpu" and not fits_gpu:
        needed = (
            f"two copies of the weights ({(weights + base) / 2**30:.1f} GiB), the KV cache and the engine itself "
            "do not fit the GPU"
        )
        raise UserError("engine.base", "gpu", f"{needed}: use engine.base=host")
    if asked == "host" and not fits_host:
        free = f"shared memory has {host_free / 2**30:.1f} GiB free, and the weights are {copy / 2**30:.1f} GiB"
        raise UserError("engine.base", "host", f"{free}: use engine.base=mmap")
    if asked != "auto":
        return asked
    if device != "cuda":
        return "mmap"
    return "gpu" if fits_gpu else "host" if fits_host else "mmap"


def host_free() -> int:
    """Bytes free in shared memory; 0 where there is none."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return 0


def host_missing(checkpoint: Checkpoint, name: str, root: Path = SHARED_MEMORY) -> int:
    """Bytes that a host copy still takes: what another actor has copied, or is copying now, is there."""
    whole = sum(file.stat().st_size for file in _files(checkpoint))
    try:
        return max(0, whole - sum(file.stat().st_size for file in _folder(name, root).glob("*")))
    except OSError:  # its last holder is removing it
        return whole


@dataclass
class HostCopy:
    """A checkpoint's files in shared memory, held by this process until `release`."""

    folder: Path
    lock: int

    def release(self) -> None:
        """Let go; the last to hold it removes it. A process that dies lets go by dying, and leaves it to `sweep`."""
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(self.lock, _lock_file(self.folder)):  # else it was removed, and what is there is another's
                shutil.rmtree(self.folder, ignore_errors=True)
                _lock_file(self.folder).unlink(missing_ok=True)
        except OSError:
            pass  # others hold it
        finally:
            os.close(self.lock)


def sweep(keep: str, root: Path = SHARED_MEMORY) -> None:
    """Remove this user's copies that nobody holds, left by processes that were killed, but for the one of this name."""
    for folder in root.glob(_folder("*", root).name):
        if folder.is_dir() and folder != _folder(keep, root):
            HostCopy(folder, _open_lock(folder)).release()


def host_copy(checkpoint: Checkpoint, name: str, root: Path = SHARED_MEMORY) -> HostCopy:
    """The checkpoint's files in shared memory, copied by the first process that asks; `name` is made of their content.

    Raises UserError (engine.base) where there is no room.
    """
    folder = _folder(name, root)
    while True:
        lock = _open_lock(folder)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(lock, _lock_file(folder)):
                _fill(folder, checkpoint)
        except BlockingIOError:
            pass  # others have it, or one of them copies
        except OSError as error:
            os.close(lock)
            raise UserError("engine.base", "host", f"{root} could not take the weights ({error}): use mmap") from error
        fcntl.flock(lock, fcntl.LOCK_SH)
        if _is_same(lock, _lock_file(folder)) and (folder / COMPLETE).exists():
            return HostCopy(folder, lock)
        os.close(lock)  # the last holder removed it a moment ago, or the one who copied died


def _fill(folder: Path, checkpoint: Checkpoint) -> None:
    if (folder / COMPLETE).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
        for file in _files(checkpoint):
            shutil.copyfile(file, folder / file.name)
        (folder / COMPLETE).touch()
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _files(checkpoint: Checkpoint) -> Iterator[Path]:
    yield checkpoint.folder / "config.json"
    index = checkpoint.folder / "model.safetensors.index.json"
    yield from [index] if index.exists() else []
    yield from checkpoint.files()


def _folder(name: str, root: Path) -> Path:
    return root / f"safety-landscape-{os.getuid()}-{name}"


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _open_lock(folder: Path) -> int:
    return os.open(_lock_file(folder), os.O_RDWR | os.O_CREAT, 0o600)


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
