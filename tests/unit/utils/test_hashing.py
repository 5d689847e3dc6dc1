"""Content hashes: equal content has equal hashes. They must never change, because stored ids depend on them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.utils.hashing import blocks, content_id, file_sha256, text_id

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('aé\u2028"\\', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_known_answers() -> None:
    assert content_id({"b": [1, 2.5, None], "a": "é"}) == "4d2328535ef93808"
    assert text_id("é") == "cb1abf8beff3192f"


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    assert content_id(dict(reversed(value.items()))) == content_id(value)


@given(json_values, json_values)
def test_different_values_have_different_hashes(one: object, other: object) -> None:
    if repr(one) != repr(other):  # 1 and 1.0 and True are not the same content
        assert content_id(one) != content_id(other) or one == other
    else:
        assert content_id(one) == content_id(other)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_json_cannot_represent_are_refused(value: float) -> None:
    with pytest.raises(ValueError):
        content_id([value])


def test_files_of_any_size_are_hashed_completely(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for size in (0, 1, 1000, 5000):
        data = bytes(i % 251 for i in range(size))
        path.write_bytes(data)
        assert file_sha256(path) == hashlib.sha256(data).hexdigest()
        assert b"".join(blocks(path, 999)) == data
