"""Read the header of a safetensors file: names, dtypes, shapes and byte offsets of its tensors, but no tensor data.

Format: 8 bytes (the header's length N, little-endian), N bytes of JSON, then the tensors' bytes without gaps.
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.utils.parsing import FormatError, parse_json_object

INDEX_FILE = "model.safetensors.index.json"
"""Index of a checkpoint with several files: it maps each tensor's name to the file that holds it."""

LFS_POINTER = b"version "
"""First bytes of the small text that a repository holds in place of a large file until `git lfs pull` fetches it."""

MAX_HEADER_BYTES = 100 << 20
"""Maximum size of a header according to the format."""

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Dtype name -> bytes of one element. The sizes of tensors of other dtypes are not checked."""


@dataclass(frozen=True)
class TensorHeader:
    """One tensor of a file.

    Attributes:
        name: The tensor's name.
        dtype: Name of the dtype in safetensors (F32, BF16, ...).
        shape: The tensor's shape; elements are stored row-major.
        file: The file that holds the tensor.
        start: Offset of the first byte in the file.
        stop: Offset after the last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class HeaderError(ValueError):
    """A file is not safetensors, or its length differs from its header. The message completes "FILE ..."."""


def read_header(file: Path) -> list[TensorHeader]:
    """Return the tensors of a safetensors file in the order of their bytes.

    Raises:
        HeaderError: The file does not agree with its header; usually it is truncated.
        OSError: The file cannot be read.
    """
    total = file.stat().st_size
    with open(file, "rb") as opened:
        start = opened.read(8)
        length = int.from_bytes(start, "little")
        if start == LFS_POINTER:
            raise HeaderError("is a pointer that Git LFS has not replaced by the file (git lfs pull)")
        if total < 8 or length > min(total - 8, MAX_HEADER_BYTES):
            raise HeaderError("is not safetensors, or truncated in its header")
        text = opened.read(length)
    try:
        entries = sorted(
            (_whole(entry["data_offsets"]), name, str(entry["dtype"]), _whole(entry["shape"]))
            for name, entry in parse_json_object(text).items()
            if name != "__metadata__"
        )
    except (FormatError, TypeError, KeyError) as error:
        raise HeaderError("has a header that is not safetensors") from error
    first, position = 8 + length, 0
    tensors = []
    for offsets, name, dtype, shape in entries:
        if len(offsets) != 2 or offsets[0] != position or offsets[1] < position or min(shape, default=1) < 0:
            raise HeaderError(f"has a header that is damaged at {name}")
        if dtype in ITEM_BYTES and offsets[1] - position != math.prod(shape) * ITEM_BYTES[dtype]:
            raise HeaderError(f"has a header that is damaged at {name}")
        position = offsets[1]
        tensors.append(TensorHeader(name, dtype, shape, file, first + offsets[0], first + position))
    if total != first + position:
        raise HeaderError(f"has {total:,} bytes where its header says {first + position:,}")
    return tensors


def _whole(values: Any) -> tuple[int, ...]:
    """Return a JSON list of whole numbers. Raises TypeError for anything else."""
    if not (isinstance(values, list) and all(type(value) is int for value in values)):
        raise TypeError("not a list of whole numbers")
    return tuple(values)
