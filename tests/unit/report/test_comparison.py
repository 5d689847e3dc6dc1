"""A comparison on the command line, as a page and as CSV."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.analysis.comparison.compare import compare
from orchestrator.analysis.comparison.sweeps import read_sweeps
from orchestrator.cli.main import main
from orchestrator.report.comparison import difference_rows, sweep_row
from tests.unit.stored import basin, store_sweep

pytestmark = pytest.mark.thorough


def test_the_command_line_prints_the_comparison_and_writes_page_and_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "<script>alert(1)<script>$x_1$"
    first = store_sweep(tmp_path / "out", basin(0.15), hostile)
    second = store_sweep(tmp_path / "out", basin(0.35), "@SUM(A1)")
    page, sheet = tmp_path / "page.html", tmp_path / "sheet.csv"
    assert main(["compare", str(first), str(second), f"html={page}", f"csv={sheet}"]) == 0
    printed = capsys.readouterr().out
    assert "VISAGE" in printed and "95% interval" in printed and "differ beyond chance" in printed
    html = page.read_text(encoding="utf-8")
    assert "<script>alert" not in html and "&lt;script&gt;" in html
    assert "Content-Security-Policy" in html and "data:image/svg+xml;base64," in html
    assert "http://" not in html.replace("http://www.w3.org/2000/svg", ""), "nothing but the name of a namespace"
    cells = pd.read_csv(sheet)
    assert len(cells) == 31 and cells["second_sweep"].str.startswith("'@SUM(A1)").all()
    assert cells["difference"].min() < -80
    assert main(["compare", str(first), str(second), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "comparison/1"


def test_both_intervals_of_a_sweep_are_over_directions_and_probes(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path / "out", basin(0.15), "first")
    sweep = compare(read_sweeps([folder, folder])).sweeps[0]
    over = sweep.visage.over
    assert over is not None and sweep.margin is not None
    assert over.both.low != over.directions.low, "the two kinds must differ for this test to see one"
    row = sweep_row(sweep)
    for cell, both in ((row[2], over.both), (row[4], sweep.margin.over.both)):
        assert cell == f"{both.low:.1f} to {both.high:.1f}"


def test_what_is_undefined_or_not_tested_is_named_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = store_sweep(tmp_path / "out", basin(0.15), "first")
    second = store_sweep(tmp_path / "out", lambda node, i: False, "second", leave_out=lambda node: not node.alpha)
    sweeps = read_sweeps([first, second])
    (pair,) = compare(sweeps).differences
    rows = [*map(sweep_row, compare(sweeps).sweeps), *difference_rows(pair)]
    assert rows[1][1] == "undefined" and rows[1][5] == "not measured", "every attack succeeds; there is no origin"
    assert rows[2][3:] == ("undefined", "unknown", "not tested", "not tested")
    assert not [row for row in rows if "-" in row or "" in row]
    assert main(["compare", str(first), str(second)]) == 0
    assert "undefined" in capsys.readouterr().out


def test_files_that_cannot_be_written_are_refused_and_folders_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeps = [str(store_sweep(tmp_path / "out", basin(width), f"model{width}")) for width in (0.15, 0.35)]
    for option in ("html", "csv", "latex"):
        assert main(["compare", *sweeps, f"{option}={tmp_path}"]) == 2
        assert f"error: compare.{option}={tmp_path}: cannot be written (Is a directory)" in capsys.readouterr().err
        assert main(["compare", *sweeps, f"{option}={tmp_path / option / 'new' / 'file'}"]) == 0
        assert (tmp_path / option / "new" / "file").stat().st_size > 100
