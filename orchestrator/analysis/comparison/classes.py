"""Compare the shares of degenerate successes of two sweeps."""

from __future__ import annotations

import math

from orchestrator.analysis.comparison.differences import ShareDifference
from orchestrator.analysis.results.sweep import SweepSummary


def compare_degenerate(first: SweepSummary, second: SweepSummary) -> ShareDifference:
    """Return the difference of two shares, second minus first.

    Shares are compared only if the same version of the judge `degenerate` counted both, and both rest on
    log-probabilities too (by the same version of that rule) or on texts alone. The interval of a difference of
    two corrected shares adds the squares of the distances to their ends (Zou and Donner, Statistics in Medicine 27,
    2008).
    """
    versions = first.degenerate_version, second.degenerate_version
    if None in versions or versions[0] != versions[1]:
        shown = " and ".join("an unknown one" if version is None else str(version) for version in versions)
        reason = (
            f"the shares of degenerate responses are not compared, because versions of the judge `degenerate` differ "
            f"({shown}): `reduce` judges both sweeps by the current one"
        )
        return ShareDifference(first=None, second=None, difference=None, reason=reason)
    rules = {first.log_probability_version, second.log_probability_version}
    if len(rules) == 2:
        which = "they rest on log-probabilities by different rules"
        if None in rules:
            which = "only one of them rests on log-probabilities too"
        reason = (
            f"the shares of degenerate responses are not compared, because {which}: "
            "`judge judging.log_probability=uncertain` measures what a sweep lacks"
        )
        return ShareDifference(first=None, second=None, difference=None, reason=reason)
    one, two = (None if summary.classes is None else summary.classes.corrected.known for summary in (first, second))
    if one is not None and two is not None:
        difference = two.value - one.value
        low = max(difference - math.hypot(two.value - two.low, one.high - one.value), -100.0)
        high = min(difference + math.hypot(two.high - two.value, one.value - one.low), 100.0)
        return ShareDifference(first=one.value, second=two.value, difference=difference, low=low, high=high)
    shares = first.degenerate_share, second.degenerate_share
    if shares[0] is None or shares[1] is None:
        return ShareDifference(first=shares[0], second=shares[1], difference=None, reason="no attack succeeded")
    reason = "the shares of degenerate responses are not corrected for the judge's errors: no interval"
    return ShareDifference(first=shares[0], second=shares[1], difference=shares[1] - shares[0], reason=reason)
