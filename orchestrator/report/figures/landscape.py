"""The figure of a sweep's primary result: ASR curves along lines, or one filled contour plot for each plane."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from orchestrator.analysis.basin import THRESHOLD
from orchestrator.analysis.landscape import mean_over_lines, primary_rows, with_inferred
from orchestrator.analysis.results.basin import BasinSummary
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.report.figures.common import (
    add_checkpoints,
    add_headline,
    add_inferred_markers,
    alpha_label,
    save,
)
from orchestrator.report.figures.planes import draw_planes
from orchestrator.report.style import BLUE, DASHED, FINE_DOTS, INK, LINE_MARGIN, PALE, RC_PARAMS, VERMILION, YELLOW


def draw_landscape(landscape: pd.DataFrame, summary: SweepSummary, path: Path, title: str = "") -> None:
    """Draw the primary result into the file `path`."""
    if primary_rows(landscape)["beta"].isna().all():
        draw_lines(landscape, summary, path, title)
    else:
        draw_planes(landscape, summary, path, title)


def draw_lines(landscape: pd.DataFrame, summary: SweepSummary, path: Path, title: str = "") -> None:
    """Draw ASR along alpha (each line thin, their mean bold, its band) above the outcomes of the responses.

    The band is the 95% interval of the mean over new directions and probes; with one line, over new probes. Missing
    points leave gaps.
    """
    rows = with_inferred(primary_rows(landscape))
    lines = [part.sort_values("alpha") for _, part in rows.groupby("line")]
    curves = summary.primary_result.curves
    mean = mean_over_lines(rows, curves)
    with plt.rc_context(RC_PARAMS):
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(6.4, 5.2), sharex=True, height_ratios=[3, 1.25], layout="constrained"
        )
        low, high = float(rows["alpha"].min()), float(rows["alpha"].max())
        label_height = 92 if landscape["mark"].isna().all() else 64  # below the names of checkpoints
        _mark_edges((top, bottom), summary.basin, high - low, label_height)
        _draw_curves(top, lines, mean, f"95% interval over {curves[0].over}" if curves else "95% interval")
        _draw_outcomes(bottom, mean)
        bottom.set_xlim(low, high)
        bottom.set_xlabel(alpha_label(summary))
        add_headline(figure, summary, title)
        figure.draw_without_rendering()  # lays the figure out: names are placed by where their markers are
        add_checkpoints(top, landscape)
        save(figure, path)


def _draw_curves(axes: Axes, lines: list[pd.DataFrame], mean: pd.DataFrame, band: str) -> None:
    """Draw the ASR of each line, their mean with its interval, and the responses that are called degenerate."""
    axes.axhline(THRESHOLD, color=PALE, lw=0.7, ls=FINE_DOTS, zorder=1)
    axes.fill_between(
        mean["alpha"], mean["asr_low"], mean["asr_high"], color=BLUE, alpha=0.16, lw=0, zorder=2, label=band
    )
    if len(lines) > 1:
        for k, part in enumerate(lines):
            label = "each direction" if k == 0 else None
            axes.plot(part["alpha"], part["asr"], color=BLUE, lw=0.8, alpha=0.5, zorder=3, label=label)
    label = "mean" if len(lines) > 1 else "ASR"
    axes.plot(mean["alpha"], mean["asr"], color=BLUE, lw=2.2, marker="o", ms=3.6, zorder=4, label=label, clip_on=False)
    add_inferred_markers(axes, mean, "asr", BLUE, 3.6, "inferred" if len(lines) == 1 else "inferred on a line")
    judged = mean[~mean["inferred"]]  # inferred points have no classes
    axes.plot(judged["alpha"], judged["degenerate"], color=INK, lw=1.1, ls=DASHED, zorder=3, label="called degenerate")
    gaps = mean.loc[mean["asr"].isna(), "alpha"]
    if len(gaps):
        axes.plot(gaps, [0] * len(gaps), "x", color=VERMILION, ms=5, clip_on=False, zorder=5, label="missing")
    axes.set_ylim(-LINE_MARGIN, 100 + LINE_MARGIN)
    axes.set_yticks(range(0, 101, 25))
    axes.set_ylabel("attack success rate (%)")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2, handlelength=1.8)


def _draw_outcomes(axes: Axes, mean: pd.DataFrame) -> None:
    """Draw the shares of the four classes of responses, stacked to 100%; gaps at points that were not measured."""
    fills: dict[str, dict[str, Any]] = {
        "refused": {"facecolor": BLUE, "alpha": 0.85},
        "complied": {"facecolor": VERMILION, "alpha": 0.9},
        "unclear": {"facecolor": YELLOW, "alpha": 0.9},
        "degenerate": {"facecolor": "#EDEDED", "edgecolor": PALE, "hatch": "////"},
    }
    mean = mean[~mean["inferred"]]  # inferred points have no classes: draw from one measured point to the next
    floor = np.zeros(len(mean))
    for name, fill in fills.items():
        ceiling = floor + mean[name].to_numpy()
        axes.fill_between(mean["alpha"], floor, ceiling, lw=0, label=name, **fill)
        floor = ceiling
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 50, 100])
    axes.set_ylabel("responses (%)")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, borderaxespad=0.2, handlelength=1.4)


def _mark_edges(both: tuple[Axes, Axes], basin: BasinSummary, width: float, label_height: float) -> None:
    """Draw dashed lines at the basin's edges and label them with alpha.

    Args:
        both: The axes of the curves, which get the labels, and those of the outcomes.
        basin: The summary's basin.
        width: The range of alpha.
        label_height: Height of the labels in percent where they fit inside the basin; otherwise they are outside it,
            near the bottom.
    """
    if not basin.radius:
        return
    edges = {side: edge for side, edge in (("left", basin.left), ("right", basin.right)) if edge is not None}
    inside = len(edges) < 2 or edges["right"] - edges["left"] > 0.22 * width
    for side, edge in edges.items():
        for axes in both:
            axes.axvline(edge, color=INK, lw=0.9, ls=(0, (5, 3)), zorder=2)
        to_the_right = (side == "left") == inside
        both[0].annotate(
            f"{edge:+.2f}".replace("-", "\N{MINUS SIGN}"),
            (edge, label_height if inside else 8),
            xytext=(5 if to_the_right else -5, 0),
            textcoords="offset points",
            ha="left" if to_the_right else "right",
            va="center",
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
            zorder=6,
        )
