"""Headers of safetensors files: those that safetensors writes are read, broken ones are refused."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from orchestrator.utils.safetensors_header import HeaderError, TensorEntry, read_entries

TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros((), np.float16)}


def test_entries_are_those_that_safetensors_wrote(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors", {"format": "pt"})
    data = (tmp_path / "x.safetensors").read_bytes()
    entries = {entry.name: entry for entry in read_entries(data)}
    assert set(entries) == {"a", "b"}, "the metadata is no tensor"
    assert (entries["b"].dtype, entries["b"].shape) == ("F32", (2, 3))
    assert (entries["a"].dtype, entries["a"].shape) == ("F16", ())
    for name, entry in entries.items():
        assert data[entry.start : entry.stop] == TENSORS[name].tobytes()
    with open(tmp_path / "x.safetensors", "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as m:
        assert read_entries(m) == read_entries(memoryview(data)) == read_entries(data)


def with_header(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "truncated in its header"),
        (b"\x01\x00", "truncated in its header"),
        (save(TENSORS)[:40], "truncated in its header"),
        (save(TENSORS)[:-1], "is truncated"),
        (b"\x04\x00\x00\x00\x00\x00\x00\x00oops", "has a header that is not safetensors"),
        (with_header([1, 2]), "has a header that is not safetensors"),
        (with_header({"a": {"dtype": "F32"}}), "has a header that is not safetensors"),
        (with_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}), "header that is not safetensors"),
    ],
)
def test_broken_files_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(HeaderError, match=problem):
        read_entries(data)


def test_offsets_count_from_the_headers_end() -> None:
    data = with_header({"a": {"dtype": "I8", "shape": [2], "data_offsets": [1, 3]}}, b"xyz")
    (entry,) = read_entries(data)
    assert entry == TensorEntry("a", "I8", (2,), len(data) - 2, len(data))
