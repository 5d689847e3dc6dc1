"""Frozen dataclasses that are stored as JSON objects."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Self


class JsonRecord:
    """Base of frozen dataclasses with one JSON key for each field, in the order of the fields.

    A field holds a JSON value, another record, a tuple of either (an array in JSON) or None. When JSON is read, a field
    with a default may be missing, so that files of earlier versions, which lack newer fields, can be read.
    """

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, ready for `json.dumps`."""
        return {field.name: _to_json(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the record that `to_json` described. Keys that are not fields are ignored.

        Raises:
            KeyError: If a field without a default is missing.
        """
        return cls(
            **{
                name: _from_json(hint, value[name])
                for name, (hint, has_default) in _fields(cls).items()  # type: ignore[arg-type]
                if name in value or not has_default
            }
        )


def _to_json(value: Any) -> Any:
    if isinstance(value, JsonRecord):
        return value.to_json()
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    return value


def _from_json(hint: Any, value: Any) -> Any:
    """Convert a JSON value to the type of its field."""
    if value is None:
        return None
    if isinstance(hint, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        kinds = [items[0]] * len(value) if items[1:] == (...,) else items
        return tuple(_from_json(kind, item) for kind, item in zip(kinds, value, strict=True))
    if isinstance(hint, type) and issubclass(hint, JsonRecord):
        return hint.from_json(value)
    return value


@functools.cache
def _fields(record: type[JsonRecord]) -> dict[str, tuple[Any, bool]]:
    """Return the type of each field of a record, and whether it has a default."""
    hints = typing.get_type_hints(record)
    return {
        field.name: (hints[field.name], field.default is not MISSING or field.default_factory is not MISSING)
        for field in fields(record)  # type: ignore[arg-type]
    }
