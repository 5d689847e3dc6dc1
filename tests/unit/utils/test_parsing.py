"""Invalid documents lead to an error of one sentence, whatever exception the parser raises."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.utils.parsing import (
    FormatError,
    parse_json,
    parse_json_object,
    read_json_object,
    read_yaml,
)

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


def chain(levels: int) -> str:
    """Return objects nested this deep."""
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (chain(101), "nested more than 100"),
        (chain(100_000), "nested more than 100"),
        ("[" * 100_000, "nested more than 100"),
        ('{"a": 1e999}', "too large"),
        ('{"a": -1e999}', "too large"),
        (f'{{"a": 1{"0" * 5000}}}', "too large"),
        (b'{"a": "\xff"}', "not JSON"),
        ("", "not JSON"),
        ("[1]", "does not hold an object"),
    ],
)
def test_bad_json_is_one_line(text: bytes | str, why: str) -> None:
    with pytest.raises(FormatError, match=why) as error:
        parse_json_object(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_good_json_is_read() -> None:
    value = {"a": [1, -2.5, None, True, {"b": 2**63, "c": "ä"}]}
    assert parse_json('{"a": [1, -2.5, null, true, {"b": 9223372036854775808, "c": "ä"}]}') == value
    assert parse_json(chain(99))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"model:\n  name: x\n   path: y\n", "not YAML.*line 3"),
        (b"model:\n  name: x\xff\n", "not YAML"),
        (b'name: s\ntext: "a\x00b"\n', "not YAML"),
        (b"x: [\n", "not YAML"),
        (b"a: 1\na: 2\n", "duplicate"),
        (b"- a\n- b\n", "does not hold options"),
        (b"A", "does not hold options"),
        (b"1: a\n", "does not hold options"),
        (b"a: !!python/object/apply:os.system [ls]\n", "python/object"),
        (b"a: &a [*a]\n", "refers to itself"),
        (b"a: ${b\n", "not a YAML file of options"),
        (ALIASES.encode(), "stands for more than 100,000 values"),
        (b"a: " + b"[" * 5000, "nested more than 100"),
        (b"a: " + b"x" * (1 << 20), "larger than 1024 KiB"),
    ],
)
def test_bad_yaml_is_one_line(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(FormatError, match=why) as error:
        read_yaml(file)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_good_yaml_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: &name [1, 2]\nb: *name\nc: ${a}\n")
    assert read_yaml(file) == {"a": [1, 2], "b": [1, 2], "c": "${a}"}
    file.write_text("")
    assert read_yaml(file) == {}


@pytest.mark.parametrize("read", [read_json_object, read_yaml])
def test_a_pipe_in_place_of_a_document_is_refused_without_waiting(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "document")
    with pytest.raises(FormatError, match="is a device, pipe or folder instead of a file"):
        read(tmp_path / "document")
