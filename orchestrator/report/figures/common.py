"""Functions that all figures share: the headline, the markers of checkpoints, and saving."""

from __future__ import annotations

import dataclasses
import itertools
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.analysis.basin import THRESHOLD
from orchestrator.analysis.landscape import primary_rows
from orchestrator.analysis.results.keys import ResultKey
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.analysis.summary.checkpoints import summarize_checkpoints
from orchestrator.report.classes import degenerate_text
from orchestrator.report.scores import counted_points, widest_interval
from orchestrator.report.style import COLORMAP, INK, VERMILION

matplotlib.rcParams["text.parse_math"] = False  # names of models and files may hold dollar signs

_NAME_HEIGHT, _CHARACTER_WIDTH, _NAME_GAP = 10.0, 4.0, 6.0  # points, for a checkpoint's name in a font of 7 points


def add_headline(figure: Figure, summary: SweepSummary, title: str) -> None:
    """Write the title, VISAGE, the mean margin, the ASR at the origin and the degenerate share above a figure."""
    visage, margin, origin = summary.visage, summary.margin, summary.origin_asr
    score = "undefined" if visage.paper is None else f"{visage.paper:.1f}"
    if visage.paper is not None and visage.low is not None:
        score += f" [{visage.low:.1f}, {visage.high:.1f}]"
    if visage.paper is not None and visage.points is not None:
        score += f" over {counted_points(visage)}"
    parts = []
    if margin is not None and margin.value is not None:
        widest = widest_interval(margin.over)
        interval = "" if widest is None else f" [{widest[0]:.1f}, {widest[1]:.1f}]"
        parts.append(f"mean margin {margin.value:.1f}{interval}")
    parts.append(f"ASR at the origin {'unknown' if origin is None else f'{origin:.1f}%'}")
    if summary.published is not None and summary.published_note is not None and visage.released is not None:
        parts.append(f"published: {summary.published:.1f}, by the same code here: {visage.released:.1f}")
    numbers = f"VISAGE {score}\n{'   ·   '.join(parts)}"
    if (share := degenerate_text(summary)) is not None:
        numbers += f"\ndegenerate successes {share}"
    heading = textwrap.shorten(title, 80, placeholder="...")
    figure.suptitle(
        f"{heading}\n{numbers}" if title else numbers,
        fontsize=10.5,
        color=INK,
        x=0.1 / figure.get_figwidth(),
        ha="left",
    )


def alpha_label(summary: SweepSummary) -> str:
    """Return the label of the axis of alpha, with its unit if the directions match a checkpoint."""
    return "α, in lengths of the checkpoint's displacement" if "match" in summary.grid else "perturbation α"


def add_inferred_markers(
    axes: Axes, mean: pd.DataFrame, column: str, color: str, size: float, label: str | None, marker: str = "o"
) -> None:
    """Draw the inferred points of a curve hollow, over its filled markers.

    Args:
        axes: Where to draw.
        mean: The curve: columns alpha, inferred, and that of the values.
        column: Name of the column of the values.
        color: The curve's color.
        size: Size of its markers, in points.
        label: Entry in the legend. None: no entry.
        marker: The curve's marker.
    """
    inferred = mean[mean["inferred"]]
    if inferred.empty:
        return
    style: dict[str, Any] = {"ls": "none", "marker": marker, "ms": size, "mfc": "white", "mec": color, "mew": 1.0}
    axes.plot(inferred["alpha"], inferred[column], zorder=6, label=label, clip_on=False, **style)


def save(figure: Figure, path: Path) -> None:
    """Save and close a figure. No date is written, so that the same numbers give the same file."""
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix, {})
    try:
        figure.savefig(path, dpi=200, metadata=metadata)
    finally:
        plt.close(figure)


def add_checkpoints(axes: Axes, landscape: pd.DataFrame, line: int | None = None) -> None:
    """Mark every checkpoint and write its name and its own measured ASR beside the marker.

    On a line the ASR is the marker's height; a filled marker is on the line, an open one is projected onto it. On a
    plane the ASR is the marker's color. Names of neighboring checkpoints are moved apart so that they stay readable.

    Args:
        axes: Where to draw.
        landscape: All rows of the landscape.
        line: Mark only the checkpoints of this line or plane. None marks all.
    """
    center = float(landscape["alpha"].min() + landscape["alpha"].max()) / 2
    placed: list[_Box] = []
    for checkpoint in sorted(summarize_checkpoints(landscape), key=lambda checkpoint: checkpoint.alpha):
        primary = next(result for result in checkpoint.results if _is_primary(landscape, result))
        if primary.asr is None or line not in (None, checkpoint.line):
            continue
        on_line = checkpoint.beta is None
        position = (checkpoint.alpha, primary.asr if checkpoint.beta is None else checkpoint.beta)
        marker: dict[str, Any] = {"c": VERMILION}
        if not on_line:
            marker = {"c": [primary.asr], "cmap": COLORMAP, "vmin": 0, "vmax": 100, "edgecolors": "white"}
            _extend_limits(axes, *position)
        elif checkpoint.projected:
            marker = {"facecolors": "white", "edgecolors": VERMILION}
        axes.scatter([position[0]], [position[1]], marker="D", s=34, lw=1.2, zorder=7, clip_on=False, **marker)
        name = f"{textwrap.shorten(checkpoint.mark, 32, placeholder='...')} {primary.asr:.0f}%"
        below = position[1] >= THRESHOLD if on_line else position[1] > 0
        leftward = checkpoint.alpha > center
        shift = _free_shift(axes, _name_box(axes, position, name, leftward), below, placed)
        axes.annotate(
            name, position, xytext=(-_NAME_GAP if leftward else _NAME_GAP, shift), textcoords="offset points",
            fontsize=7, color=INK, zorder=8, ha="right" if leftward else "left", va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
        )  # fmt: skip


@dataclass(frozen=True)
class _Box:
    """The place of a name: its ends along x and its middle along y, in points."""

    left: float
    right: float
    middle: float

    def overlaps(self, other: _Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and abs(self.middle - other.middle) < _NAME_HEIGHT - 0.01
        )


def _name_box(axes: Axes, position: tuple[float, float], name: str, leftward: bool) -> _Box:
    """Return where a name is drawn that is not shifted up or down."""
    x, y = axes.transData.transform(position) * 72 / axes.figure.dpi
    width = _NAME_GAP + _CHARACTER_WIDTH * len(name)
    return _Box(x - width, x, y) if leftward else _Box(x, x + width, y)


def _free_shift(axes: Axes, box: _Box, below: bool, placed: list[_Box]) -> float:
    """Return the smallest vertical offset in points at which a name overlaps none of `placed`; add its box there.

    Offsets to both sides are tried, first to the side that `below` names, as long as they stay inside the axes.
    """
    step = -_NAME_HEIGHT if below else _NAME_HEIGHT
    low, high = (edge * 72 / axes.figure.dpi for edge in axes.bbox.intervaly)
    for i in itertools.count():
        shift = step * (i // 2 + 1) * (-1 if i % 2 else 1)
        moved = dataclasses.replace(box, middle=box.middle + shift)
        is_inside = low < moved.middle < high or i % 2 == 0
        if is_inside and not any(moved.overlaps(other) for other in placed):
            placed.append(moved)
            return shift
    raise AssertionError("unreachable")


def _extend_limits(axes: Axes, x: float, y: float) -> None:
    """Widen the axes so that a checkpoint outside the plane's grid is shown."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    x_margin, y_margin = 0.06 * (right - left), 0.06 * (high - low)
    axes.set_xlim(x - x_margin if x < left else left, x + x_margin if x > right else right)
    axes.set_ylim(y - y_margin if y < low else low, y + y_margin if y > high else high)


def _is_primary(landscape: pd.DataFrame, result: ResultKey) -> bool:
    """Return whether a checkpoint's result is the primary one (probe set, group, system prompt and judge)."""
    first = primary_rows(landscape).iloc[0]
    return all(getattr(result, name) == first[name] for name in ("probe_set", "group", "system_prompt", "judge"))
