"""Tables for other programs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with these a spreadsheet takes a cell for a formula


def to_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV that a spreadsheet opens as data: text that would be a formula gets an apostrophe before it.

    Numbers stay numbers, the negative ones too; what is missing is empty.
    """
    safe = frame.map(_defused).rename(columns=_defused)
    safe.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)  # a bare carriage return would begin a row


def _defused(value: Any) -> Any:
    """`value`, or with an apostrophe before it if it is text that begins as a formula does."""
    return f"'{value}" if isinstance(value, str) and value.lstrip(" \n").startswith(_FORMULA) else value
