"""JSON Schemas made from dataclasses accept what the dataclasses write, and nothing of another type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jsonschema
import pytest

from orchestrator.utils.choices import Dtype
from orchestrator.utils.json_schema import document_schema
from orchestrator.utils.records import JsonRecord


@dataclass(frozen=True, kw_only=True)
class Part(JsonRecord):
    """A part.

    Attributes:
        size: Its size,
            in bytes. None if unknown.
    """

    size: int | None


@dataclass(frozen=True, kw_only=True)
class Whole(Part):
    """A whole, of parts.

    More about it.
    """

    OPTIONAL_KEYS: ClassVar[frozenset[str]] = frozenset({"note"})

    schema: str = "whole/1"
    kind: Literal["a", "b"]
    dtype: Dtype
    pair: tuple[str, float]
    parts: tuple[Part, ...]
    counts: Mapping[str, int]
    other: Any = None
    note: str = ""


WHOLE = Whole(
    size=None, kind="a", dtype=Dtype.float32, pair=("x", 1.5), parts=(Part(size=3),), counts={"x": 1}, other=[1]
)


def test_what_a_record_writes_is_valid_and_its_docstring_describes_it() -> None:
    schema = document_schema("whole/1", Whole)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(WHOLE.to_json(), schema)
    assert schema["description"] == "A whole, of parts."
    assert schema["properties"]["size"]["description"] == "Its size, in bytes. null if unknown."
    assert "note" in schema["properties"] and "note" not in schema["required"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", "whole/2"),
        ("size", "3"),
        ("kind", "c"),
        ("dtype", "float8"),
        ("pair", ["x"]),
        ("pair", ["x", 1, 2]),
        ("parts", [{"size": 3.5}]),
        ("parts", [{}]),
        ("counts", {"x": "1"}),
    ],
)
def test_a_value_of_another_type_is_refused(key: str, value: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(WHOLE.to_json() | {key: value}, document_schema("whole/1", Whole))
