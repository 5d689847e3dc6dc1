"""Colors, markers and line styles that all figures share.

The colors are those of Okabe and Ito, which people with any color vision can tell apart. What a color means is also
shown by a shape, a hatching or a label.
"""

from __future__ import annotations

from typing import Any

BLUE, VERMILION, YELLOW = "#0072B2", "#D55E00", "#F0E442"
INK, PALE = "#222222", "#777777"  # text and main lines; axes and guide lines
SERIES_COLORS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SERIES_MARKERS = ("o", "s", "^", "D", "v", "P")

COLORMAP = "cividis"  # for the attack success rate on a plane
DASHED, DOTTED, FINE_DOTS = (0, (4, 2)), (0, (1, 1)), (0, (1, 3))  # Matplotlib line styles
LINE_MARGIN = 2.5  # percent of free space below 0% and above 100%, so that markers are drawn whole

RC_PARAMS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "xtick.color": PALE,
    "ytick.color": PALE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "hatch.linewidth": 0.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "landscape",
    "pdf.fonttype": 42,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
"""Matplotlib settings of a figure for print. The fixed hash salt keeps SVG files reproducible."""
