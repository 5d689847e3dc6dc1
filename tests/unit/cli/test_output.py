"""What the command line prints, as a program that reads it sees it."""

from __future__ import annotations

import pytest

from orchestrator.cli.output import print_pairs


def test_values_stay_on_their_line_where_the_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"s3://bucket/{'long/' * 40}studies"
    print_pairs([("written", address), ("id", "one two")])
    assert capsys.readouterr().out.splitlines() == [f"written {address}", "id      one two", ""]
