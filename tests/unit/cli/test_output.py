"""What the command line prints, as a program that reads it sees it."""

from __future__ import annotations

import pytest

from orchestrator.cli.output import print_pairs, print_table


def test_values_stay_on_their_line_where_the_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"s3://bucket/{'long/' * 40}studies"
    print_pairs([("written", address), ("id", "one two")])
    assert capsys.readouterr().out.splitlines() == [f"written {address}", "id      one two", ""]


def test_rows_stay_on_their_line_where_the_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{'long-' * 40}name"
    print_table(["sweep", "VISAGE"], [[name, "1.0"], ["short", "2.0"]])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip("─ ")]
    assert rows == [["sweep", "VISAGE"], [name, "1.0"], ["short", "2.0"]]
