"""Compare VISAGE or the mean margin of two sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from orchestrator.analysis import intervals, resampling, visage
from orchestrator.analysis.comparison.differences import ScoreDifference
from orchestrator.analysis.comparison.sweeps import ComparedSweep
from orchestrator.analysis.intervals import Error
from orchestrator.analysis.landscape import coordinates
from orchestrator.analysis.line_errors import error_over_directions, probe_arrays
from orchestrator.analysis.results.scores import MarginSummary, VisageIntervals, VisageSummary
from orchestrator.analysis.visage import Score

REDUCE_AGAIN = "it was reduced by an earlier version: `reduce` it again"
_DIFFERENCE_BOUNDS = (-100.0, 100.0)  # a difference of two scores


def compare_score(
    score: Score, pairs: pd.DataFrame, first: ComparedSweep, second: ComparedSweep, prompts: Sequence[str]
) -> ScoreDifference:
    """Return the difference over paired lines, points and probes, or of the summaries' scores if no line pairs."""
    for sweep in (first, second):
        inapplicable = visage.why_inapplicable(sweep.summary.grid)
        if inapplicable:
            return ScoreDifference.undefined(f"{score.name} is undefined for {sweep.name}: {inapplicable}")
    parts = [part for _, part in pairs[pairs["on_grid"] & pairs["on_grid_2"]].groupby("line", sort=True)]
    both = [[score.measure(coordinates(part), part[column]).value for column in ("asr", "asr_2")] for part in parts]
    lines = [part for part, values in zip(parts, both, strict=True) if None not in values]
    if not lines:
        return _compare_summary_scores(score, first, second)
    scores = np.array([values for values in both if None not in values], dtype=float)  # [line, sweep]
    if prompts:
        assert first.verdicts is not None and second.verdicts is not None
        one, positions = probe_arrays(lines, first.verdicts, prompts)
        two, _ = probe_arrays(lines, second.verdicts, prompts)
        on_shared = np.stack([resampling.score_of_lines(refused, score.from_margins) for refused in (one, two)], axis=1)
        defined = ~np.isnan(on_shared).any(axis=1)
        if not defined.any():
            return ScoreDifference.undefined(f"with the probes in common {score.name} is undefined")
        scores = on_shared[defined]
        lines = [part for part, is_defined in zip(lines, defined, strict=True) if is_defined]
        probes = resampling.difference_error_over_probes(
            one[defined],
            two[defined],
            positions[defined],
            score=score.from_margins,
            labels=first.verdicts.labels(prompts),
        )
        step = 100.0 / len(prompts)
    else:
        probes = _add_errors(score, first, second, "probes")
        step = 100.0 / min(first.summary.prompts, second.summary.prompts)
    differences = (scores[:, 1] - scores[:, 0]).tolist()
    directions = error_over_directions(list(enumerate(lines)), differences, step)
    one_mean, two_mean = scores.mean(axis=0).tolist()
    value = float(np.mean(differences))
    difference = _score_difference(value, (one_mean, two_mean), directions, probes, paired_lines=len(lines))
    left_out = sorted({int(part["line"].iloc[0]) for part in parts} - {int(part["line"].iloc[0]) for part in lines})
    if not left_out:
        return difference
    reasons = [
        f"{score.name} is undefined on line {', '.join(map(str, left_out))}, which is left out",
        difference.reason,
    ]
    return replace(difference, reason="; ".join(reason for reason in reasons if reason))


def _summary_score(score: Score, sweep: ComparedSweep) -> VisageSummary | MarginSummary | None:
    """Return the score in a sweep's summary. None if the summary is of a version that did not compute it."""
    stored: VisageSummary | MarginSummary | None = getattr(sweep.summary, score.key)
    return stored


def _compare_summary_scores(score: Score, first: ComparedSweep, second: ComparedSweep) -> ScoreDifference:
    """Return the difference of the scores in the two summaries, as if they were independent."""
    values = []
    for sweep in (first, second):
        stored = _summary_score(score, sweep)
        if stored is None:
            return ScoreDifference.undefined(f"{sweep.name}: {REDUCE_AGAIN}")
        if stored.value is None:
            return ScoreDifference.undefined(f"{sweep.name}: {stored.reason}")
        values.append(stored.value)
    directions, probes = (_add_errors(score, first, second, source) for source in ("directions", "probes"))
    return _score_difference(values[1] - values[0], (values[0], values[1]), directions, probes, paired_lines=0)


def _add_errors(score: Score, first: ComparedSweep, second: ComparedSweep, source: str) -> Error:
    """Return the error of the difference of two independent scores, over new `directions` or new `probes`.

    The squares of the standard errors add up (Welch 1947); the degrees of freedom are Satterthwaite's (1946).
    """
    stored = [_summary_score(score, sweep) for sweep in (first, second)]
    over = [None if entry is None else entry.over for entry in stored]
    errors = [getattr(entry, source) for entry in over if entry is not None]
    known = [(error.se, error.df) for error in errors if error.se is not None]
    if len(known) < 2:
        reason = next((error.reason for error in errors if error.reason), REDUCE_AGAIN)
        return Error(None, None, reason)
    total = sum(se**2 for se, _ in known)
    if total == 0.0:
        return Error(0.0, min(df for _, df in known))
    return Error(total**0.5, total**2 / sum(se**4 / df for se, df in known))


def _score_difference(
    value: float, scores: tuple[float, float], directions: Error, probes: Error, paired_lines: int
) -> ScoreDifference:
    """Return a difference with its intervals.

    Its p-value and the interval from `low` to `high` cover new directions and new probes if both errors are known,
    otherwise only the one that is known. They are None if no line pairs and the spread between directions is unknown,
    because the difference may then be one between directions.
    """
    over = VisageIntervals(
        directions=intervals.error_interval(value, directions, _DIFFERENCE_BOUNDS),
        probes=intervals.error_interval(value, probes, _DIFFERENCE_BOUNDS),
        both=intervals.interval(value, [directions, probes], _DIFFERENCE_BOUNDS),
    )
    errors = {"directions": directions, "probes": probes}
    known = {source: error for source, error in errors.items() if error.se is not None}
    about = "both" if len(known) == 2 else next(iter(known), None)
    reasons = [error.reason for error in errors.values() if error.reason]
    if not paired_lines and directions.se is None:
        about = None
        reasons.append("the sweeps share no direction, so their difference may be one between directions")
    return ScoreDifference(
        first=scores[0],
        second=scores[1],
        difference=value,
        low=getattr(over, about).low if about else None,
        high=getattr(over, about).high if about else None,
        p=intervals.p_value(value, list(known.values())) if about else None,
        p_corrected=None,
        about=about,
        over=over,
        paired_lines=paired_lines,
        reason="; ".join(reasons) or None,
    )
