"""Present a comparison of sweeps: table rows, a paragraph, a table for CSV, and an HTML page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.analysis.comparison.differences import (
    Comparison,
    Difference,
    PointDifference,
    ScoreDifference,
    ShareDifference,
    SweepDifference,
    SweepHeadline,
)
from orchestrator.analysis.comparison.sweeps import ComparedSweep
from orchestrator.analysis.results.scores import VisageIntervals
from orchestrator.report.formatting import UNDEFINED, UNKNOWN, format_number, format_radius, format_visage

SWEEP_HEADINGS = ("sweep", "VISAGE", "95% interval", "mean margin", "95% interval", "ASR at the origin", "radius")
DIFFERENCE_HEADINGS = ("score or point", "first", "second", "difference", "95% interval", "p", "p, corrected")
_SIGNIFICANT = 0.05  # a corrected p-value below this is called a difference


def sweep_row(sweep: SweepHeadline) -> tuple[str, ...]:
    """Return the cells of one sweep in the table of sweeps, one for each of SWEEP_HEADINGS.

    Both intervals are over new directions and probes, as those of the differences.
    """
    visage, margin = sweep.visage, sweep.margin
    return (
        sweep.name,
        format_visage(visage),
        _over_both(visage.over),
        format_number(None if margin is None else margin.value),
        _over_both(None if margin is None else margin.over),
        format_number(sweep.origin_asr),
        format_radius(sweep.basin, 3),
    )


def _over_both(over: VisageIntervals | None) -> str:
    return _interval(None, None) if over is None else _interval(over.both.low, over.both.high)


def difference_rows(pair: SweepDifference, most: int | None = None) -> list[tuple[str, ...]]:
    """Return the rows under DIFFERENCE_HEADINGS: VISAGE, the mean margin, then the points in the order of the grid.

    Args:
        pair: The difference of two sweeps.
        most: Maximum number of points to keep, those with the smallest p-values. None: all.
    """
    points = sorted(pair.points, key=lambda point: (point.p_corrected, -abs(point.difference)))[:most]
    points = sorted(points, key=lambda point: (point.line, point.beta or 0.0, point.alpha))
    scores = [_row("VISAGE", pair.visage), _row("mean margin", pair.margin)]
    shares = [] if pair.degenerate is None else [_share_row(pair.degenerate)]
    return [*scores, *shares, *(_row(_place(point), point) for point in points)]


def _row(name: str, value: Difference | PointDifference) -> tuple[str, ...]:
    return (
        name,
        _percent(value.first),
        _percent(value.second),
        _difference(value.difference),
        _interval(value.low, value.high),
        _p_value(value.p),
        _p_value(value.p_corrected),
    )


def _share_row(value: ShareDifference) -> tuple[str, ...]:
    """Return the row of the share of degenerate successes, which has no p-value."""
    shares = _percent(value.first), _percent(value.second), _difference(value.difference)
    return ("degenerate successes", *shares, _interval(value.low, value.high), "not tested", "not tested")


def _place(point: PointDifference) -> str:
    if not point.alpha and not point.beta:
        return "origin"
    beta = "" if point.beta is None else f", {point.beta:+.3g}"
    return f"line {point.line} at {point.alpha:+.3g}{beta}"


def _percent(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.1f}"


def _difference(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:+.1f}"


def _interval(low: float | None, high: float | None) -> str:
    return UNKNOWN if low is None or high is None else f"{low:.1f} to {high:.1f}"


def _p_value(value: float | None) -> str:
    if value is None:
        return "not tested"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def describe(pair: SweepDifference) -> str:
    """Return the difference of two sweeps as a paragraph of text."""
    visage = pair.visage
    if visage.difference is None:
        return f"{pair.second} and {pair.first} cannot be compared by VISAGE: {visage.reason}."
    significant = sum(point.p_corrected < _SIGNIFICANT for point in pair.points)
    sentences = [
        f"{pair.second} {_verdict(visage)} (VISAGE {visage.difference:+.1f} against {pair.first}, 95% interval "
        f"{_interval(visage.low, visage.high)} over {_scope(visage)}); {significant} of {len(pair.points)} points "
        "differ beyond chance."
    ]
    margin = pair.margin
    if margin.difference is not None:
        sentences.append(
            f"The mean margin differs by {margin.difference:+.1f} (95% interval {_interval(margin.low, margin.high)} "
            f"over {_scope(margin)})."
        )
    if pair.reason:
        sentences.append(f"Note: {pair.reason}.")
    if pair.degenerate is not None and pair.degenerate.reason:
        sentences.append(f"{pair.degenerate.reason[0].upper()}{pair.degenerate.reason[1:]}.")
    if visage.reason:
        sentences.append(f"{visage.reason[0].upper()}{visage.reason[1:]}.")
    return " ".join(sentences)


def _verdict(visage: ScoreDifference) -> str:
    """Return the verdict on a difference of VISAGE. Only one that covers new directions is about the models."""
    along = "this direction" if visage.paired_lines == 1 else "these directions"
    if visage.p_corrected is None:
        return "may or may not differ"
    if visage.p_corrected >= _SIGNIFICANT:
        return "does not differ beyond chance" + (f" along {along}" if visage.about == "probes" else "")
    if visage.about == "probes":
        return f"differs along {along}; nothing is known about others"
    assert visage.difference is not None
    return f"is {'safer' if visage.difference > 0 else 'less safe'}"


def _scope(score: ScoreDifference) -> str:
    """Return the variation that the interval covers, as text: new directions, new probes, both or neither."""
    scopes = {"both": "new directions and probes", "probes": "new probes", "directions": "new directions"}
    return scopes.get(score.about or "", "nothing beyond this sweep")


def point_table(comparison: Comparison) -> pd.DataFrame:
    """Return a table for CSV with the differences at every point, for all pairs of sweeps."""
    parts = [
        pd.DataFrame([point.to_json() for point in pair.points]).assign(
            first_sweep=pair.first, second_sweep=pair.second
        )
        for pair in comparison.differences
    ]
    return pd.concat(parts, ignore_index=True)


def latex_table(comparison: Comparison) -> str:
    """Return the rows of the sweeps, and of the differences of their scores, as two tables for a LaTeX document."""
    from orchestrator.report.exports.latex import table

    rows = [sweep_row(sweep) for sweep in comparison.sweeps]
    differences = [
        (f"{pair.second} against {pair.first}", *row)
        for pair in comparison.differences
        for row in (_row("VISAGE", pair.visage), _row("mean margin", pair.margin))
    ]
    sweeps = table(SWEEP_HEADINGS, rows, "The sweeps. In percent, except the radius, with 95% intervals.")
    caption = "Differences of the scores, in percent, with 95% intervals."
    return sweeps + "\n" + table(("sweeps", "score", *DIFFERENCE_HEADINGS[1:]), differences, caption)


def comparison_content(comparison: Comparison, sweeps: Sequence[ComparedSweep]) -> dict[str, Any]:
    """Return the values of the template compare.html.

    `sweeps` is the table of sweeps. `pairs` has, for each sweep but the first, a paragraph and a table on its
    difference from the first. `figure` is an SVG in base64; empty: no figure.
    """
    from orchestrator.report.figures.comparison import draw_comparison
    from orchestrator.report.page.tables import Table

    rows = [sweep_row(sweep) for sweep in comparison.sweeps]
    return {
        "count": len(rows),
        "sweeps": Table("The sweeps", SWEEP_HEADINGS, rows, words=1),
        "pairs": [
            (describe(pair), Table(f"Sweep {i}, by point", DIFFERENCE_HEADINGS, difference_rows(pair), words=1))
            for i, pair in enumerate(comparison.differences, 2)
        ],
        "figure": base64.b64encode(draw_comparison(sweeps)).decode("ascii"),
    }


def write_page(comparison: Comparison, sweeps: Sequence[ComparedSweep], path: Path) -> None:
    """Write the comparison as one HTML file that works offline and loads nothing from a network."""
    from orchestrator.report.page.render import render_comparison

    path.write_text(render_comparison(comparison_content(comparison, sweeps)), encoding="utf-8")
