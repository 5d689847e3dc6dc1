"""Numbers as pages and terminals show them. Missing ones are words, not dashes; a minus is a minus sign."""

from __future__ import annotations

import math

from orchestrator.analysis.results.basin import BasinSummary
from orchestrator.analysis.results.scores import VisageSummary

NOT_MEASURED, UNKNOWN, UNDEFINED = "not measured", "unknown", "undefined"
_MINUS = "\N{MINUS SIGN}"


def format_number(value: float | None, digits: int = 1) -> str:
    """Return a number with this many decimals; NOT_MEASURED if it is None or NaN."""
    if value is None or math.isnan(value):
        return NOT_MEASURED
    return f"{value:.{digits}f}".replace("-", _MINUS)


def format_visage(visage: VisageSummary) -> str:
    """Return VISAGE; UNDEFINED if every attack succeeds at every measured point, NOT_MEASURED without such points."""
    is_undefined = visage.paper is None and visage.counted == 0 and bool(visage.points)
    return UNDEFINED if is_undefined else format_number(visage.paper)


def format_radius(basin: BasinSummary, digits: int) -> str:
    """Return the radius; `> 0.5` if the edge is farther away than that, UNKNOWN if nothing is known of it."""
    if basin.radius is None:
        return UNKNOWN if basin.censored_at is None else f"> {basin.censored_at:.2g}"
    return format_number(basin.radius, digits)


def format_signed(value: float) -> str:
    """Return a number with three significant digits and always with its sign."""
    return f"{value:+.3g}".replace("-", _MINUS)


def format_interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """Return `1.0 to 2.0`; UNKNOWN if the lower end is unknown, `1.0 to ∞` if the upper end is."""
    if low is None:
        return UNKNOWN
    return f"{format_number(low, digits)} to {'∞' if high is None else format_number(high, digits)}"
