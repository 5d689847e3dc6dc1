"""Check that the weights of a checkpoint are finite."""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator.models.checkpoint import MODEL_FIELD, CheckpointInfo
from orchestrator.models.fingerprint import fingerprint
from orchestrator.utils.cache import cache_dir
from orchestrator.utils.console import Progress, ignore_progress
from orchestrator.utils.errors import UserError
from orchestrator.utils.private import make_private
from workers.weights.checkpoint import MappedCheckpoint

BLOCK = 1 << 20
"""Number of elements that are examined at once."""


def check_finite(checkpoint: CheckpointInfo, field: str = MODEL_FIELD, progress: Progress = ignore_progress) -> None:
    """Check that all weights are finite, in one pass over the files. A positive result is cached by fingerprint.

    A number is NaN or infinite exactly if all bits of its exponent are set, so bits are compared without converting
    numbers.

    Args:
        checkpoint: The checkpoint to read.
        field: The option that an error names.
        progress: Called with the fraction of the weights that is read.

    Raises:
        UserError: A weight is NaN or infinite.
    """
    marker = cache_dir() / "finite" / fingerprint(checkpoint)
    if marker.exists():
        return
    exponents: dict[str, Any] = {
        "float32": np.uint32(0x7F800000),
        "bfloat16": np.uint16(0x7F80),
        "float16": np.uint16(0x7C00),
    }
    mapped, done = MappedCheckpoint(checkpoint.path, field), 0
    total = sum(info.size for info in mapped.tensors())
    for info in mapped.tensors():
        bits = mapped.base(info.name).view(np.uint32 if info.dtype == "float32" else np.uint16)
        mask = exponents[info.dtype]
        for start in range(0, len(bits), BLOCK):
            if bool(((bits[start : start + BLOCK] & mask) == mask).any()):
                remedy = f"tensor {info.name} holds NaN or infinity: give another checkpoint"
                raise UserError(field, checkpoint.path, remedy)
        done += info.size
        mapped.release(info.name)
        progress(done / max(1, total))
    try:
        make_private(marker.parent)
        marker.touch()
    except OSError:
        pass  # the weights are read again next time
