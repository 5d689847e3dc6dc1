"""Reasons why a point has no attack success rate, each as the end of a sentence about several such points."""

from __future__ import annotations

MISSING = "are missing"
NOT_FINITE = "have no finite response"
UNFINISHED = "have no finished thought"
UNANSWERED = "have no answer"

LACKS = {
    cause: cause.removeprefix("are ").removeprefix("have ") for cause in (MISSING, NOT_FINITE, UNFINISHED, UNANSWERED)
}
"""The cause without its verb: `missing`, `no finite response`, ..."""


def cause_of(n_nonfinite: int, n_unfinished: int) -> str:
    """Return why a point without a verdict has none, from the numbers of its responses that no judge judges."""
    if n_nonfinite and n_unfinished:
        return UNANSWERED
    if n_nonfinite:
        return NOT_FINITE
    return UNFINISHED if n_unfinished else MISSING


def count(number: int, cause: str) -> str:
    """Return a sentence on a number of points: `1 point is missing`, `2 points have no answer`."""
    if number == 1:
        return f"1 point {'is' if cause == MISSING else 'has'} {LACKS[cause]}"
    return f"{number} points {cause}"
