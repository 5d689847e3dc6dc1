"""Print a sweep's result on a terminal or into a pipe: a table, a plot, and a paragraph."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.landscape import mean_over_lines, primary_rows, with_inferred
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.report.formatting import format_number, format_radius, format_visage
from orchestrator.report.narrative import paragraph, primary_agreements
from orchestrator.report.scores import RANGE, counted_points, measured_points
from orchestrator.report.text_plots import plot_curve, plot_planes
from orchestrator.utils.addresses import shown
from orchestrator.utils.command_line import command_line
from orchestrator.utils.shades import ASCII_SHADES, SHADES

MAX_ROWS = 41
_MAX_WIDTH = 100  # maximum width of text and plot, in characters
_LEFT_OUT_FIRST = (
    "refused %",  # 100 - ASR
    "unclear %",
    "complied %",
    "not finite %",
    "unfinished %",
    "95% interval",
    "degenerate %",
)
"""Columns of the table in the order in which they are left out on narrow terminals."""

_ASCII = str.maketrans("┌┐└┘├┤┬┴┼─│┈┊α–" + SHADES, "+++++++++-|.:a-" + ASCII_SHADES)


def show(landscape: pd.DataFrame, summary: SweepSummary, paths: Mapping[str, Path], console: Console) -> None:
    """Print the primary result.

    Args:
        landscape: The sweep's landscape.
        summary: The sweep's summary.
        paths: Where the results are, by name (`folder`, `figure`, `landscape`, ...).
        console: Where to print.
    """
    rows = with_inferred(primary_rows(landscape))
    ascii_only = not console.encoding.lower().startswith("utf")
    width = min(console.width, _MAX_WIDTH)
    if rows["beta"].isna().all():
        curves = summary.primary_result.curves
        mean = mean_over_lines(rows, curves)
        over = curves[0].over if curves else None
        table = _fitting_table(mean, rows["line"].nunique(), over, ascii_only, console)
        table.caption = "\n".join(str(line) for line in (table.caption, _scores_caption(summary)) if line)
        console.print(table)
        _print_verbatim(console, plot_curve(mean, summary.basin, width, ascii_only), ascii_only)
    else:
        _print_verbatim(console, plot_planes(rows, console.width), ascii_only)
    if summary.adaptive is not None:
        _print_verbatim(console, measured_points(summary.adaptive), ascii_only)
    judges = _judges_table(summary, ascii_only)
    if judges is not None:
        console.print(judges)
    console.print()
    text = textwrap.fill(shown(paragraph(summary, paths)), width, break_long_words=False, break_on_hyphens=False)
    _print_verbatim(console, text, ascii_only)
    console.print()
    print_links(paths, console)


def print_links(paths: Mapping[str, Path], console: Console) -> None:
    """Print where the report is, as a link in terminals that have links, and the command that shows it live.

    Of a study in a bucket, the address and the file on this machine are printed.
    """
    report = paths.get("report")
    if report is None:
        return
    link = Style(link=report.absolute().as_uri())
    address = shown(str(report))
    console.print(Text.assemble("report  ", (address, link)), soft_wrap=True)
    if address != str(report):
        console.print(Text.assemble("here    ", (str(report), link)), soft_wrap=True)
    command = command_line("view", shown(str(report.parent)))
    console.print(Text(f"live    {command}"), soft_wrap=True)


def _print_verbatim(console: Console, text: str, ascii_only: bool) -> None:
    """Print text without wrapping paths or reading brackets as markup; replace what the terminal cannot show."""
    if ascii_only:
        text = text.translate(_ASCII).encode(console.encoding, "replace").decode(console.encoding)
    console.print(Text(text), soft_wrap=True)


def _judges_table(summary: SweepSummary, ascii_only: bool) -> Table | None:
    """Return the judges of the primary result's prompts side by side; None if there is only one."""
    results = [result for result in summary.results if result.prompts_key == summary.primary.prompts_key]
    if len(results) < 2:
        return None
    kappas = {agreement.judges[1]: agreement.kappa for agreement in primary_agreements(summary)}
    table = _new_table("judges side by side", ascii_only)
    table.add_column("judge", overflow="fold")
    for heading in ("origin ASR %", "VISAGE", "mean margin", "radius", f"kappa with {results[0].judge}"):
        table.add_column(heading, justify="right")
    for result in results:
        kappa = kappas.get(result.judge)
        table.add_row(
            result.judge,
            format_number(result.origin_asr),
            format_visage(result.visage),
            format_number(None if result.margin is None else result.margin.value),
            format_radius(result.basin, 2),
            "" if kappa is None else f"{kappa:.2f}",
        )
    return table


def _fitting_table(mean: pd.DataFrame, lines: int, over: str | None, ascii_only: bool, console: Console) -> Table:
    """Return the table of the mean over lines, without the columns for which the console is too narrow."""
    unlimited = console.options.update(max_width=10_000)
    for left_out in range(len(_LEFT_OUT_FIRST)):
        table = _curve_table(mean, lines, over, ascii_only, _LEFT_OUT_FIRST[:left_out])
        if console.measure(table, options=unlimited).maximum <= console.width:
            return table
    return _curve_table(mean, lines, over, ascii_only, _LEFT_OUT_FIRST)


def _curve_table(
    mean: pd.DataFrame, lines: int, over: str | None, ascii_only: bool, without: Sequence[str] = ()
) -> Table:
    """Return the mean over lines by alpha, thinned to MAX_ROWS rows; the row at the origin is always kept.

    Args:
        mean: What `mean_over_lines` returned.
        lines: Number of lines.
        over: Variation that the intervals cover. None if they are unknown.
        ascii_only: Whether to use only ASCII characters.
        without: Headings of columns to leave out.
    """
    titles = [f"mean of {lines} directions"] if lines > 1 else []
    titles += [] if over is None else [f"intervals over {over}"]
    table = _new_table("; ".join(titles) or None, ascii_only)
    headings = ["alpha", "ASR %", "95% interval", "refused %", "complied %", "unclear %", "degenerate %"]
    inferred = mean["inferred"].tolist()
    names = ["alpha", "asr", "asr_low", "asr_high", "refused", "complied", "unclear", "degenerate"]
    if "unfinished" in mean and mean["unfinished"].gt(0).any():
        headings, names = [*headings, "unfinished %"], [*names, "unfinished"]
    if "nonfinite" in mean and mean["nonfinite"].gt(0).any():
        headings, names = [*headings, "not finite %"], [*names, "nonfinite"]
    kept = [i for i, heading in enumerate(headings) if heading not in without]
    for i in kept:
        table.add_column(headings[i], justify="right", no_wrap=True)
    every = math.ceil(len(mean) / MAX_ROWS)
    center = int(mean["alpha"].abs().to_numpy().argmin())
    for i, row in enumerate(mean[names].astype(float).to_numpy().tolist()):
        if (i - center) % every:
            continue
        alpha, asr, low, high, *shares = row
        percentages = ["" if math.isnan(share) else f"{share:.1f}" for share in shares]
        if math.isnan(asr):
            cells = ["missing" if not any(percentages) else "no answer", "", *percentages]
        else:
            interval = "unknown" if math.isnan(low) else f"{low:.1f} - {high:.1f}"
            cells = [f"~{asr:.1f}" if inferred[i] else f"{asr:.1f}", interval, *percentages]
        row_cells = [f"{alpha:+.3f}", *cells]
        table.add_row(*(row_cells[k] for k in kept), style="bold" if i == center else "")
    hidden = [heading for heading in headings if heading in without]
    captions = [f"left out, for want of space: {', '.join(hidden)}"] if hidden else []
    captions += [f"one of {every} rows; all are in landscape.parquet"] if every > 1 else []
    captions += ["~ inferred on a line, from measured points"] if any(inferred) else []
    table.caption = "\n".join(captions) or None
    return table


def _scores_caption(summary: SweepSummary) -> str:
    """Return the mean of the column `refused`, which is 100 - ASR, over the range and over the points of VISAGE."""
    visage, margin = summary.visage, summary.margin
    if margin is None or margin.value is None:
        return ""
    text = f"mean margin (refused %) in {RANGE}: {margin.value:.1f}"
    return text if visage.paper is None else f"{text}\nVISAGE, over {counted_points(visage)}: {visage.paper:.1f}"


def _new_table(title: str | None, ascii_only: bool) -> Table:
    style = box.ASCII2 if ascii_only else box.SIMPLE_HEAD
    return Table(box=style, title=title, title_justify="left", collapse_padding=True)  # narrow: 80 columns hold it
