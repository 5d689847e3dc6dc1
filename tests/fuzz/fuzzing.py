"""Strategies and settings that the fuzz harnesses share."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FACTOR_VARIABLE = "FUZZ_FACTOR"

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 10**12, 2**63, 10**30, 10**400])
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["", "\ud83d", "\x00", "../x", "${x}", "no", "12:00:00", "²", "a\nb"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
"""Any value that Python's json module writes or reads, numbers that are not JSON included."""


def fuzz(examples: int) -> settings:
    """Return the settings of a harness: this many inputs, or more and new ones by `make fuzz`.

    Args:
        examples: Number of inputs in `make test`, where they are the same each time.
    """
    factor = int(os.environ.get(FACTOR_VARIABLE, "1"))
    return settings(
        max_examples=examples * factor,
        derandomize=factor == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw the bytes of a file with a few of them replaced, inserted, repeated or cut off."""
    result = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(result)))
        kind = draw(st.sampled_from(["replace", "insert", "repeat", "cut"]))
        if kind == "replace" and place < len(result):
            result[place] = draw(st.integers(0, 255))
        elif kind == "insert":
            result[place:place] = draw(st.binary(max_size=8))
        elif kind == "repeat":
            result[place:place] = result[place : place + draw(st.integers(1, 32))]
        elif kind == "cut":
            del result[place:]
    return bytes(result)


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """Draw a JSON document with one or two of its values replaced by any others, or a key left out."""
    for _ in range(draw(st.integers(1, 2))):
        document = _replace(draw, document)
    return document


def _replace(draw: st.DrawFn, value: Any) -> Any:
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not inner or draw(st.integers(0, 5)) == 0:
        return draw(JSON)
    key = draw(st.sampled_from(inner))
    copied = value.copy()
    if draw(st.integers(0, 6)) == 0:
        del copied[key]
    else:
        copied[key] = _replace(draw, value[key])
    return copied
