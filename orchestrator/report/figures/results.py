"""Draw the curves of all results of a sweep (prompt sets and judges) in one figure, if its grid consists of lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from orchestrator.analysis.basin import THRESHOLD
from orchestrator.analysis.landscape import combinations, mean_over_lines
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.report.figures.common import add_headline, add_inferred_markers, alpha_label, save
from orchestrator.report.measures import ATTACK_SUCCESS, OVER_REFUSAL, RIGHT_ANSWERS, measure_of
from orchestrator.report.style import (
    DASHED,
    DOTTED,
    FINE_DOTS,
    INK,
    LINE_MARGIN,
    PALE,
    RC_PARAMS,
    SERIES_COLORS,
    SERIES_MARKERS,
)

_DASHES: dict[str, Any] = {ATTACK_SUCCESS.kind: "-", OVER_REFUSAL.kind: DASHED, RIGHT_ANSWERS.kind: DOTTED}


def draw_results(landscape: pd.DataFrame, summary: SweepSummary, path: Path, title: str = "") -> None:
    """Draw every result of a sweep as its mean over lines into the file `path`.

    Shown are attacks that succeed, benign requests that are refused, and questions that are answered right. The bands
    are 95% intervals over new directions and probes; with one line, over new probes. A dotted line shows the percentage
    that letters drawn at random answer right, for each probe set with choices.
    """
    parts = combinations(landscape)
    curves = {result.key: result.curves for result in summary.results}
    varying = [
        name for name in ("probe_set", "system_prompt", "judge") if len({getattr(key, name) for key, _ in parts}) > 1
    ]
    several_groups = len({key.group for key, _ in parts}) > 1
    with plt.rc_context(RC_PARAMS):
        figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
        axes.axhline(THRESHOLD, color=PALE, lw=0.7, ls=FINE_DOTS, zorder=1)
        for i, (key, rows) in enumerate(parts):
            measure = measure_of(key.group)
            mean = measure.of(mean_over_lines(rows, curves[key]))
            label = ", ".join(getattr(key, name) for name in varying) or key.probe_set
            if several_groups:
                label = f"{label}: {measure.label}"
            color = SERIES_COLORS[i % len(SERIES_COLORS)]
            opacity = 0.1 if len(parts) < 4 else 0.04
            axes.fill_between(mean["alpha"], mean["low"], mean["high"], color=color, alpha=opacity, lw=0, zorder=2)
            axes.plot(
                mean["alpha"], mean["value"], color=color, lw=1.7, ls=_DASHES[measure.kind], label=label,
                marker=SERIES_MARKERS[i % len(SERIES_MARKERS)], ms=3.8, zorder=3, clip_on=False,
            )  # fmt: skip
            hollow = "hollow: inferred" if i == len(parts) - 1 else None
            add_inferred_markers(axes, mean, "value", color, 3.8, hollow, SERIES_MARKERS[i % len(SERIES_MARKERS)])
        _draw_chance(axes, summary)
        axes.set_xlim(float(landscape["alpha"].min()), float(landscape["alpha"].max()))
        axes.set_ylim(-LINE_MARGIN, 100 + LINE_MARGIN)
        axes.set_yticks(range(0, 101, 25))
        only_attacks = not several_groups and measure_of(parts[0][0].group) is ATTACK_SUCCESS
        axes.set(
            xlabel=alpha_label(summary), ylabel="attack success rate (%)" if only_attacks else "percent of prompts"
        )
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2, fontsize=8)
        add_headline(figure, summary, title)
        save(figure, path)


def _draw_chance(axes: Axes, summary: SweepSummary) -> None:
    """Draw the chance level of each probe set, one line for those that have the same."""
    names: dict[float, list[str]] = {}
    for result in summary.results:
        if result.chance is not None and result.probe_set not in names.setdefault(result.chance, []):
            names[result.chance].append(result.probe_set)
    for chance, probe_sets in names.items():
        label = f"{', '.join(probe_sets)}: chance, {chance:.3g}%"
        axes.axhline(chance, color=INK, lw=0.9, ls=FINE_DOTS, zorder=1.5, label=label)
