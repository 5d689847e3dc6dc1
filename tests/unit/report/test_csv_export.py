"""Export tables as CSV that spreadsheets read as data, not as formulas."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from orchestrator.report.csv_export import to_csv


def test_text_is_never_read_as_a_formula(tmp_path: Path) -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "plain", "a=b", ""]
    frame = pd.DataFrame({"=text": texts, "number": [-1.5, None, *range(8)]})
    to_csv(frame, tmp_path / "a.csv")
    read = pd.read_csv(tmp_path / "a.csv", keep_default_na=False)
    assert list(read.columns) == ["'=text", "number"]
    assert read["'=text"].tolist()[:4] == ["'=1+1", "'+1", "'-1", "'@SUM(A1)"]
    assert read["'=text"].tolist()[6:] == ["' =1", "plain", "a=b", ""]
    assert not read["'=text"].str.startswith(("=", "+", "-", "@", "\t", "\r", " ")).any()
    assert read["number"].tolist()[:2] == ["-1.5", ""]
