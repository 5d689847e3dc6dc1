"""Content that the fingerprint of a checkpoint depends on, and the cache of fingerprints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.models.fingerprint import FINGERPRINT_FILE, _hash_tensors, fingerprint
from orchestrator.utils.cache import cache_dir
from orchestrator.utils.safetensors_header import TensorHeader
from tests.unit.models.checkpoint_files import make, tensors, write


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_sharding_order_metadata_and_folder_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    expected = fingerprint(make(tmp_path / "one"))
    assert fingerprint(make(tmp_path / "elsewhere", shards=3)) == expected
    reordered = make(tmp_path / "turned", dict(reversed(tensors().items())))
    assert fingerprint(reordered) == expected
    write(reordered / "model.safetensors", tensors(), metadata={"format": "pt"})
    assert fingerprint(reordered) == expected
    (reordered / "tokenizer.json").write_text("{}")
    assert fingerprint(reordered) == expected


@pytest.mark.parametrize("byte", [0, 31, 95])
def test_one_bit_changes_the_fingerprint(byte: int, tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    before = fingerprint(model)
    file = model / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) - 96 + byte] ^= 1
    file.write_bytes(content)
    assert fingerprint(model) != before


def test_an_edit_that_keeps_size_and_time_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file keeps its size and modification time, and its earlier hash is cached."""
    monkeypatch.setattr("orchestrator.models.fingerprint.CLOCK_TICK_NS", 0)
    model = make(tmp_path / "model")
    file = model / "model.safetensors"
    stat = file.stat()
    before = fingerprint(model)
    assert (model / FINGERPRINT_FILE).is_file()
    with open(file, "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x7f")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert fingerprint(model) != before


def test_a_hash_is_remembered_only_if_the_file_is_old_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, hash_tensors = [], _hash_tensors

    def counted(headers: Iterable[TensorHeader], progress: Callable[[float], None]) -> str:
        calls.append(1)
        return hash_tensors(headers, progress)

    monkeypatch.setattr("orchestrator.models.fingerprint._hash_tensors", counted)
    model = make(tmp_path / "model")
    first = fingerprint(model)
    assert not (model / FINGERPRINT_FILE).exists()  # an edit within the same clock tick would go unnoticed
    monkeypatch.setattr("orchestrator.models.fingerprint.CLOCK_TICK_NS", 0)
    assert fingerprint(model) == first
    assert fingerprint(model) == first
    assert len(calls) == 2  # the third call reads the cached hash


def test_the_hash_of_a_read_only_folder_is_remembered_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.models.fingerprint.CLOCK_TICK_NS", 0)
    model = make(tmp_path / "model")
    (model / FINGERPRINT_FILE).mkdir()  # a folder in its place cannot be replaced, even by root
    fingerprint(model)
    cached_files = list((cache_dir() / "fingerprints").glob("*.json"))
    assert len(cached_files) == 1
    monkeypatch.setattr("orchestrator.models.fingerprint._hash_tensors", None)  # fails if it is called
    fingerprint(model)


@pytest.mark.parametrize("record", ["", "{}", "[]", '{"version": 1, "files": {}, "weights": "0"}'])
def test_a_damaged_record_is_ignored(record: str, tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    before = fingerprint(model)
    (model / FINGERPRINT_FILE).write_text(record)
    assert fingerprint(model) == before


def test_names_shapes_and_dtypes_change_the_fingerprint(tmp_path: Path) -> None:
    name, (_, _, data) = next(iter(tensors().items()))
    variants = [
        tensors(),
        tensors() | {name: ("F32", [4, 2], data)},
        tensors() | {name: ("BF16", [2, 8], data)},
        tensors() | {name: ("F16", [2, 8], data)},
        {key.replace("layers.0", "layers.00"): value for key, value in tensors().items()},
        tensors(2),
    ]
    fingerprints = [fingerprint(make(tmp_path / str(i), variant)) for i, variant in enumerate(variants)]
    assert len(set(fingerprints)) == len(variants)


@pytest.mark.parametrize(
    "change", [{"rope_theta": 1e6}, {"hidden_act": "gelu"}, {"some_new_field": 1}, {"sliding_window": 4096}]
)
def test_config_fields_that_change_outputs_change_the_fingerprint(change: dict[str, Any], tmp_path: Path) -> None:
    assert fingerprint(make(tmp_path / "a")) != fingerprint(make(tmp_path / "b", **change))


@pytest.mark.parametrize(
    "change",
    [
        {"_name_or_path": "somewhere/else"},
        {"transformers_version": "4.0.0"},
        {"torch_dtype": "bfloat16"},  # the preset sets the dtype
        {"dtype": "bfloat16"},
        {"use_cache": False},
        {"attention_dropout": 0.1},
        {"sliding_window": None},  # null means not set
    ],
)
def test_cosmetic_config_fields_do_not_change_the_fingerprint(change: dict[str, Any], tmp_path: Path) -> None:
    assert fingerprint(make(tmp_path / "a")) == fingerprint(make(tmp_path / "b", **change))


def test_end_of_turn_tokens_change_the_fingerprint_in_either_file(tmp_path: Path) -> None:
    model = make(tmp_path / "a", eos_token_id=1)
    plain = fingerprint(model)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2], "temperature": 0.6}))
    both = fingerprint(model)
    assert both != plain
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2], "temperature": 1.0}))
    assert fingerprint(model) == both  # sampling is always greedy
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": None}))
    assert fingerprint(model) == plain
