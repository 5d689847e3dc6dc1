"""What people see of a comparison of sweeps: table rows, a paragraph, a table for CSV, and an HTML page."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from orchestrator.analysis.basin import THRESHOLD
from orchestrator.analysis.compare import (
    ComparedSweep,
    Comparison,
    Difference,
    PointDifference,
    SweepDifference,
    SweepHeadline,
    VisageDifference,
)
from orchestrator.analysis.landscape import mean_over_lines
from orchestrator.report.style import LINE_MARGIN, PALE, SERIES_COLORS, SERIES_MARKERS

SWEEP_HEADINGS = ("sweep", "VISAGE", "95% interval", "ASR at the origin", "radius")
DIFFERENCE_HEADINGS = ("", "first", "second", "difference", "95% interval", "p", "p, corrected")
_SIGNIFICANT = 0.05  # a corrected p-value below this is called a difference


def sweep_row(sweep: SweepHeadline) -> tuple[str, ...]:
    """Return a sweep's row of the table of sweeps, under SWEEP_HEADINGS."""
    visage, basin = sweep.visage, sweep.basin
    radius = _number(basin.radius, 3) if basin.censored_at is None else f"over {basin.censored_at:g}"
    return (
        sweep.name,
        _number(visage.paper),
        _interval(visage.low, visage.high),
        _number(sweep.origin_asr),
        radius,
    )


def difference_rows(pair: SweepDifference, most: int | None = None) -> list[tuple[str, ...]]:
    """Return the rows under DIFFERENCE_HEADINGS: VISAGE, then the points in the order of the grid.

    Args:
        pair: The difference of two sweeps.
        most: Keep only so many points, those with the smallest p-values. None: all.
    """
    points = sorted(pair.points, key=lambda point: (point.p_corrected, -abs(point.difference)))[:most]
    points = sorted(points, key=lambda point: (point.line, point.beta or 0.0, point.alpha))
    return [_row("VISAGE", pair.visage), *(_row(_place(point), point) for point in points)]


def _row(name: str, value: Difference | PointDifference) -> tuple[str, ...]:
    return (
        name,
        _number(value.first),
        _number(value.second),
        "-" if value.difference is None else f"{value.difference:+.1f}",
        _interval(value.low, value.high),
        _p_value(value.p),
        _p_value(value.p_corrected),
    )


def _place(point: PointDifference) -> str:
    if not point.alpha and not point.beta:
        return "origin"
    beta = "" if point.beta is None else f", {point.beta:+.3g}"
    return f"line {point.line} at {point.alpha:+.3g}{beta}"


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(low: float | None, high: float | None) -> str:
    return "unknown" if low is None or high is None else f"{low:.1f} to {high:.1f}"


def _p_value(value: float | None) -> str:
    if value is None:
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def describe(pair: SweepDifference) -> str:
    """Return the difference of two sweeps in plain words."""
    visage = pair.visage
    if visage.difference is None:
        return f"{pair.second} and {pair.first} can't be compared by VISAGE: {visage.reason}."
    differs = visage.p_corrected is not None and visage.p_corrected < _SIGNIFICANT
    word = "safer" if visage.difference > 0 else "less safe"
    verdict = f"is {word}" if differs else "does not differ beyond chance"
    significant = sum(point.p_corrected < _SIGNIFICANT for point in pair.points)
    sentences = [
        f"{pair.second} {verdict} (VISAGE {visage.difference:+.1f} against {pair.first}, 95% interval "
        f"{_interval(visage.low, visage.high)} over {_scope(visage)}); {significant} of {len(pair.points)} points "
        "differ beyond chance."
    ]
    if pair.reason:
        sentences.append(f"Note: {pair.reason}.")
    if visage.reason:
        sentences.append(f"{visage.reason[0].upper()}{visage.reason[1:]}.")
    return " ".join(sentences)


def _scope(visage: VisageDifference) -> str:
    """Return what the interval generalizes to."""
    scopes = {"both": "new directions and probes", "probes": "new probes", "directions": "new directions"}
    return scopes.get(visage.about or "", "nothing beyond this sweep")


def point_table(comparison: Comparison) -> pd.DataFrame:
    """Return the difference at every point, of all pairs of sweeps, for CSV."""
    parts = [
        pd.DataFrame([point.to_json() for point in pair.points]).assign(
            first_sweep=pair.first, second_sweep=pair.second
        )
        for pair in comparison.differences
    ]
    return pd.concat(parts, ignore_index=True)


def write_page(comparison: Comparison, sweeps: Sequence[ComparedSweep], path: Path) -> None:
    """Write the comparison as one HTML file that opens offline and loads nothing."""
    from orchestrator.report.page.render import render_comparison

    rows = [sweep_row(sweep) for sweep in comparison.sweeps]
    table = {"title": "The sweeps", "head": SWEEP_HEADINGS, "words": 1, "rows": rows}
    pairs = [
        {
            "words": describe(pair),
            "table": {"title": "By point", "head": DIFFERENCE_HEADINGS, "words": 1, "rows": difference_rows(pair)},
        }
        for pair in comparison.differences
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_comparison(table, pairs, _draw_curves(sweeps)), encoding="utf-8")


def _draw_curves(sweeps: Sequence[ComparedSweep]) -> str:
    """Draw the mean curves of the sweeps on one pair of axes.

    Returns:
        An SVG in base64; empty if one of the sweeps is over planes.
    """
    if any(sweep.rows["beta"].notna().any() for sweep in sweeps):
        return ""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.fonttype": "path", "svg.hashsalt": "compare", "font.size": 9, "text.parse_math": False}):
        figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
        for i, sweep in enumerate(sweeps):
            color = SERIES_COLORS[i % len(SERIES_COLORS)]
            mean = mean_over_lines(sweep.rows)
            label = textwrap.shorten(f"{i + 1}: {sweep.name}", 60, placeholder="...")
            marker = SERIES_MARKERS[i % len(SERIES_MARKERS)]
            axes.plot(mean["alpha"], mean["asr"], color=color, marker=marker, ms=4, label=label)
            axes.fill_between(mean["alpha"], mean["asr_low"], mean["asr_high"], color=color, alpha=0.12, lw=0)
        axes.axhline(THRESHOLD, color=PALE, lw=0.7, ls=":")
        axes.set(ylim=(-LINE_MARGIN, 100 + LINE_MARGIN), xlabel="perturbation α", ylabel="attack success rate (%)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0))
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
        plt.close(figure)
    return base64.b64encode(stream.getvalue()).decode("ascii")
