"""Tables for LaTeX documents, with the rules of the package booktabs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.analysis.recomputation import checked_results
from orchestrator.analysis.results.sweep import ResultSummary
from orchestrator.report.scores import widest_interval
from orchestrator.store.sweep_folder import StoredSweep

HEADINGS = ("probe set", "system prompt", "judge", "ASR at the origin", "VISAGE", "mean margin", "radius")
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def write(stored: StoredSweep, path: Path) -> None:
    """Write one row for each result of a sweep, with the 95% intervals in brackets."""
    summary = checked_results(stored).parsed()[1]
    caption = (
        f"Safety landscape of {summary.model}: {summary.points_done} of {summary.points_total} points. In percent, "
        "except the radius. In brackets: 95% intervals; those of VISAGE and the mean margin cover new directions and "
        "new probes as far as the sweep can tell."
    )
    path.write_text(table(HEADINGS, [_row(result) for result in summary.results], caption), encoding="utf-8")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    r"""Return a table environment of LaTeX. It needs `\usepackage{booktabs}`.

    Args:
        headings: The heading of each column, as plain text.
        rows: The cells, as plain text. The first column is to the left, the others are to the right.
        caption: The caption, as plain text.
    """
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{escaped(caption)}}}",
        f"  \\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        r"    \toprule",
        _line(headings),
        r"    \midrule",
        *(_line(row) for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return plain text such that LaTeX prints it as it is. Line breaks become spaces."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(text.split()))


def _line(cells: Sequence[str]) -> str:
    return f"    {' & '.join(escaped(cell) for cell in cells)} \\\\"


def _row(result: ResultSummary) -> tuple[str, ...]:
    visage, margin, basin = result.visage, result.margin, result.basin
    if basin.radius is not None:
        radius = _with_interval(basin.radius, basin.radius_low, basin.radius_high, 3)
    else:
        radius = "unknown" if basin.censored_at is None else f"over {basin.censored_at:g}"
    over = widest_interval(visage.over)
    over_margin = None if margin is None else widest_interval(margin.over)
    return (
        result.probe_set,
        result.system_prompt,
        result.judge,
        _with_interval(result.origin_asr, result.origin_low, result.origin_high),
        _with_interval(visage.paper, *(over[:2] if over else (None, None))),
        _with_interval(None if margin is None else margin.value, *(over_margin[:2] if over_margin else (None, None))),
        radius,
    )


def _with_interval(value: float | None, low: float | None, high: float | None, digits: int = 1) -> str:
    if value is None:
        return "unknown"
    number = f"{value:.{digits}f}"
    if low is None:
        return number
    return f"{number} [{low:.{digits}f}, {'unknown' if high is None else f'{high:.{digits}f}'}]"
