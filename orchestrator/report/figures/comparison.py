"""The figure of a comparison: the mean curves of several sweeps on one pair of axes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from orchestrator.analysis.basin import THRESHOLD
from orchestrator.analysis.comparison.sweeps import ComparedSweep
from orchestrator.analysis.landscape import mean_over_lines
from orchestrator.report.figures.common import add_inferred_markers
from orchestrator.report.style import LINE_MARGIN, PALE, SERIES_COLORS, SERIES_MARKERS

_RC_PARAMS = {"svg.fonttype": "path", "svg.hashsalt": "compare", "font.size": 9, "text.parse_math": False}


def draw_comparison(sweeps: Sequence[ComparedSweep]) -> bytes:
    """Return the mean ASR of each sweep over alpha as an SVG, with 95% intervals; empty if a sweep is over planes."""
    if any(sweep.rows["beta"].notna().any() for sweep in sweeps):
        return b""
    with plt.rc_context(_RC_PARAMS):
        figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
        for i, sweep in enumerate(sweeps):
            color = SERIES_COLORS[i % len(SERIES_COLORS)]
            marker = SERIES_MARKERS[i % len(SERIES_MARKERS)]
            mean = mean_over_lines(sweep.rows, sweep.summary.primary_result.curves)
            label = textwrap.shorten(f"{i + 1}: {sweep.name}", 60, placeholder="...")
            axes.plot(mean["alpha"], mean["asr"], color=color, marker=marker, ms=4, label=label)
            add_inferred_markers(axes, mean, "asr", color, 4, None, marker)
            axes.fill_between(mean["alpha"], mean["asr_low"], mean["asr_high"], color=color, alpha=0.12, lw=0)
        axes.axhline(THRESHOLD, color=PALE, lw=0.7, ls=":")
        axes.set(ylim=(-LINE_MARGIN, 100 + LINE_MARGIN), xlabel="perturbation α", ylabel="attack success rate (%)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0))
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
        plt.close(figure)
    return stream.getvalue()
