"""Parse JSON and YAML that others wrote: whatever a parser raises becomes a FormatError; depth and size are bounded.

Every document that this program did not make in the same run is read here, so that a damaged or hostile one leads to
one sentence and never to a traceback.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_DEPTH = 100
"""Deepest nesting of lists and objects in a document. Functions that walk a document may therefore be recursive."""

MAX_DIGITS = 20
"""Most characters of a whole number in a document of this program, enough for 64 bits."""

FOREIGN_DIGITS = 40
"""Most characters of a whole number in a document of another program: enough for 128 bits, as in a UUID, and for
`model_max_length`, which transformers writes as 10^30 if a model has no limit."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
"""A surrogate in UTF-8, escaped as JSON does it or not. Python's json module accepts half of a pair."""

MAX_YAML_BYTES = 1 << 20
MAX_YAML_NODES = 100_000
"""Most values of a YAML document after its aliases (`*name`) are replaced by what they stand for."""


class FormatError(ValueError):
    """A document is not in its format. The message is one line that completes "FILE ..." or "its FILE ..."."""


def parse_json(text: bytes | str, max_digits: int = MAX_DIGITS) -> Any:
    """Return the value of a JSON text whose whole numbers have at most `max_digits` characters. Raises FormatError."""
    whole_number = functools.partial(_whole_number, max_digits=max_digits)
    try:
        value = json.loads(text, parse_int=whole_number, parse_float=_finite_number)
    except FormatError:
        raise
    except RecursionError:
        raise FormatError(f"is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:  # a number with too many digits and undecodable bytes included
        raise FormatError(f"is not JSON ({_one_line(error)})") from None
    _check_depth(value)
    return value


def parse_json_object(text: bytes | str, max_digits: int = MAX_DIGITS) -> dict[str, Any]:
    """Return the object of a JSON text; see `parse_json`. Its texts can be encoded as UTF-8. Raises FormatError."""
    value = parse_json(text, max_digits)
    if _may_hold_surrogates(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise FormatError("holds half of a surrogate pair") from None
    if not isinstance(value, dict):
        raise FormatError("does not hold an object")
    return value


def _may_hold_surrogates(text: bytes | str) -> bool:
    """Return whether a JSON text holds surrogates, escaped or not. Whole pairs of them are one character each."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return _SURROGATE.search(data) is not None


def _read_bytes(file: Path, most: int = -1) -> bytes:
    """Return at most so many bytes of a file; -1 for all. Raises FormatError for a pipe or device, and OSError."""
    with open(file, "rb", opener=without_waiting) as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise FormatError("is a device, pipe or folder instead of a file")
        return opened.read(most)


def without_waiting(path: str, flags: int) -> int:
    """Open a file; an `opener`. A pipe in a folder from someone else is opened without waiting for its other end."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def read_json_object(file: Path, max_digits: int = MAX_DIGITS) -> dict[str, Any]:
    """Return the object in a JSON file; see `parse_json`. Raises FormatError, and OSError if it cannot be read."""
    return parse_json_object(_read_bytes(file), max_digits)


def _whole_number(text: str, max_digits: int) -> int:
    if len(text) > max_digits:
        raise FormatError(f"holds the number {text[:MAX_DIGITS]}..., which is too large")
    return int(text)


def _finite_number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise FormatError(f"holds the number {text[:MAX_DIGITS]}, which is too large")
    return value


def _check_depth(value: Any) -> None:
    """Raise FormatError for a value that is nested too deeply. The value is not walked recursively."""
    level = [value]
    for _ in range(MAX_DEPTH):
        containers = [item.values() if isinstance(item, dict) else item for item in level if _is_container(item)]
        level = [child for container in containers for child in container]
    if any(map(_is_container, level)):
        raise FormatError(f"is nested more than {MAX_DEPTH} levels deep")


def _is_container(value: Any) -> bool:
    return isinstance(value, dict | list)


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; an empty one for an empty file.

    The file is checked before any value is made: a few lines of aliases of aliases can stand for billions of values.

    Raises:
        FormatError: It is not UTF-8 or not YAML, holds something other than a mapping with text keys, repeats a key,
            refers to itself, or is too large or too deep.
        OSError: It cannot be read.
    """
    return _read_yaml(file)[0]


def read_yaml_scalars(file: Path) -> Iterator[tuple[str, int, str, Any]]:
    """Yield the scalars of a YAML file that were written without quotes and are no texts, however YAML reads them.

    Yields:
        (dotted key, line, text in the file, value): ("slurm.time", 3, "12:00:00", 43200). Items of a list have the
        list's key. Nulls are left out.

    Raises:
        FormatError, OSError: See `read_yaml`.
    """
    value, root = _read_yaml(file)
    waiting: list[tuple[str, Any, Any]] = [("", root, value)] if value else []
    while waiting:
        key, node, item = waiting.pop()
        if isinstance(item, dict):
            prefix = f"{key}." if key else ""
            waiting += [(prefix + k.value, child, item[k.value]) for k, child in node.value if k.value in item]
        elif isinstance(item, list):
            waiting += [(key, child, part) for child, part in zip(node.value, item, strict=False)]
        elif not isinstance(item, str | None) and node.style is None:
            yield key, node.start_mark.line + 1, node.value, item


def _read_yaml(file: Path) -> tuple[dict[str, Any], Any]:
    """Return the mapping in a YAML file, and its root node. Raises FormatError and OSError, see `read_yaml`."""
    from omegaconf import OmegaConf

    root = check_yaml(file)
    try:
        value = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except Exception as error:  # OmegaConf and PyYAML raise all kinds of exceptions
        raise FormatError(f"is not a YAML file of options ({_one_line(error)})") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise FormatError("does not hold options, written key: value")
    return {str(key): item for key, item in value.items()}, root


def check_yaml(file: Path) -> Any:
    """Check the syntax, size and depth of a YAML file, and how much its aliases stand for. Returns its root node.

    Raises:
        FormatError: See `read_yaml`.
        OSError: It cannot be read.
    """
    import yaml  # type: ignore[import-untyped]

    data = _read_bytes(file, MAX_YAML_BYTES + 1)
    if len(data) > MAX_YAML_BYTES:
        raise FormatError(f"is larger than {MAX_YAML_BYTES >> 10} KiB, the most for a file of options")
    try:
        depth = 0
        for event in yaml.parse(data, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise FormatError(f"is nested more than {MAX_DEPTH} levels deep")
        root = yaml.compose(data, Loader=yaml.SafeLoader)
    except FormatError:
        raise
    except Exception as error:  # PyYAML raises more than its own errors, for example ValueError for bad bytes
        raise FormatError(f"is not YAML ({_one_line(error)})") from None
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise FormatError("does not hold options, written key: value")
    if _expanded_size(root, {}, set()) > MAX_YAML_NODES:
        raise FormatError(f"stands for more than {MAX_YAML_NODES:,} values once its aliases are replaced")
    return root


def _expanded_size(node: Any, known: dict[int, int], open_nodes: set[int]) -> int:
    """Return the number of values below a YAML node, counting what is aliased each time that it occurs.

    Args:
        node: The node, not deeper than MAX_DEPTH.
        known: Sizes of nodes that were counted before.
        open_nodes: The nodes that contain this one.
    """
    if not isinstance(value := getattr(node, "value", None), list):
        return 1
    if id(node) in open_nodes:
        raise FormatError("holds an alias that refers to itself")
    if id(node) not in known:
        inner = open_nodes | {id(node)}
        children = [part for item in value for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_expanded_size(child, known, inner) for child in children)
    return known[id(node)]


def _one_line(error: Exception, length: int = 200) -> str:
    """Return an error's message in one line. The position that PyYAML reports is kept."""
    text = " ".join(str(error).replace('in "<byte string>", ', "").replace('in "<unicode string>", ', "").split())
    return (text or type(error).__name__)[:length]
