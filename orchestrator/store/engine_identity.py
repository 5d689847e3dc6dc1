"""The identity of an engine: everything except the weights that changes a response. Compare the identities of two.

An identity is stored with every part of responses, and its hash is the `engine_id` of their rows. Identities are never
changed after they were stored, so those of earlier versions are compared by the rules below.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA = 2
"""Version of the identities that engines write. Version 1 has no field `schema`."""

MEASURED = ("kv_blocks",)
"""Fields of version 1 that are no settings. On a GPU the number of KV blocks followed from the free memory of that
moment, so two actors of one machine could differ in it. It changes no response."""

NODE_FIELDS = ("engine", "version", "device")
"""Fields that all actors of a node share: its GPU or CPU, and the engine that is installed there."""

_MISSING = object()


@dataclass(frozen=True)
class Comparison:
    """Result of comparing two identities.

    Attributes:
        differing: Setting -> its value in the first identity and in the second one.
        ignored: Fields that do not count: those that only one identity has, and those that were measured.
    """

    differing: Mapping[str, tuple[Any, Any]]
    ignored: tuple[str, ...] = ()

    @property
    def concerns_node(self) -> bool:
        """True if a setting differs that all actors of a node share."""
        return any(name in NODE_FIELDS for name in self.differing)


def compare(stored: Mapping[str, Any], current: Mapping[str, Any]) -> Comparison:
    """Compare the identity of stored responses with that of another engine.

    Settings within a field that is a mapping, such as `environment`, are compared one by one.
    """
    one, other = _completed(stored), _completed(current)
    differing: dict[str, tuple[Any, Any]] = {}
    ignored = []
    for name in sorted({*one, *other} - {"schema"}):
        before, now = one.get(name, _MISSING), other.get(name, _MISSING)
        if name in MEASURED or before is _MISSING or now is _MISSING:
            ignored.append(name)
        elif isinstance(before, Mapping) and isinstance(now, Mapping):
            changed = (key for key in sorted({*before, *now}) if before.get(key) != now.get(key))
            differing |= {key: (before.get(key), now.get(key)) for key in changed}
        elif before != now:
            differing[name] = before, now
    return Comparison(differing, tuple(ignored))


def differ(engines: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether any two of these engines may give different responses."""
    return any(compare(one, other).differing for one, other in itertools.combinations(engines, 2))


def common_setting(engines: Sequence[Mapping[str, Any]], engine: str, name: str) -> Any:
    """Return the value of a setting that all engines of a kind agree on. None if they do not, or none has it.

    Args:
        engines: Identities of engines, of any kind and version.
        engine: The kind: the field `engine`.
        name: The setting.
    """
    values = [identity[name] for identity in engines if identity.get("engine") == engine and name in identity]
    return values[0] if values and all(value == values[0] for value in values) else None


def _completed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity with the setting that version 1 implies: vLLM without `eager` compiled the model."""
    implied = (
        {"compilation_mode": "VLLM_COMPILE"} if identity.get("eager") is False and "schema" not in identity else {}
    )
    return {**implied, **identity}
