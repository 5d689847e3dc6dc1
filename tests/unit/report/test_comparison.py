"""A comparison on the command line, as a page and as CSV."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.cli.main import main
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
    assert "Content-Security-Policy" in html and "data:image/svg+xml;base64," in html and "http://" not in html
    cells = pd.read_csv(sheet)
    assert len(cells) == 31 and cells["second_sweep"].str.startswith("'@SUM(A1)").all()
    assert cells["difference"].min() < -80
    assert main(["compare", str(first), str(second), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "comparison/1"
