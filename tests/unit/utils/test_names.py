"""File names made from users' text are one path component. Text that is one already is unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.utils.names import is_safe_name, job_name, safe_name


@pytest.mark.parametrize("name", ["llama2-7b-chat", "my model (v2)", "модель", ".hidden", "a..b", "x" * 246])
def test_a_name_that_was_usable_stays_as_it_is(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("meta-llama/Llama-2-7b", "meta-llama-Llama-2-7b"),
        ("../outside", "outside"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("a\nb\x1b[2J", "a-b-[2J"),
        ("a\u202eb", "a-b"),
        ("x" * 300, "x" * 246),
    ],
)
def test_other_text_becomes_a_name(text: str, name: str) -> None:
    assert safe_name(text) == name
    assert not is_safe_name(text)


@given(st.text(st.characters(codec="utf-8")))
def test_every_text_becomes_the_name_of_a_file_in_its_folder(text: str) -> None:
    name = safe_name(text)
    assert (Path("/studies") / f"{name}-12345678").parent == Path("/studies")
    assert name.isprintable() and 0 < len(name.encode()) <= 246
    assert name not in (".", "..")


@given(st.text())
def test_a_job_name_is_one_word(text: str) -> None:
    assert set(job_name(text)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")
