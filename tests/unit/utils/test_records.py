"""Test the check of stored and foreign values against annotations."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from orchestrator.utils.parsing import FormatError
from orchestrator.utils.records import check_fields, conforms


def test_fields_of_the_wrong_type_are_named() -> None:
    hints: dict[str, Any] = {"layers": int | list, "tied": bool, "seconds": float}
    check_fields({"layers": 3, "tied": True, "seconds": 2, "other": "x"}, hints)
    check_fields({"layers": [3, 4], "tied": None}, hints)
    wrong: list[dict[str, object]] = [
        {"layers": True},
        {"layers": 3.0},
        {"layers": "3"},
        {"tied": 1},
        {"seconds": float("nan")},
    ]
    for document in wrong:
        with pytest.raises(FormatError, match=f"has {next(iter(document))}=.*, which is not of type "):
            check_fields(document, hints)


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, float, True),
        (True, float, False),
        (True, int, False),
        (True, bool, True),
        (None, str | None, True),
        ((1, 2), tuple[int, ...], True),
        ((1, "a"), tuple[int, ...], False),
        ((1,), tuple[int, str], False),
        ("a", Literal["a", "b"], True),
        (1, Literal[True], False),
        ([], dict, False),
    ],
)
def test_a_value_conforms_to_an_annotation(value: object, hint: object, fits: bool) -> None:
    assert conforms(value, hint) == fits
