"""The figure of a primary result over planes: one filled contour plot of ASR for each plane."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchestrator.analysis.basin import THRESHOLD
from orchestrator.analysis.landscape import is_inferred, primary_rows, with_inferred
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.report.figures.common import add_checkpoints, add_headline, save
from orchestrator.report.style import COLORMAP, INK, PALE, RC_PARAMS, VERMILION

_GAP, _HEAD, _FOOT, _LEFT, _RIGHT = 0.3, 1.1, 0.5, 0.65, 0.85  # inches between and around the planes
_MAX_COLUMNS = 3
_INFERRED: dict[str, Any] = {"marker": "o", "ms": 2.4, "mfc": "none", "mec": "#808080", "mew": 0.5}


def draw_planes(landscape: pd.DataFrame, summary: SweepSummary, path: Path, title: str = "") -> None:
    """Draw ASR over each plane as filled contours, with the 50% line and the origin; holes at missing points.

    Inferred points are small hollow circles.
    """
    rows = with_inferred(primary_rows(landscape))
    planes = list(rows.groupby("line"))
    layout = _Layout(len(planes))
    with plt.rc_context(RC_PARAMS):
        figure = plt.figure(figsize=(layout.width, layout.height))
        for i, (line, part) in enumerate(planes):
            axes = figure.add_axes(layout.plane(i))
            contours = _draw_plane(axes, part)
            add_checkpoints(axes, landscape, int(str(line)))
            axes.set(xlabel="α" if layout.is_lowest(i) else "", ylabel="β" if layout.is_leftmost(i) else "")
            axes.tick_params(labelbottom=layout.is_lowest(i), labelleft=layout.is_leftmost(i))
        origin = Line2D([], [], color="white", marker="*", ms=8, mec=INK, mew=0.8, ls="none", label="origin")
        handles = [origin]
        if is_inferred(rows).any():
            handles.append(Line2D([], [], label="inferred, not measured", ls="none", **_INFERRED))
        figure.axes[0].legend(handles=handles, loc="upper right", framealpha=0.75, fontsize=7.5, borderpad=0.3)
        _add_colorbar(figure, contours, layout)
        add_headline(figure, summary, title)
        save(figure, path)


@dataclass(frozen=True)
class _Layout:
    """The layout of `count` square planes in rows of at most three. Rectangles are fractions of the figure."""

    count: int

    @property
    def columns(self) -> int:
        return min(self.count, _MAX_COLUMNS)

    @property
    def rows(self) -> int:
        return -(-self.count // self.columns)

    @property
    def side(self) -> float:
        return 4.0 if self.columns == 1 else 2.4

    @property
    def width(self) -> float:
        return _LEFT + self.columns * self.side + (self.columns - 1) * _GAP + _RIGHT

    @property
    def height(self) -> float:
        return _HEAD + self.rows * self.side + (self.rows - 1) * _GAP + _FOOT

    def is_lowest(self, i: int) -> bool:
        return i + self.columns >= self.count

    def is_leftmost(self, i: int) -> bool:
        return i % self.columns == 0

    def plane(self, i: int) -> tuple[float, float, float, float]:
        """Return the rectangle (left, bottom, width, height) of the i-th plane."""
        row, column = divmod(i, self.columns)
        x = _LEFT + column * (self.side + _GAP)
        y = _FOOT + (self.rows - 1 - row) * (self.side + _GAP)
        return x / self.width, y / self.height, self.side / self.width, self.side / self.height

    def colorbar(self) -> tuple[float, float, float, float]:
        """Return the rectangle of the color bar, to the right of the first row."""
        length = min(self.side, 4.0) * 0.9
        x = self.width - _RIGHT + 0.15
        y = self.height - _HEAD - self.side / 2 - length / 2
        return x / self.width, y / self.height, 0.13 / self.width, length / self.height


def _add_colorbar(figure: Figure, contours: Any, layout: _Layout) -> None:
    bar = figure.colorbar(contours, cax=figure.add_axes(layout.colorbar()), ticks=range(0, 101, 25))
    bar.set_label("attack success rate (%)")
    bar.outline.set_visible(False)


def _draw_plane(axes: Axes, part: pd.DataFrame) -> Any:
    """Draw one plane; return the filled contours, which the color bar needs."""
    grid = part[part["on_grid"]].pivot_table(index="beta", columns="alpha", values="asr", dropna=False, aggfunc="first")
    x, y = grid.columns.to_numpy(dtype=float), grid.index.to_numpy(dtype=float)
    values = np.ma.masked_invalid(grid.to_numpy(dtype=float))
    axes.set_facecolor("white")
    axes.patch.set(hatch="xxx", edgecolor="#D0D0D0")
    contours = axes.contourf(x, y, values, levels=np.linspace(0, 100, 11), cmap=COLORMAP, corner_mask=False)
    if values.count() and values.min() < THRESHOLD <= values.max():
        axes.contour(x, y, values, levels=[THRESHOLD], colors="white", linewidths=1.6, corner_mask=False)
    missing = part[part["asr"].isna()]
    axes.plot(missing["alpha"], missing["beta"], "x", color=VERMILION, ms=4, clip_on=False)
    inferred = part[is_inferred(part) & part["asr"].notna()]
    axes.plot(inferred["alpha"], inferred["beta"], ls="none", **_INFERRED)
    axes.plot(0, 0, marker="*", ms=9, mfc="white", mec=INK, mew=0.8, ls="none")
    axes.set_xlim(x.min(), x.max())
    axes.set_ylim(y.min(), y.max())
    seeds = [str(int(part[key].iloc[0])) for key in ("seed_x", "seed_y") if pd.notna(part[key].iloc[0])]
    if seeds:
        axes.set_title(f"seeds {' and '.join(seeds)}", fontsize=8, color=PALE)
    return contours
