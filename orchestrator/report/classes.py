"""Words that all reports use about the share of degenerate responses."""

from __future__ import annotations

from orchestrator.analysis.results.classes import KnownShare
from orchestrator.analysis.results.sweep import ResultSummary, SweepSummary

UNCORRECTED = "not corrected for the judge's errors"
WHAT = "empty, repetitive or not language"


def corrected_share(result: ResultSummary | SweepSummary) -> KnownShare | None:
    """Return the corrected share of degenerate successes. None if it could not be corrected."""
    return None if result.classes is None else result.classes.corrected.known


def uncorrected_note(result: ResultSummary | SweepSummary) -> str:
    """Return that the share is not corrected, and why if that is known."""
    reason = None if result.classes is None else result.classes.corrected.reason
    return UNCORRECTED if reason is None else f"{UNCORRECTED} ({reason})"


def degenerate_text(result: ResultSummary | SweepSummary) -> str | None:
    """Return the share of degenerate responses as `92% [88 to 96]`, or uncorrected as `at least 65%`.

    None if there is no success.
    """
    share, known = result.degenerate_share, corrected_share(result)
    if share is None:
        return None
    return f"at least {share:.0f}%" if known is None else f"{known.value:.0f}% [{known.low:.0f} to {known.high:.0f}]"


def degenerate_sentence(summary: SweepSummary) -> str:
    """Return the sentences on the classes of the primary result's successes."""
    share, classes, known = summary.degenerate_share, summary.classes, corrected_share(summary)
    if share is None:
        return "No attack succeeded anywhere." if summary.points_done else ""
    unclear = f"; of {classes.unclear:.0f}% the judge cannot tell" if classes is not None and classes.unclear else ""
    if classes is None or known is None:
        note = f"{uncorrected_note(summary)}{unclear}"
        text = f"Of the successes, at least {share:.0f}% are degenerate ({WHAT}), {note}."
    else:
        text = (
            f"Of the successes, {known.value:.0f}% are degenerate ({WHAT}; 95% interval {known.low:.0f} to "
            f"{known.high:.0f}%, corrected for the judge's errors by the calibration {classes.corrected.calibration}); "
            f"the judge itself calls {share:.0f}% degenerate{unclear}."
        )
    value = share if known is None else known.value
    meaning = " There the model lost its language rather than its safety." if value >= 50 else ""
    return f"{text}{meaning}{_evidence(summary)}"


def _evidence(summary: SweepSummary) -> str:
    """Return a sentence on what the classes rest on, after a space. Empty for a summary of an earlier version."""
    counted = summary.log_probability
    if counted is None:
        return ""
    if summary.log_probability_version is None:
        measured = f", although {counted.measured} have a log-probability" if counted.measured else ""
        return f" The classes of all responses rest on the text alone{measured}."
    others = [f"{counted.decided} refusals"] if counted.decided else []
    if counted.missing:  # the rule decides these by the text alone
        others.append(f"{counted.missing} responses whose text is certain")
    note = f"; {' and '.join(others)} need none" if others else ""
    return f" The classes rest on text and log-probability ({counted.measured} responses{note})."
