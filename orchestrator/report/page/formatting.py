"""Numbers as a page shows them. Undefined values are a dash; a minus is a minus sign, not a hyphen."""

from __future__ import annotations

import math

UNKNOWN = "–"
_MINUS = "\N{MINUS SIGN}"


def format_number(value: float | None, digits: int = 1) -> str:
    """Return a number with this many decimals; a dash if it is None or NaN."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{value:.{digits}f}".replace("-", _MINUS)


def format_signed(value: float) -> str:
    """Return a number with three significant digits and always with its sign."""
    return f"{value:+.3g}".replace("-", _MINUS)


def format_interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """Return `1.0 to 2.0`; a dash if the lower end is unknown, `1.0 to ∞` if the upper end is."""
    if low is None:
        return UNKNOWN
    return f"{format_number(low, digits)} to {'∞' if high is None else format_number(high, digits)}"
