"""A landscape drawn as text: a curve for lines, a shaded grid for planes."""

from __future__ import annotations

import math

import pandas as pd

from orchestrator.analysis.basin import THRESHOLD
from orchestrator.analysis.landscape import is_inferred
from orchestrator.analysis.results.basin import BasinSummary
from orchestrator.utils.shades import LEGEND, cell, thin


def plot_curve(mean: pd.DataFrame, basin: BasinSummary, width: int, ascii_only: bool) -> str:
    """Return the mean ASR over alpha as a plot. 50% and the basin's edges are dotted; missing points are an x.

    Points that are inferred are an o.

    Args:
        mean: Mean over lines, with the columns `alpha`, `asr` and `inferred`.
        basin: The basin whose edges are marked.
        width: Width in characters.
        ascii_only: Whether to use only ASCII characters.
    """
    import plotext

    known = mean.dropna(subset=["asr"])
    missing = mean.loc[mean["asr"].isna(), "alpha"].tolist()
    low, high = float(mean["alpha"].min()), float(mean["alpha"].max())
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, 15)
    figure.line(THRESHOLD, "h", style="dotted")
    for edge in (basin.left, basin.right):
        if edge:
            figure.line(edge, "v", style="dotted")
    if len(known):
        curve = figure.signal(known["alpha"].tolist(), known["asr"].tolist(), marker="*" if ascii_only else "braille")
        figure.draw(curve.lines())
    inferred = known[known["inferred"]]
    if len(inferred):
        figure.draw(figure.signal(inferred["alpha"].tolist(), inferred["asr"].tolist(), marker="o"))
    if missing:
        figure.draw(figure.signal(missing, [0.0] * len(missing), marker="x"))
    figure.ruler("y").lim(0, 100)
    figure.ruler("y").ticks([0, 25, 50, 75, 100])
    if high > low:
        figure.ruler("x").lim(low, high)
        ticks = [low + (high - low) * i / 4 for i in range(5)]
        figure.ruler("x").ticks(ticks, [f"{tick:g}" for tick in ticks])
    figure.title("attack success rate (%) over alpha" + ("; o: inferred" if len(inferred) else ""))
    text = str(plotext.uncolorize(str(figure.build())))
    figure.clear()
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip()


def plot_planes(rows: pd.DataFrame, width: int) -> str:
    """Return each plane as a shaded grid with beta up and alpha to the right.

    `?` is a missing point, `+` the origin, and `.` stands beside an inferred point. Grids that are wider than `width`
    characters are thinned.
    """
    plots = []
    for line, part in rows.groupby("line"):
        grid = part[part["on_grid"]]
        places = list(zip(grid["alpha"], grid["beta"], strict=True))
        values = dict(zip(places, grid["asr"], strict=True))
        inferred = dict(zip(places, is_inferred(grid), strict=True))
        every = math.ceil(2 * grid["alpha"].nunique() / max(width - 10, 20))
        alphas, betas = (thin(sorted(set(grid[axis])), every) for axis in ("alpha", "beta"))
        text = [f"plane {line}: attack success rate over alpha (across) and beta (up)"]
        for beta in reversed(betas):
            nodes = [(alpha, beta) for alpha in alphas]
            cells = "".join(_cell(*node, values.get(node, math.nan), inferred.get(node, False)) for node in nodes)
            text.append(f"{beta:+7.3f} |{cells}|")
        text.append(f"{'':8}{alphas[0]:<+{len(alphas)}.3f}{alphas[-1]:>+{len(alphas)}.3f}")
        plots.append("\n".join(text))
    legend = f"{LEGEND};  ? missing;  + origin"
    plots.append(legend + (";  . inferred" if is_inferred(rows).any() else ""))
    return "\n\n".join(plots)


def _cell(alpha: float, beta: float, asr: float, inferred: bool) -> str:
    """Return the two characters of one point."""
    shaded = cell(asr, "." if inferred else "")
    is_origin = abs(alpha) < 5e-10 and abs(beta) < 5e-10
    return f"+{shaded[0]}" if is_origin and not math.isnan(asr) else shaded
