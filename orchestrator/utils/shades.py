"""Percentages of a plane drawn as characters, for the running display and for results in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

SHADES = " ░▒▓█"
ASCII_SHADES = " .:*#"
_BOUNDS = (10, 40, 60, 90)  # percent
LEGEND = f"[{'] ['.join(SHADES)}]  0-10, 10-40, 40-60, 60-90, 90-100%"


def cell(percent: float, mark: str = "") -> str:
    """Return the two characters of a node: its shade twice, or once beside a mark. `??` for NaN."""
    if math.isnan(percent):
        return "??"
    shade = SHADES[sum(percent >= bound for bound in _BOUNDS)]
    return f"{shade}{mark or shade}"


def thin(values: Sequence[float], every: int) -> list[float]:
    """Return every n-th value, counted from the one nearest to 0 so that the origin is kept."""
    center = min(range(len(values)), key=lambda i: abs(values[i]))
    return [v for i, v in enumerate(values) if (i - center) % every == 0]
