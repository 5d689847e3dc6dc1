"""Tables as CSV that spreadsheets open as data."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from orchestrator.report.csv_export import to_csv


def test_text_never_becomes_a_formula(tmp_path: Path) -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "plain", "a=b", ""]
    frame = pd.DataFrame({"=text": texts, "number": [-1.5, None, *range(8)]})
    to_csv(frame, tmp_path / "a.csv")
    back = pd.read_csv(tmp_path / "a.csv", keep_default_na=False)
    assert list(back.columns) == ["'=text", "number"]
    assert back["'=text"].tolist()[:4] == ["'=1+1", "'+1", "'-1", "'@SUM(A1)"]
    assert back["'=text"].tolist()[6:] == ["' =1", "plain", "a=b", ""]
    assert not back["'=text"].str.startswith(("=", "+", "-", "@", "\t", "\r", " ")).any()
    assert back["number"].tolist()[:2] == ["-1.5", ""]
