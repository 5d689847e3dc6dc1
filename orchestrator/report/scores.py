"""Words that all reports use about VISAGE and the mean margin."""

from __future__ import annotations

from orchestrator.analysis.results.scores import VisageIntervals, VisageSummary
from orchestrator.analysis.results.sweep import AdaptiveSummary

RANGE = "[-0.5, 0.5]"
"""The range of alpha, and on planes of beta, over which both scores are means."""


def counted_points(visage: VisageSummary) -> str | None:
    """Return the number of points behind VISAGE, as `7 of 21 points`. None in a summary of an earlier version.

    Inferred points are counted too, and named: `7 of 21 points (inferred: 2 of the 7, 8 of the 21)`.
    """
    if visage.points is None or visage.counted is None:
        return None
    counted = visage.counted + visage.inferred_counted
    points = f"{counted} of {visage.all_points} points"
    if not visage.inferred:
        return points
    inferred = f"{visage.inferred_counted} of the {counted}, {visage.inferred} of the {visage.all_points}"
    return f"{points} (inferred: {inferred})"


def measured_points(adaptive: AdaptiveSummary) -> str:
    """Return how many points of an adaptive sweep are measured and inferred, and how the audit ended."""
    text = f"measured {adaptive.measured} of {adaptive.points} points, {inferred_points(adaptive)}"
    if not adaptive.unrequested:
        return text
    return f"{text}; {adaptive.unrequested} measured without need, on speculation or by another sweep"


def inferred_points(adaptive: AdaptiveSummary) -> str:
    """Return how many points are inferred and how the audit ended, as `190 inferred (10 audited, ...)`."""
    text = f"{adaptive.inferred} inferred"
    if not adaptive.audited:
        return text
    differed = "none differed" if not adaptive.failed_audits else f"{adaptive.failed_audits} differed"
    return f"{text} ({adaptive.audited} audited, {differed} beyond chance)"


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
