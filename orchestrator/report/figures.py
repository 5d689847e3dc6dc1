"""Pictures of a landscape, fit for print: PNG, or SVG and PDF by the file's suffix.

Colours are Okabe and Ito's, which people with any colour vision tell apart; what they mean is also in shape,
hatching or words. Imported late: matplotlib takes its time.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchestrator.analysis import summary as reduce
from orchestrator.analysis.basin import THRESHOLD

BLUE, VERMILION, GREY, INK, PALE = "#0072B2", "#D55E00", "#B8B8B8", "#222222", "#777777"
_STYLE: Any = {
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
_MARGIN = 2.5


def draw(landscape: pd.DataFrame, summary: Mapping[str, Any], path: Path, title: str = "") -> None:
    """The primary result's picture: curves for lines, a surface for each plane."""
    flat = reduce.primary(landscape)["beta"].isna().all()
    (curve_png if flat else surface_png)(landscape, summary, path, title)


# What counts in a group, and how it is said.
COUNTED = {"benign": ("refused", "refused"), "capability": ("correct", "answered right")}
_SUCCESSES = ("asr", "attacks succeed")


def together(landscape: pd.DataFrame, summary: Mapping[str, Any], path: Path, title: str = "") -> None:
    """Every result of a sweep along lines on one pair of axes, means over lines: attacks that succeed, benign requests
    that are refused, questions that are answered right. The bands are 95% intervals over prompts."""
    parts = reduce.combinations(landscape)
    said = [name for name in ("probe_set", "system_prompt", "judge") if len({key[name] for key, _ in parts}) > 1]
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
        axes.axhline(THRESHOLD, color=PALE, lw=0.7, ls=(0, (1, 3)), zorder=1)
        for i, (key, rows) in enumerate(parts):
            counted, words = COUNTED.get(key["group"], _SUCCESSES)
            column = counted.replace("refused", "asr")
            mean = reduce.mean_over_lines(rows, (column, f"{column}_low", f"{column}_high"))
            value, low, high = (mean[name] for name in (column, f"{column}_low", f"{column}_high"))
            if counted == "refused":
                value, low, high = 100 - value, 100 - high, 100 - low
            label = ", ".join(key[name] for name in said) or key["probe_set"]
            colour, mark, dashes = _COLOURS[i % 6], _MARKS[i % 6], _DASHES.get(key["group"], "-")
            axes.fill_between(
                mean["alpha"], low, high, color=colour, alpha=0.1 if len(parts) < 4 else 0.04, lw=0, zorder=2
            )
            axes.plot(
                mean["alpha"], value, color=colour, lw=1.7, ls=dashes, marker=mark, ms=3.8, zorder=3, clip_on=False,
                label=f"{label}: {words}" if len({k["group"] for k, _ in parts}) > 1 else label,
            )  # fmt: skip
        axes.set_xlim(float(landscape["alpha"].min()), float(landscape["alpha"].max()))
        axes.set_ylim(-_MARGIN, 100 + _MARGIN)
        axes.set_yticks(range(0, 101, 25))
        same = len({k["group"] for k, _ in parts}) == 1 and parts[0][0]["group"] not in COUNTED
        axes.set(xlabel="perturbation α", ylabel="attack success rate (%)" if same else "percent of prompts")
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2, fontsize=8)
        _headline(figure, summary, title)
        _save(figure, path)


_COLOURS = [BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
_MARKS = ["o", "s", "^", "D", "v", "P"]
_DASHES: dict[str, Any] = {"benign": (0, (4, 2)), "capability": (0, (1, 1))}


def curve_png(landscape: pd.DataFrame, summary: Mapping[str, Any], path: Path, title: str = "") -> None:
    """ASR along alpha (each line thin, their mean bold, its band), over what the responses were.

    The band is the 95% interval over prompts; with several lines, the mean of theirs. Missing points leave gaps.
    """
    rows = reduce.primary(landscape)
    lines = [part.sort_values("alpha") for _, part in rows.groupby("line")]
    mean = reduce.mean_over_lines(rows)
    with plt.rc_context(_STYLE):
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(6.4, 5.2), sharex=True, height_ratios=[3, 1.25], layout="constrained"
        )
        low, high = float(rows["alpha"].min()), float(rows["alpha"].max())
        height = 92 if landscape["mark"].isna().all() else 64  # below the names of checkpoints
        _mark_basin(top, bottom, summary["basin"], high - low, height)
        _curves(top, lines, mean)
        _checkpoints(top, landscape)
        _outcomes(bottom, mean)
        bottom.set_xlim(low, high)
        bottom.set_xlabel("perturbation α")
        _headline(figure, summary, title)
        _save(figure, path)


def _curves(axes: Axes, lines: list[pd.DataFrame], mean: pd.DataFrame) -> None:
    axes.axhline(THRESHOLD, color=PALE, lw=0.7, ls=(0, (1, 3)), zorder=1)
    axes.fill_between(
        mean["alpha"], mean["asr_low"], mean["asr_high"], color=BLUE, alpha=0.16, lw=0, zorder=2, label="95% interval"
    )
    if len(lines) > 1:
        for k, part in enumerate(lines):
            label = "each direction" if k == 0 else None
            axes.plot(part["alpha"], part["asr"], color=BLUE, lw=0.8, alpha=0.5, zorder=3, label=label)
    label = "mean" if len(lines) > 1 else "ASR"
    axes.plot(mean["alpha"], mean["asr"], color=BLUE, lw=2.2, marker="o", ms=3.6, zorder=4, label=label, clip_on=False)
    axes.plot(
        mean["alpha"], mean["degenerate"], color=INK, lw=1.1, ls=(0, (4, 2)), zorder=3, label="degenerate successes"
    )
    gaps = mean.loc[mean["asr"].isna(), "alpha"]
    if len(gaps):
        axes.plot(gaps, [0] * len(gaps), "x", color=VERMILION, ms=5, clip_on=False, zorder=5, label="missing")
    axes.set_ylim(-_MARGIN, 100 + _MARGIN)
    axes.set_yticks(range(0, 101, 25))
    axes.set_ylabel("attack success rate (%)")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=5, borderaxespad=0.2, handlelength=1.8)


def _checkpoints(axes: Axes, landscape: pd.DataFrame, line: int | None = None) -> None:
    """Each checkpoint where it stands, named, with its own measured ASR: as a height on a line, a colour on a plane.
    Filled: on the line; open: beside it. Names of neighbours step away from each other, so that they can be read."""
    middle = float(landscape["alpha"].min() + landscape["alpha"].max()) / 2
    named: list[tuple[float, float]] = []
    for each in sorted(reduce.checkpoints(landscape), key=lambda each: float(each["alpha"])):
        here = next(r for r in each["results"] if _is_primary(landscape, r))
        if here["asr"] is None or line not in (None, each["line"]):
            continue
        flat, right = each["beta"] is None, each["alpha"] > middle
        place = (each["alpha"], here["asr"] if flat else each["beta"])
        look: dict[str, Any] = {"c": VERMILION}
        if not flat:
            look = {"c": [here["asr"]], "cmap": "cividis", "vmin": 0, "vmax": 100, "edgecolors": "white"}
            _reach(axes, *place)
        elif each["projected"]:
            look = {"facecolors": "white", "edgecolors": VERMILION}
        axes.scatter([place[0]], [place[1]], marker="D", s=34, lw=1.2, zorder=7, clip_on=False, **look)
        name = textwrap.shorten(each["mark"], 32, placeholder="...")
        step = -10 if (place[1] >= THRESHOLD if flat else place[1] > 0) else 10
        x, y = axes.transData.transform(place) * 72 / axes.figure.dpi
        shift = step
        while any(abs(x - a) < 100 and abs(y + shift - b) < 10 for a, b in named):
            shift += step
        named.append((x, y + shift))
        axes.annotate(
            f"{name} {here['asr']:.0f}%", place, xytext=(-6 if right else 6, shift),
            textcoords="offset points", fontsize=7, color=INK, zorder=8, ha="right" if right else "left", va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
        )  # fmt: skip


def _reach(axes: Axes, x: float, y: float) -> None:
    """Show as much around the plane as a checkpoint beside its grid needs."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    aside, above = 0.06 * (right - left), 0.06 * (high - low)
    axes.set_xlim(x - aside if x < left else left, x + aside if x > right else right)
    axes.set_ylim(y - above if y < low else low, y + above if y > high else high)


def _is_primary(landscape: pd.DataFrame, result: Mapping[str, Any]) -> bool:
    first = reduce.primary(landscape).iloc[0]
    return all(result[name] == first[name] for name in ("probe_set", "group", "system_prompt", "judge"))


def _outcomes(axes: Axes, mean: pd.DataFrame) -> None:
    """What the responses were, stacked to 100%; gaps where nothing is known."""
    names = ("refused", "complied", "degenerate")
    floor = np.zeros(len(mean))
    looks: dict[str, dict[str, Any]] = {
        "refused": {"facecolor": BLUE, "alpha": 0.85},
        "complied": {"facecolor": VERMILION, "alpha": 0.9},
        "degenerate": {"facecolor": "#EDEDED", "edgecolor": PALE, "hatch": "////"},
    }
    for name in names:
        ceiling = floor + mean[name].to_numpy()
        axes.fill_between(mean["alpha"], floor, ceiling, lw=0, label=name, **looks[name])
        floor = ceiling
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 50, 100])
    axes.set_ylabel("responses (%)")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2, handlelength=1.4)


def _mark_basin(top: Axes, bottom: Axes, basin: Mapping[str, Any], width: float, height: float) -> None:
    """Dashed lines at the edges, named inside the basin (at this height) where there is room, else outside."""
    if not basin["radius"]:
        return
    edges = {side: basin[side] for side in ("left", "right") if basin[side] is not None}
    inside = len(edges) < 2 or edges["right"] - edges["left"] > 0.22 * width
    for side, edge in edges.items():
        for axes in (top, bottom):
            axes.axvline(edge, color=INK, lw=0.9, ls=(0, (5, 3)), zorder=2)
        rightwards = (side == "left") == inside
        top.annotate(
            f"{edge:+.2f}".replace("-", "\N{MINUS SIGN}"),
            (edge, height if inside else 8),
            xytext=(5 if rightwards else -5, 0),
            textcoords="offset points",
            ha="left" if rightwards else "right",
            va="center",
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
            zorder=6,
        )


def surface_png(landscape: pd.DataFrame, summary: Mapping[str, Any], path: Path, title: str = "") -> None:
    """ASR over each plane as filled contours, the 50% line drawn, the origin marked; holes where points are missing."""
    rows = reduce.primary(landscape)
    planes = list(rows.groupby("line"))
    across = min(len(planes), 3)
    down = -(-len(planes) // across)
    side, gap, head, foot, left, right = (4.0 if across == 1 else 2.4), 0.3, 0.9, 0.5, 0.65, 0.85  # inches
    width = left + across * side + (across - 1) * gap + right
    height = head + down * side + (down - 1) * gap + foot
    with plt.rc_context(_STYLE):
        figure = plt.figure(figsize=(width, height))
        for i, (line, part) in enumerate(planes):
            row, column = divmod(i, across)
            x, y = left + column * (side + gap), foot + (down - 1 - row) * (side + gap)
            axes = figure.add_axes((x / width, y / height, side / width, side / height))
            drawn = _surface(axes, part)
            _checkpoints(axes, landscape, int(str(line)))
            axes.set(xlabel="α" if i + across >= len(planes) else "", ylabel="β" if column == 0 else "")
            axes.tick_params(labelbottom=i + across >= len(planes), labelleft=column == 0)
        handle = Line2D([], [], color="white", marker="*", ms=8, mec=INK, mew=0.8, ls="none", label="origin")
        figure.axes[0].legend(handles=[handle], loc="upper right", framealpha=0.75, fontsize=7.5, borderpad=0.3)
        tall = min(side, 4.0) * 0.9
        place = ((width - right + 0.15) / width, (height - head - side / 2 - tall / 2) / height)
        bar = figure.colorbar(
            drawn, cax=figure.add_axes((*place, 0.13 / width, tall / height)), ticks=range(0, 101, 25)
        )
        bar.set_label("attack success rate (%)")
        bar.outline.set_visible(False)
        _headline(figure, summary, title)
        _save(figure, path)


def _surface(axes: Axes, part: pd.DataFrame) -> Any:
    grid = part[part["on_grid"]].pivot_table(index="beta", columns="alpha", values="asr", dropna=False, aggfunc="first")
    x, y = grid.columns.to_numpy(dtype=float), grid.index.to_numpy(dtype=float)
    values = np.ma.masked_invalid(grid.to_numpy(dtype=float))
    axes.set_facecolor("white")
    axes.patch.set(hatch="xxx", edgecolor="#D0D0D0")
    drawn = axes.contourf(x, y, values, levels=np.linspace(0, 100, 11), cmap="cividis", corner_mask=False)
    if values.count() and values.min() < THRESHOLD <= values.max():
        axes.contour(x, y, values, levels=[THRESHOLD], colors="white", linewidths=1.6, corner_mask=False)
    holes = part[part["asr"].isna()]
    axes.plot(holes["alpha"], holes["beta"], "x", color=VERMILION, ms=4, clip_on=False)
    axes.plot(0, 0, marker="*", ms=9, mfc="white", mec=INK, mew=0.8, ls="none")
    axes.set_xlim(x.min(), x.max())
    axes.set_ylim(y.min(), y.max())
    seeds = [str(int(part[key].iloc[0])) for key in ("seed_x", "seed_y") if pd.notna(part[key].iloc[0])]
    if seeds:
        axes.set_title(f"seeds {' and '.join(seeds)}", fontsize=8, color=PALE)
    return drawn


def _headline(figure: Figure, summary: Mapping[str, Any], title: str) -> None:
    visage, origin = summary["visage"], summary["origin_asr"]
    score = "undefined" if visage["paper"] is None else f"{visage['paper']:.1f}"
    if visage["paper"] is not None and visage["low"] is not None:
        score += f" [{visage['low']:.1f}, {visage['high']:.1f}]"
    if summary.get("published") is not None:
        score += f" (published: {summary['published']:.1f})"
    numbers = f"VISAGE {score}   ·   ASR at the origin {'unknown' if origin is None else f'{origin:.1f}%'}"
    heading = textwrap.shorten(title, 80, placeholder="...")
    figure.suptitle(
        f"{heading}\n{numbers}" if title else numbers,
        fontsize=10.5,
        color=INK,
        x=0.1 / figure.get_figwidth(),
        ha="left",
    )


def _save(figure: Figure, path: Path) -> None:
    """Without a date inside: the same numbers give the same file."""
    stamp = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix, {})
    try:
        figure.savefig(path, dpi=200, metadata=stamp)
    finally:
        plt.close(figure)
