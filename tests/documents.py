"""Check documents that verbs print with `--json` against the JSON Schemas in docs/schemas."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

from tests.contract.rules import ROOT


def read_documents(text: str) -> Any:
    """Parse what a verb printed, and return it. Each document in it must have the keys of its schema and no others.

    Raises:
        AssertionError: There is no document.
        jsonschema.ValidationError: A document differs from its schema.
    """
    value = json.loads(text)
    documents = list(_documents(value))
    assert documents, "no object has a key `schema`"
    for document in documents:
        _validator(document["schema"]).validate(document)
    return value


def _documents(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the document itself, or those in a list, or those in an object without a schema."""
    if isinstance(value, dict) and "schema" in value:
        yield value
        return
    for item in value if isinstance(value, list) else value.values():
        assert "schema" in item, f"has no key `schema`: {item}"
        yield item


@functools.cache
def _validator(schema: str) -> Draft202012Validator:
    path = ROOT / "docs" / "schemas" / f"{schema.replace('/', '-')}.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(document)
    return Draft202012Validator(_closed(document))


def _closed(schema: Any) -> Any:
    """Return a schema by which objects have only the keys that it names, so that a new key is noticed."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    return closed | {"additionalProperties": False} if isinstance(schema.get("required"), list) else closed
