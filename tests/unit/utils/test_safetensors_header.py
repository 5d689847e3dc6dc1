"""Read headers of safetensors files; broken ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from orchestrator.utils.safetensors_header import HeaderError, read_header

TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros((), np.float16)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_tensors_match_what_safetensors_wrote(file: Path) -> None:
    save_file(TENSORS, file, {"format": "pt"})
    data, tensors = file.read_bytes(), {tensor.name: tensor for tensor in read_header(file)}
    assert set(tensors) == {"a", "b"}, "the metadata is no tensor"
    assert (tensors["b"].dtype, tensors["b"].shape, tensors["b"].size) == ("F32", (2, 3), 6)
    assert (tensors["a"].dtype, tensors["a"].shape, tensors["a"].size) == ("F16", (), 1)
    for name, tensor in tensors.items():
        assert tensor.file == file and data[tensor.start : tensor.stop] == TENSORS[name].tobytes()


def with_header(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "truncated in its header"),
        (b"\x01\x00", "truncated in its header"),
        (save(TENSORS)[:40], "truncated in its header"),
        (save(TENSORS)[:-1], "bytes where its header says"),
        (b"\x04\x00\x00\x00\x00\x00\x00\x00oops", "has a header that is not safetensors"),
        (with_header([1, 2]), "has a header that is not safetensors"),
        (with_header({"a": {"dtype": "F32"}}), "has a header that is not safetensors"),
        (with_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}), "damaged at a"),
        (with_header({"a": {"dtype": "I8", "shape": [2], "data_offsets": [1, 3]}}, b"xyz"), "damaged at a"),
        (with_header({"a": {"dtype": "I8", "shape": [2], "data_offsets": [0, 3]}}, b"xyz"), "damaged at a"),
    ],
)
def test_broken_files_are_refused(data: bytes, problem: str, file: Path) -> None:
    file.write_bytes(data)
    with pytest.raises(HeaderError, match=problem):
        read_header(file)
