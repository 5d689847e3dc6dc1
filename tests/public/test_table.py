"""The table of public reports is that of the tests."""

from __future__ import annotations

from tests.public import reports


def test_the_table_is_up_to_date() -> None:
    assert reports.TABLE.read_text(encoding="utf-8") == reports.table(), "run python -m tests.public.reports"


def test_every_case_has_a_sentence_and_names_are_unique() -> None:
    found = reports.cases()
    assert all(case.sentence.endswith(".") for case in found)
    assert len({case.name for case in found}) == len(found)
