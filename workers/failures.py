"""Failures after which an engine cannot go on in its process: a lost GPU, memory that ran out, a rank that died.

An error is recognized by its type's name and its message, so that this module imports neither torch nor vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.utils.subprocesses import first_line


class EngineLostError(RuntimeError):
    """The engine cannot go on in its process. Its actor has to be replaced; the visit may succeed elsewhere."""


MEMORY_TYPES = ("OutOfMemoryError", "MemoryError")
MEMORY_MARKS = ("out of memory", "cublas_status_alloc_failed", "can't allocate memory")

GPU_TYPES = ("AcceleratorError", "EngineDeadError", "DistBackendError")
GPU_MARKS = (
    "cuda error",  # torch, cuBLAS through torch, FlashInfer: also for ECC errors and GPUs that left the bus (Xid)
    "cuda driver error",
    "triton error [cuda]",
    "cublas_status_",
    "cudnn_status_",
    "nccl error",
    "executor failed",  # vLLM: a rank of a tensor-parallel engine has died
)


def describe_loss(error: BaseException) -> str | None:
    """Return what has ended the engine, with the error's first line. None if the engine can go on after the error.

    Args:
        error: The error of a visit. The errors that led to it count too.
    """
    for each in _chain(error):
        message = str(each).lower()
        names = {kind.__name__ for kind in type(each).__mro__}
        if not names.isdisjoint(MEMORY_TYPES) or any(mark in message for mark in MEMORY_MARKS):
            remedy = "if it happens again, lower engine.max_num_seqs or engine.max_num_batched_tokens"
            return f"memory ran out, {remedy} ({first_line(each)})"
        if not names.isdisjoint(GPU_TYPES) or any(mark in message for mark in GPU_MARKS):
            return f"the GPU or a rank was lost ({first_line(each)})"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, then the ones that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
