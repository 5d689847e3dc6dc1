"""Helpers of the summaries of scores and of basins: means over lines, merged reasons, and the lines' seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from orchestrator.analysis.landscape import Lines


def merge_reasons(reasons: Sequence[tuple[int, str | None]], lines: int) -> list[str]:
    """Return each reason once, naming the lines that it is about unless it is about all `lines` of them."""
    about: dict[str, list[int]] = {}
    for number, reason in reasons:
        if reason:
            about.setdefault(reason, []).append(number)
    merged = []
    for reason, numbers in about.items():
        if len(numbers) == lines:
            merged.append(reason)
        else:
            word = "line" if len(numbers) == 1 else "lines"
            merged.append(f"{word} {', '.join(map(str, numbers))}: {reason}")
    return merged


def average(values: Sequence[float]) -> float | None:
    """Return the mean of these values. None if there are none."""
    return math.fsum(values) / len(values) if values else None


def numbers_and_seeds(lines: Lines) -> list[tuple[int, int | None, int | None]]:
    """Return the number and the seeds of each line or plane; see `axis_seeds`."""
    return [(number, *axis_seeds(part)) for number, part in lines]


def axis_seeds(part: pd.DataFrame) -> tuple[int | None, int | None]:
    """Return the seeds of a line's or plane's axes; None for an axis that does not exist or is not random."""
    first = part.iloc[0]
    seed_x, seed_y = (None if pd.isna(first[key]) else int(first[key]) for key in ("seed_x", "seed_y"))
    return seed_x, seed_y
