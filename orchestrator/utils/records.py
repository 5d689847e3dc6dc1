"""Frozen dataclasses that are stored as JSON objects, and the check of all stored values against their types."""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, ClassVar, Literal, Self, TypeVar

from orchestrator.utils.parsing import FormatError

R = TypeVar("R")


class JsonRecord:
    """Base of frozen dataclasses with one JSON key for each field, in the order of the fields.

    A field holds a JSON value, another record, a tuple of either (an array in JSON) or None. When JSON is read, a field
    with a default may be missing, so that files of earlier versions, which lack newer fields, can be read.

    Attributes:
        OPTIONAL_KEYS: Fields that are left out of the JSON at their defaults.
    """

    OPTIONAL_KEYS: ClassVar[frozenset[str]] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, ready for `json.dumps`."""
        return {
            field.name: _to_json(value)
            for field in fields(self)  # type: ignore[arg-type]
            if (value := getattr(self, field.name)) != field.default or field.name not in self.OPTIONAL_KEYS
        }

    @classmethod
    def json_types(cls) -> dict[str, tuple[Any, bool]]:
        """Return the type of each key that `to_json` writes, and whether it always writes it."""
        return {name: (hint, name not in cls.OPTIONAL_KEYS) for name, (hint, _) in field_types(cls).items()}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the record that `to_json` described. Keys that are not fields are ignored.

        Raises:
            FormatError: A field without a default is missing, or a field has another type.
        """
        kinds = field_types(cls)  # type: ignore[arg-type]
        missing = [name for name, (_, has_default) in kinds.items() if name not in value and not has_default]
        if missing:
            raise FormatError(f"lacks {missing[0]}")
        arguments = {name: _from_json(hint, value[name]) for name, (hint, _) in kinds.items() if name in value}
        return check_types(cls(**arguments))


def check_types(record: R) -> R:
    """Return a dataclass instance unchanged if every field has the type of its annotation.

    Annotations may be classes, unions, literals, tuples, sequences and mappings. An int is accepted for a float, and a
    float must be a number, not NaN. A bool is not a number.

    Raises:
        FormatError: A field has another type. The message names the field and its value.
    """
    for name, (hint, _) in field_types(type(record)).items():  # type: ignore[arg-type]
        _check(name, getattr(record, name), hint)
    return record


def check_fields(document: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Check the types of the known fields of a document. Missing fields and nulls are accepted.

    Args:
        document: The document.
        hints: Field -> its annotation, see `check_types`.

    Raises:
        FormatError: A field has another type. The message names it.
    """
    for name, hint in hints.items():
        if document.get(name) is not None:
            _check(name, document[name], hint)


def _check(name: str, value: Any, hint: Any) -> None:
    """Raise FormatError if a field's value has not the type of its annotation."""
    if not conforms(value, hint):
        raise FormatError(f"has {name}={_shown(value)}, which is not of type {_type_name(hint)}")


def conforms(value: Any, hint: Any) -> bool:
    """Return whether a value has the type of an annotation, see `check_types`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(conforms(value, part) for part in arguments)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and _items_conform(value, arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_items_conform(item, arguments) for item in value.items())
    return _is_of_class(value, hint)


def _items_conform(items: tuple[Any, ...], hints: tuple[Any, ...]) -> bool:
    """Return whether the items of a tuple have the types of its annotation, such as (int, ...) or (int, str)."""
    kinds = (hints[0],) * len(items) if hints[1:] == (...,) else hints
    return len(items) == len(kinds) and all(map(conforms, items, kinds))


def _is_of_class(value: Any, hint: Any) -> bool:
    """Return whether a value is of an annotated class. True if the annotation is not a class, as Any is not."""
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is None:
        return value is None
    return hint is Any or not isinstance(hint, type) or isinstance(value, hint)


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


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
        if not isinstance(value, list | tuple) or (items[1:] != (...,) and len(value) != len(items)):
            raise FormatError(f"holds {_shown(value)} where a list was expected")
        kinds = [items[0]] * len(value) if items[1:] == (...,) else items
        return tuple(_from_json(kind, item) for kind, item in zip(kinds, value, strict=True))
    if isinstance(hint, type) and issubclass(hint, JsonRecord):
        if not isinstance(value, Mapping):
            raise FormatError(f"holds {_shown(value)} where an object was expected")
        return hint.from_json(value)
    return value


@functools.cache
def field_types(record: type[Any]) -> dict[str, tuple[Any, bool]]:
    """Return the type of each field of a record, and whether it has a default."""
    hints = typing.get_type_hints(record)
    return {
        field.name: (hints[field.name], field.default is not MISSING or field.default_factory is not MISSING)
        for field in fields(record)
    }
