"""Write tables as CSV for other programs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import pandas as pd

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes text that starts so for a formula


def to_csv(frame: pd.DataFrame, path: Path | TextIO) -> None:
    """Write a table as CSV that a spreadsheet opens as data.

    An apostrophe is put before text that a spreadsheet would take for a formula. Numbers are unchanged, including
    negative ones. Missing values are empty.
    """
    safe = frame.map(_escape_formula).rename(columns=_escape_formula)
    safe.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)  # unquoted, a bare carriage return would start a row


def _escape_formula(value: Any) -> Any:
    """Return `value`, with an apostrophe before it if it is text that begins like a formula."""
    return f"'{value}" if isinstance(value, str) and value.lstrip(" \n").startswith(_FORMULA_STARTS) else value
