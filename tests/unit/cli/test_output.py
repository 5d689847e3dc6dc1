"""Output of the command line for programs that read it, and of slow verbs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.cli.output import print_pairs, print_table
from orchestrator.utils import console
from tests.unit.stored import basin, store_sweep


def test_values_stay_on_their_line_where_the_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"s3://bucket/{'long/' * 40}studies"
    print_pairs([("written", address), ("id", "one two")])
    assert capsys.readouterr().out.splitlines() == [f"written {address}", "id      one two", ""]


def test_rows_stay_on_their_line_where_the_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{'long-' * 40}name"
    print_table(["sweep", "VISAGE"], [[name, "1.0"], ["short", "2.0"]])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip("─ ")]
    assert rows == [["sweep", "VISAGE"], [name, "1.0"], ["short", "2.0"]]


def test_tables_on_a_terminal_are_folded_and_lose_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    name = "-".join(f"{number:03}" for number in range(40))
    print_table(["sweep", "VISAGE"], [[name, "1.0"]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[2:])) <= 80  # the headings are bold
    assert "".join(lines[3:]).replace(" ", "").replace("1.0", "") == name


def test_numbers_and_intervals_stay_on_one_line_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    names = ("first", "second-model-with-a-long-name")
    sweeps = [str(store_sweep(tmp_path, basin(0.25), model=name, directions=3, steps=4)) for name in names]
    assert main(["compare", *sweeps]) == 0
    lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    tables = [line for line in lines if line.startswith(" ")]
    assert max(map(len, tables)) <= 80
    assert [line for line in tables if re.search(r"[\d.]+ to [\d.]+.* [\d.]+ to [\d.]+", line)]
    assert [line for line in tables if re.search(r"line 0 at -0\.5 .* -[\d.]+ to [\d.]+ ", line)]
    assert not [line for line in tables if re.search(r" to *$|^ *[\d.]+ *$", line)]


@pytest.mark.parametrize("verb", ["verify", "compact"])
def test_reading_a_whole_study_shows_how_far_it_is(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = store_sweep(tmp_path, basin(0.25), probes=tuple("ab"), directions=1, steps=4).parents[1]
    monkeypatch.setattr(console, "PLAIN_EVERY", 0.0)
    assert main([verb, str(study)]) == 0
    percentages = [
        int(found) for found in re.findall(rf"reading {study.name}: (\d+)%, .* left", capsys.readouterr().err)
    ]
    assert percentages == sorted(percentages) and percentages[-1] > 0
