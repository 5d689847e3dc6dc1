"""Overrides of the command line (`key=value`): check the key and the type of the value, and quote texts for Hydra.

Mistakes are detected before Hydra reads the overrides, so that each one is reported in one sentence of our own.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from orchestrator.config.presets import GROUPS, Presets
from orchestrator.config.schema import Config
from orchestrator.utils.addresses import is_bucket, normalized, scheme_of
from orchestrator.utils.errors import UserError, did_you_mean

ALIASES = {"judge.path": "judging.file"}
"""Other names of options, for those that no section of the schema can have."""

PATHS = (
    "out",
    "model.path",
    "model.adapter",
    "grid.towards",
    "grid.beside",
    "grid.trajectory",
    "grid.match",
    "probes.path",
    "probes.shots_path",
    "judging.path",
    "judging.file",
    "judging.calibrate",
    "compare.html",
    "compare.csv",
    "gate.junit",
    "compare.latex",
    "export.to",
    "gate.sign",
    "verify.signers",
    "verify.signature",
    "finetune.to",
)
"""Options that name files or folders of the file system."""

MAY_BE_EMPTY = ("system_prompt.text", "probes.prefill")
"""Texts for which empty is a choice: no system message, no prefix."""

GREEDY = (
    "decoding is always greedy, so that only the weights differ between points and every response can be made again: "
    "leave it out"
)
UNAVAILABLE = {
    f"sampling.{name}": GREEDY
    for name in ("temperature", "top_p", "top_k", "min_p", "n", "seed", "do_sample", "num_beams")
}
"""Options of other programs that this one does not have, with the reason."""


@dataclass(frozen=True)
class Override:
    """One checked override, with its value in Hydra's grammar."""

    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


@functools.cache
def option_types(schema: type[Any], prefix: str = "") -> dict[str, Any]:
    """Return the type annotation of every option, by dotted name."""
    result: dict[str, Any] = {}
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            result |= option_types(kind, f"{prefix}{field.name}.")
        else:
            result[prefix + field.name] = kind
    return result


def multirun(overrides: Sequence[str]) -> list[list[str]]:
    """Return the combinations of overrides with several values (`grid.seed=1,2 model=a,b`); the last varies fastest."""
    expanded = []
    for text in overrides:
        key, sign, value = text.partition("=")
        expanded.append([f"{key}{sign}{part}" for part in _split(value)])
    return [list(combination) for combination in itertools.product(*expanded)]


def split_section(overrides: Sequence[str], section: str) -> tuple[list[str], list[str]]:
    """Separate the options of a verb's own section from all others.

    Args:
        overrides: The overrides given to the verb.
        section: The verb's section of the schema.

    Returns:
        The section's overrides under their full names (`visage=70` for `gate` becomes `gate.visage=70`), and the rest.
    """
    names = _section_options(section)
    inside, outside = [], []
    for text in overrides:
        key, sign, value = text.lstrip("+").partition("=")
        full = key if key in names else f"{section}.{key}"
        if full in names:
            inside.append(f"{full}{sign}{value}")
        else:
            outside.append(text)
    return inside, outside


def section_only(overrides: Sequence[str], section: str) -> list[str]:
    """Return the section's overrides under their full names. Raises UserError if there are others."""
    inside, outside = split_section(overrides, section)
    for text in outside:
        key, _, value = text.lstrip("+").partition("=")
        raise no_such_option(section, key, value)
    return inside


def no_such_option(section: str, key: str, value: str) -> UserError:
    """Return the error for an option that a verb does not have."""
    known = [name.removeprefix(f"{section}.") for name in _section_options(section)]
    hint = did_you_mean(key.removeprefix(f"{section}."), known)
    return UserError(key, value, f"`{section}` has no such option{hint} (there are: {', '.join(known)})")


def _section_options(section: str) -> list[str]:
    return [key for key in option_types(Config) if key.startswith(f"{section}.")]


def check_override(text: str, presets: Presets) -> Override:
    """Parse and check one override.

    Args:
        text: `key=value`; a leading `+` is ignored.
        presets: The presets that a group's override may choose.

    Raises:
        UserError: The key or preset does not exist, or the value has the wrong type.
    """
    key, sign, value = text.lstrip("+").partition("=")
    key = ALIASES.get(key, key)
    if not sign or not key or key.startswith("~"):
        raise UserError("override", text, "write it as key=value, such as grid.steps=40")
    try:
        value.encode()
    except UnicodeEncodeError:
        remedy = "is not UTF-8, so it cannot be stored: write it, or rename the file, in UTF-8"
        raise UserError(ascii(key)[1:-1], ascii(value), remedy) from None
    if key in GROUPS:
        if not (key == "experiment" and value == "null"):
            presets.check_exists(key, value)
        return Override(key, value)
    kinds = option_types(Config)
    if key not in kinds:
        fields = [known for known in kinds if known.startswith(f"{key}.")]
        if fields:
            raise UserError(key, value, f"set one of its fields, such as {fields[0]}=")
        if key in UNAVAILABLE:
            raise UserError(key, value, UNAVAILABLE[key])
        raise UserError(key, value, _no_such_option(key, kinds))
    if not value.strip(" \t\n\"'") and key not in MAY_BE_EMPTY:
        raise UserError(key, value, "is empty, as an unset variable is: give a value, or leave the option out")
    if key in PATHS:
        for path in _split(value.strip("[]")):
            check_path(key, path.strip(" \"'"), may_be_bucket=key == "out")
    return Override(key, _hydra_value(key, value, kinds[key]))


def unfitting(key: str, value: Any, kinds: Mapping[str, Any]) -> str:
    """Return what to write instead of an option's value in a preset; the empty string if the value fits.

    Args:
        key: The dotted name.
        value: The value, as YAML reads it.
        kinds: The type annotation of every option, by dotted name.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if key not in kinds:
        return _no_such_option(key, kinds)
    try:
        OmegaConf.update(OmegaConf.structured(Config), key, value)
    except (OmegaConfBaseException, ValueError):
        choices = _choices(kinds[key])
        return f"must be one of {', '.join(choices)}" if choices else f"give {_in_words(kinds[key])}"
    return ""


def _no_such_option(key: str, kinds: Iterable[str]) -> str:
    hint = did_you_mean(key, [*kinds, *GROUPS])
    return f"there is no such option{hint or '; `--help` lists them'}"


def check_path(field: str, path: str, may_be_bucket: bool = False) -> None:
    """Raise UserError for an address with a scheme, such as https://host, where a path is needed.

    Args:
        field: The option or verb that the error names.
        path: The path.
        may_be_bucket: Whether the path may be the address of a bucket with studies.
    """
    scheme = scheme_of(path)
    if scheme is None:
        return
    if may_be_bucket and is_bucket(path):
        if normalized(path).endswith("://"):
            raise UserError(field, path, f"name a bucket: {scheme}://BUCKET/FOLDER")
        return
    if scheme == "file":
        remedy = f"write the path alone: {path[len(scheme) + 3 :]}"
    elif scheme == "hf" and field == "model.path":
        remedy = f"write model.hub={path[len(scheme) + 3 :]}"
    else:
        others = ", or the address of a bucket" if may_be_bucket else ""
        remedy = f"{scheme}:// is not supported: give a path of this machine's file system{others}"
    raise UserError(field, path, remedy)


def _hydra_value(key: str, value: str, kind: Any) -> str:
    """Return the value in Hydra's grammar. Texts are quoted, so that they may hold commas, colons and brackets."""
    kinds = set(alternatives(kind))
    if value == "null" and type(None) in kinds:
        return value
    if str in kinds:
        return _quoted(value)
    if list[str] in kinds and value.startswith("[") and value.endswith("]"):
        return f"[{','.join(_quoted(part.strip()) for part in _split(value[1:-1]) if part.strip())}]"
    if list[str] in kinds and value and not set(value) & set("[],"):  # one name needs no brackets
        return f"[{_quoted(value)}]"
    choices = _choices(kind)
    if choices:
        _check_choice(key, value, choices)
        return value
    _check_parses(key, value, kind)
    return value


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if "," in value and all(part in choices for part in value.split(",")):
        raise UserError(key, value, f"must be one of {', '.join(choices)} (several at once: add -m)")
    if value not in choices:
        raise UserError(key, value, f"must be one of {', '.join(choices)}{did_you_mean(value, choices)}")


def _check_parses(key: str, value: str, kind: Any) -> None:
    """Raise UserError if Hydra cannot read the value as this type."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        parsed = OverridesParser.create().parse_override(f"{key}={value}")
        if parsed.is_sweep_override():
            raise UserError(key, value, f"give {_in_words(kind)} (several at once: add -m)")
        OmegaConf.update(OmegaConf.structured(Config), key, parsed.value())
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(key, value, f"give {_in_words(kind)}") from error


def _quoted(value: str) -> str:
    """Return a text quoted and escaped for Hydra, so that it means itself: `${` begins no interpolation in it."""
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    bare = value[1:-1] if is_quoted else value
    return hydra_quoted(re.sub(r"(\\*)\$\{", lambda match: f"{match[1] * 2}\\${{", bare))


def hydra_quoted(text: str) -> str:
    """Return a text in single quotes for Hydra's grammar: backslashes count only before a quote, and are doubled."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"


def _in_words(kind: Any) -> str:
    """Describe the values of this type in words, for error messages."""
    names: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        list[float]: "numbers in brackets, such as [-0.5,0.5]",
        list[str]: "names in brackets, such as [a,b]",
    }
    members = alternatives(kind)
    text = " or ".join(names.get(member, str(member)) for member in members if member is not type(None))
    return f"{text}, or null" if type(None) in members else text


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union type; for any other type, the type itself as the only one."""
    is_union = typing.get_origin(kind) in (types.UnionType, typing.Union)
    return typing.get_args(kind) if is_union else (kind,)


def _choices(kind: Any) -> list[str]:
    """Return the values of an enumeration, which may be part of a union; an empty list for any other type."""
    for alternative in alternatives(kind):
        if isinstance(alternative, type) and issubclass(alternative, Enum):
            return [member.name for member in alternative]
    return []


def _split(value: str) -> list[str]:
    """Split at the commas outside of brackets and quotes."""
    parts = [""]
    depth = 0
    quote = ""
    for character in value:
        if quote:
            if character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        if character == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
