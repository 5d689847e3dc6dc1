"""Words that all reports use about VISAGE and the mean margin."""

from __future__ import annotations

from orchestrator.analysis.results.scores import VisageIntervals, VisageSummary

RANGE = "[-0.5, 0.5]"
"""The range of alpha, and on planes of beta, over which both scores are means."""


def counted_points(visage: VisageSummary) -> str | None:
    """Return the number of points behind VISAGE, as `7 of 21 points`. None in a summary of an earlier version."""
    if visage.points is None:
        return None
    return f"{visage.counted} of {visage.points} points"


def widest_interval(over: VisageIntervals | None) -> tuple[float, float, str] | None:
    """Return the interval that covers most: its ends in percent, and the variation that it covers.

    None if no interval of the score is known.
    """
    if over is None:
        return None
    known = (
        ("new directions and probes", over.both),
        ("new directions", over.directions),
        ("new probes", over.probes),
    )
    for name, interval in known:
        if interval.low is not None and interval.high is not None:
            return interval.low, interval.high, name
    return None


def interval_text(over: VisageIntervals | None) -> str | None:
    """Return the same interval as `95% interval 12.0 to 28.0 over new probes`. None if none is known."""
    widest = widest_interval(over)
    return None if widest is None else f"95% interval {widest[0]:.1f} to {widest[1]:.1f} over {widest[2]}"
