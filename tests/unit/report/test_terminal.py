"""What `run` prints at its end, for every shape that a landscape can have."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from orchestrator.analysis.summary import summarize
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


def table_rows(out: str) -> list[str]:
    return [line.strip() for line in out.splitlines() if re.match(r"\s*[+-]0\.\d{3}\s", line)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_printed_within_80_columns(shape: str) -> None:
    curve, more, _, _ = SHAPES[shape]
    frame = landscape(curve, **more)
    out = printed(frame)
    assert max(map(len, (line for line in out.splitlines() if "studies/" not in line))) <= 80
    assert "\x1b" not in out
    assert "nan" not in out
    assert " ".join(out.split()).endswith(paragraph(summarize(frame), PATHS))


def test_the_table_has_a_row_for_each_point() -> None:
    out = printed(landscape(basin, degenerate=0.25))
    row = next(line for line in out.splitlines() if line.split()[:1] == ["+0.150"])
    assert row.split() == ["+0.150", "50.0", "33.8", "-", "66.2", "50.0", "37.5", "12.5"]
    assert len(table_rows(out)) == 21


def test_a_missing_point_is_a_row_and_a_mark() -> None:
    out = printed(landscape(with_hole))
    assert "+0.300   missing" in table_rows(out)
    assert any("┤" in line and "x" in line for line in out.splitlines())
    assert not any("┤" in line and "x" in line for line in printed(landscape(basin)).splitlines())


def test_the_mean_is_missing_where_one_line_is_missing() -> None:
    frame = landscape(lambda line, alpha: None if line == 1 and alpha == 0.25 else basin(0, alpha), directions=3)
    out = printed(frame)
    assert "mean of 3 directions" in out
    assert "+0.250   missing" in table_rows(out)


def test_a_long_table_is_thinned_but_keeps_the_origin() -> None:
    out = printed(landscape(basin, steps=100))
    rows = table_rows(out)
    assert 30 <= len(rows) <= terminal.MAX_ROWS
    assert any(row.startswith("+0.000 ") for row in rows)
    assert "landscape.parquet" in out


def test_the_curve_falls_to_the_origin_and_rises_again() -> None:
    plot = [line for line in printed(landscape(basin)).splitlines() if line[3:4] in ("┤", "│", "┼")]
    top, bottom = plot[0][4:-1], plot[-1][4:-1]
    assert top[:20].count("⠤") > 10 and top[-20:].count("⠤") > 10
    assert set(top[34:41]) == {" "}
    assert set(bottom[34:41]) == {"⠒"}
    assert set(bottom[:20]) == {" "}


def test_a_plane_is_shaded() -> None:
    out = printed(landscape(lambda _, r: None if r > 0.7 else basin(0, r), kind="random_2d", steps=10))
    rows = [line for line in out.splitlines() if line.endswith("|")]
    assert len(rows) == 11
    assert rows[0].startswith(" +0.500 |??")
    assert "+ " in rows[5]
    assert rows[5].endswith("██|")
    assert "1d" not in out


def test_an_ascii_terminal_gets_ascii_only() -> None:
    for shape in ("basin", "a plane"):
        curve, more, _, _ = SHAPES[shape]
        out = printed(landscape(curve, **more), encoding="ascii")
        assert out.isascii()
        assert "?" * 4 not in out
    assert "*" in printed(landscape(basin), encoding="ascii")


def test_brackets_and_long_paths_are_printed_unchanged() -> None:
    frame = landscape(basin)
    folder = Path("studies/" + "x" * 120 + "/[red]a[/red]")
    file = io.StringIO()
    terminal.show(frame, summarize(frame), {"folder": folder}, Console(file=file, width=80))
    assert str(folder) in file.getvalue()
