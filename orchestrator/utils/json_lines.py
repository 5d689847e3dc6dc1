"""Read logs of JSON objects, one on each line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.utils.parsing import FormatError, parse_json_object, without_waiting
from orchestrator.utils.records import check_fields


def read_lines(path: Path, hints: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the object on each line. Lines that a crash cut short, or with fields of other types, are skipped.

    Args:
        path: The file.
        hints: Types of fields, see `check_fields`. They may be missing.

    Raises:
        OSError: The file cannot be read.
    """
    with open(path, encoding="utf-8", errors="replace", opener=without_waiting) as lines:
        for line in lines:
            with contextlib.suppress(FormatError):
                fields = parse_json_object(line)
                check_fields(fields, hints)
                yield fields
