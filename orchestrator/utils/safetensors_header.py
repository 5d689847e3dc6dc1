"""Read the header of a safetensors file without any library.

The format: 8 bytes with the length of the header (little-endian), the header as JSON, the tensors' bytes. The header
maps each tensor's name to its dtype, its shape and the byte offsets of its data, counted from the header's end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class _Bytes(Protocol):
    """Bytes that can be sliced: bytes, a memory map, a memory view."""

    def __getitem__(self, index: slice, /) -> bytes | memoryview: ...
    def __len__(self) -> int: ...


class HeaderError(ValueError):
    """The bytes are not a whole safetensors file."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: bytes [start, stop) of the file, of safetensors' dtype name (F32, BF16, ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_entries(data: _Bytes) -> list[TensorEntry]:
    """Return the tensors of a file, in the header's order.

    Args:
        data: All bytes of the file. Only the header is read.

    Raises:
        HeaderError: The header is not that of safetensors, or a tensor ends beyond the file's end.
    """
    first = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or first > len(data):
        raise HeaderError("is not safetensors, or truncated in its header")
    try:
        header: Mapping[str, Any] = json.loads(bytes(data[8:first]))
        entries = [_entry(name, value, first) for name, value in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HeaderError("has a header that is not safetensors") from error
    if any(entry.stop > len(data) for entry in entries):
        raise HeaderError("is truncated")
    return entries


def _entry(name: str, value: Mapping[str, Any], first: int) -> TensorEntry:
    start, stop = map(int, value["data_offsets"])
    return TensorEntry(name, str(value["dtype"]), tuple(map(int, value["shape"])), first + start, first + stop)
