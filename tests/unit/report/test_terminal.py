"""The result that `run` prints at its end, for every shape of landscape."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from orchestrator.analysis.summary.sweep import summarize
from orchestrator.report import terminal
from orchestrator.report.narrative import paragraph
from tests.unit.landscapes import landscape
from tests.unit.report.shapes import PATHS, SHAPES, basin, with_hole


def printed(frame: pd.DataFrame, encoding: str = "utf-8", width: int = 80, **summary: Any) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    terminal.show(frame, replace(summarize(frame), **summary), PATHS, Console(file=file, width=width))
    file.flush()
    return raw.getvalue().decode(encoding)


def table_rows(output: str) -> list[str]:
    return [line.strip() for line in output.splitlines() if re.match(r"\s*[+-]0\.\d{3}\s", line)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_fits_in_80_columns(shape: str) -> None:
    curve, grid, _, _ = SHAPES[shape]
    frame = landscape(curve, **grid)
    output = printed(frame)
    assert max(map(len, (line for line in output.splitlines() if "studies/" not in line))) <= 80
    assert "\x1b" not in output
    assert "nan" not in output
    assert " ".join(output.split()).endswith(paragraph(summarize(frame), PATHS))


def test_the_table_has_a_row_for_each_point() -> None:
    output = printed(landscape(basin, degenerate=0.25))
    row = next(line for line in output.splitlines() if line.split()[:1] == ["+0.150"])
    assert row.split() == ["+0.150", "50.0", "33.8", "-", "66.2", "50.0", "37.5", "0.0", "12.5"]
    assert len(table_rows(output)) == 21


@pytest.mark.parametrize(("width", "columns"), [(80, 7), (70, 6), (60, 5), (50, 4), (20, 2)])
def test_a_narrow_terminal_leaves_columns_out_and_says_so(width: int, columns: int) -> None:
    output = printed(landscape(basin, degenerate=0.25), width=width)
    row = next(line for line in output.splitlines() if line.split()[:1] == ["+0.150"])
    whole = ["+0.150", "50.0", "33.8 - 66.2", "50.0", "37.5", "0.0", "12.5"]
    shown = row.replace(" - ", "@").split()
    assert len(shown) == columns and set(shown) <= {cell.replace(" - ", "@") for cell in whole}
    assert shown[:2] == whole[:2]
    assert ("left out" in output) == (columns < len(whole))


def test_the_report_is_a_link_where_there_are_links(tmp_path: Path) -> None:
    paths = {"report": tmp_path / "a b" / "report.html"}
    frame = landscape(basin)
    for is_terminal in (True, False):
        file = io.StringIO()
        terminal.show(frame, summarize(frame), paths, Console(file=file, width=80, force_terminal=is_terminal))
        output = file.getvalue()
        assert (paths["report"].as_uri() in output) == is_terminal and str(paths["report"]) in output
        assert f"view '{tmp_path / 'a b'}'" in output


def test_a_missing_point_is_a_row_and_a_mark() -> None:
    output = printed(landscape(with_hole))
    assert "+0.300  missing" in table_rows(output)
    assert any("┤" in line and "x" in line for line in output.splitlines())
    assert not any("┤" in line and "x" in line for line in printed(landscape(basin)).splitlines())


def test_the_mean_is_missing_if_one_line_is_missing() -> None:
    frame = landscape(lambda line, alpha: None if line == 1 and alpha == 0.25 else basin(0, alpha), directions=3)
    output = printed(frame)
    assert "mean of 3 directions" in output
    assert "+0.250  missing" in table_rows(output)


def test_a_long_table_is_shortened_but_keeps_the_origin() -> None:
    output = printed(landscape(basin, steps=100))
    rows = table_rows(output)
    assert 30 <= len(rows) <= terminal.MAX_ROWS
    assert any(row.startswith("+0.000 ") for row in rows)
    assert "landscape.parquet" in output


def test_the_curve_falls_to_the_origin_and_rises_again() -> None:
    plot = [line for line in printed(landscape(basin)).splitlines() if line[3:4] in ("┤", "│", "┼")]
    top, bottom = plot[0][4:-1], plot[-1][4:-1]
    assert top[:20].count("⠤") > 10 and top[-20:].count("⠤") > 10
    assert set(top[34:41]) == {" "}
    assert set(bottom[34:41]) == {"⠒"}
    assert set(bottom[:20]) == {" "}


def test_a_plane_is_shaded() -> None:
    output = printed(landscape(lambda _, r: None if r > 0.7 else basin(0, r), kind="random_2d", steps=10))
    rows = [line for line in output.splitlines() if line.endswith("|")]
    assert len(rows) == 11
    assert rows[0].startswith(" +0.500 |??")
    assert "+ " in rows[5]
    assert rows[5].endswith("██|")
    assert "1d" not in output


def test_an_ascii_terminal_gets_ascii_only() -> None:
    for shape in ("basin", "a plane"):
        curve, grid, _, _ = SHAPES[shape]
        output = printed(landscape(curve, **grid), encoding="ascii")
        assert output.isascii()
        assert "?" * 4 not in output
    assert "*" in printed(landscape(basin), encoding="ascii")


def test_brackets_and_long_paths_are_printed_unchanged() -> None:
    frame = landscape(basin)
    folder = Path("studies/" + "x" * 120 + "/[red]a[/red]")
    file = io.StringIO()
    terminal.show(frame, summarize(frame), {"folder": folder}, Console(file=file, width=80))
    assert str(folder) in file.getvalue()


def test_the_name_of_a_judge_is_folded_and_loses_nothing() -> None:
    frame = landscape(basin)
    (result,) = summarize(frame).results
    name = f"judge_{'of_responses_' * 4}2"
    output = printed(frame, results=(result, replace(result, judge=name)), width=60)
    rows = output.partition("judges side by side")[2].splitlines()
    assert name in "".join(row.split()[0] for row in rows if row.strip())
