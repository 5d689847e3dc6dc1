"""Content hashes, by which everything that is stored is identified."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

ID_BYTES = 8


def content_id(value: object) -> str:
    """Return 16 hexadecimal digits that identify a JSON value by its content: equal values have equal ids.

    Keys are sorted. The caller must round floats, because two floats that differ in the last bit give different ids.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=ID_BYTES).hexdigest()


def text_id(text: str) -> str:
    """Return 16 hexadecimal digits that identify a text by its UTF-8 bytes (lone surrogates included)."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=ID_BYTES).hexdigest()


def blocks(path: Path, size: int = 1 << 22) -> Iterator[bytes]:
    """Yield the bytes of a file, `size` at a time."""
    with open(path, "rb") as file:
        while block := file.read(size):
            yield block


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits."""
    digest = hashlib.sha256()
    for block in blocks(path):
        digest.update(block)
    return digest.hexdigest()
