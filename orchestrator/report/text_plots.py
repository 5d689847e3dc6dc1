"""A landscape drawn as text: a curve for lines, a shaded grid for planes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from orchestrator.analysis.basin import THRESHOLD
from orchestrator.analysis.results.basin import BasinSummary

SHADES = " ░▒▓█"
_SHADE_BOUNDS = (10, 40, 60, 90)  # percent


def plot_curve(mean: pd.DataFrame, basin: BasinSummary, width: int, ascii_only: bool) -> str:
    """Return the mean ASR over alpha as a plot. 50% and the basin's edges are dotted; missing points are an x.

    Args:
        mean: Mean over lines, with the columns `alpha` and `asr`.
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
    if missing:
        figure.draw(figure.signal(missing, [0.0] * len(missing), marker="x"))
    figure.ruler("y").lim(0, 100)
    figure.ruler("y").ticks([0, 25, 50, 75, 100])
    if high > low:
        figure.ruler("x").lim(low, high)
        ticks = [low + (high - low) * i / 4 for i in range(5)]
        figure.ruler("x").ticks(ticks, [f"{tick:g}" for tick in ticks])
    figure.title("attack success rate (%) over alpha")
    text = str(plotext.uncolorize(str(figure.build())))
    figure.clear()
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip()


def plot_planes(rows: pd.DataFrame, width: int) -> str:
    """Return each plane as a shaded grid with beta up and alpha to the right.

    `?` is a missing point, `+` the origin. Grids that are wider than `width` characters are thinned.
    """
    plots = []
    for line, part in rows.groupby("line"):
        grid = part[part["on_grid"]]
        values = dict(zip(zip(grid["alpha"], grid["beta"], strict=True), grid["asr"], strict=True))
        every = math.ceil(2 * grid["alpha"].nunique() / max(width - 10, 20))
        alphas, betas = (_thin(sorted(set(grid[axis])), every) for axis in ("alpha", "beta"))
        text = [f"plane {line}: attack success rate over alpha (across) and beta (up)"]
        for beta in reversed(betas):
            cells = "".join(_cell(alpha, beta, values.get((alpha, beta), math.nan)) for alpha in alphas)
            text.append(f"{beta:+7.3f} |{cells}|")
        text.append(f"{'':8}{alphas[0]:<+{len(alphas)}.3f}{alphas[-1]:>+{len(alphas)}.3f}")
        plots.append("\n".join(text))
    plots.append(f"[{'] ['.join(SHADES)}]  0-10, 10-40, 40-60, 60-90, 90-100%;  ? missing;  + origin")
    return "\n\n".join(plots)


def _thin(values: Sequence[float], every: int) -> list[float]:
    """Return every n-th value, counted from the one nearest to 0 so that the origin is kept."""
    center = min(range(len(values)), key=lambda i: abs(values[i]))
    return [v for i, v in enumerate(values) if (i - center) % every == 0]


def _cell(alpha: float, beta: float, asr: float) -> str:
    """Return the two characters of one point."""
    if math.isnan(asr):
        return "??"
    shade = SHADES[sum(asr >= bound for bound in _SHADE_BOUNDS)]
    is_origin = abs(alpha) < 5e-10 and abs(beta) < 5e-10
    return "+" + shade if is_origin else 2 * shade
