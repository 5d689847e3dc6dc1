"""JSON Schemas (draft 2020-12) of dataclasses that are printed or stored as JSON, made from types and docstrings."""

from __future__ import annotations

import enum
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.utils.records import field_types

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN = {
    str: "string",
    Path: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    types.NoneType: "null",
}
_ATTRIBUTE = re.compile(r"^    (\w+): (.+(?:\n     +\S.*)*)", re.MULTILINE)


def document_schema(name: str, record: type[Any]) -> dict[str, Any]:
    """Return the JSON Schema of a document.

    Args:
        name: The value of its key `schema`, such as plan/1.
        record: The dataclass that describes its other keys. `schema` may be one of its fields.
    """
    definitions: dict[str, Any] = {}
    body = _object(record, definitions)
    body["properties"] = {"schema": {"const": name}} | {
        key: value for key, value in body["properties"].items() if key != "schema"
    }
    body["required"] = ["schema", *(key for key in body["required"] if key != "schema")]
    identity = {"$schema": DIALECT, "$id": f"urn:safety-landscape:{name.replace('/', ':')}", "title": name}
    return identity | body | ({"$defs": dict(sorted(definitions.items()))} if definitions else {})


def _object(record: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a dataclass, and add those of the dataclasses that it names to `definitions`."""
    if hasattr(record, "json_types"):
        keys: Mapping[str, tuple[Any, bool]] = record.json_types()
    else:
        keys = {name: (hint, True) for name, (hint, _) in field_types(record).items()}  # type: ignore[arg-type]
    texts = _attributes(record)
    properties = {}
    for key, (hint, _) in keys.items():
        described = {"description": texts[key]} if key in texts else {}
        properties[key] = _schema(hint, definitions) | described
    return {
        "description": _in_json((inspect.getdoc(record) or "").partition("\n\n")[0]),
        "type": "object",
        "properties": properties,
        "required": [key for key, (_, is_required) in keys.items() if is_required],
    }


def _attributes(record: type[Any]) -> dict[str, str]:
    """Return the descriptions of fields in the docstrings of a class and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(record.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
        texts |= {name: _in_json(description) for name, description in _ATTRIBUTE.findall(text)}
    return texts


def _in_json(text: str) -> str:
    """Return a part of a docstring in one line, with JSON's name of None."""
    return re.sub(r"\bNone\b", "null", " ".join(text.split()))


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if all(argument in _PLAIN for argument in arguments):
            return {"type": [_PLAIN[argument] for argument in arguments]}
        return {"anyOf": [_schema(argument, definitions) for argument in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is not None:
        return _container(
            origin, [argument if argument is ... else _schema(argument, definitions) for argument in arguments]
        )
    if hint is Any:
        return {}
    return {"type": _PLAIN[hint]} if hint in _PLAIN else _named(hint, definitions)


def _container(kind: type[Any], items: Sequence[Any]) -> dict[str, Any]:
    """Return the schema of a mapping, a sequence or a tuple whose items have these schemas."""
    if issubclass(kind, Mapping):
        return {"type": "object", "additionalProperties": items[1]}
    if kind is tuple and items[1:] != [...]:
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    return {"type": "array", "items": items[0]}


def _named(kind: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an enumeration, or a reference to that of a dataclass, which is added to `definitions`."""
    if issubclass(kind, enum.StrEnum):
        return {"enum": [str(member) for member in kind]}
    assert is_dataclass(kind), f"no JSON Schema is known for {kind}"
    if kind.__name__ not in definitions:
        definitions[kind.__name__] = {}  # before its fields, which may name it
        definitions[kind.__name__] = _object(kind, definitions)
    return {"$ref": f"#/$defs/{kind.__name__}"}
