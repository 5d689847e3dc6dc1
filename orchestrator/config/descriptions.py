"""Descriptions of all options, read from the comments in the schema's source: for `--help` and the documentation."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import schema


@dataclass(frozen=True)
class Option:
    """A field of a configuration class: its default, the comment on its line, and the name of its type."""

    name: str
    default: str
    comment: str
    kind: str


@dataclass(frozen=True)
class Section:
    """A group of options: the prefix of their names (such as `grid.`), the docstring of their class, and the options.

    The names of the options are without the prefix.
    """

    prefix: str
    description: str
    options: tuple[Option, ...]


def sections() -> list[Section]:
    """Return all options by section, those without a section first, in the order of the schema."""
    classes = _read_classes(Path(schema.__file__).read_text(encoding="utf-8"))
    result = []
    for prefix, kind in (("", "Config"), *_nested(classes, "Config", "")):
        section = classes[kind]
        options = tuple(option for option in section.options if option.kind not in classes)
        result.append(Section(prefix, section.description, options))
    return result


def descriptions() -> dict[str, str]:
    """Return the description of every option, by dotted name."""
    return {section.prefix + option.name: option.comment for section in sections() for option in section.options}


def _nested(classes: Mapping[str, Section], kind: str, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted prefix, class name) for each section inside the class `kind`, depth first."""
    for option in classes[kind].options:
        if option.kind in classes:
            yield f"{prefix}{option.name}.", option.kind
            yield from _nested(classes, option.kind, f"{prefix}{option.name}.")


def _read_classes(source: str) -> dict[str, Section]:
    """Return the dataclasses in a module's source, by class name. Their prefixes are empty."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    classes = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            options = tuple(
                Option(
                    item.target.id,
                    _default(item.value),
                    comments.get(item.lineno, ""),
                    ast.unparse(item.annotation),
                )
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            )
            classes[node.name] = Section("", ast.get_docstring(node) or "", options)
    return classes


def _default(value: ast.expr | None) -> str:
    """Return a field's default as it is written on the command line."""
    if isinstance(value, ast.Attribute):  # a member of an enumeration
        return value.attr
    if isinstance(value, ast.Call):
        (factory,) = (keyword.value for keyword in value.keywords if keyword.arg == "default_factory")
        if isinstance(factory, ast.Lambda):
            value = factory.body
        elif ast.unparse(factory) == "list":
            value = ast.List([])
        else:
            value = factory
    text = ast.unparse(value).replace("'", "").replace(" ", "") if value else ""
    return {"None": "null", "True": "true", "False": "false", "": "(empty)"}.get(text, text)
