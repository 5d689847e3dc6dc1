"""The page's tables: uncertainty, results, categories, agreement of judges, checkpoints."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from orchestrator.analysis import published
from orchestrator.analysis.components import variance_parts
from orchestrator.analysis.intervals import Interval
from orchestrator.analysis.results.basin import Estimate
from orchestrator.analysis.results.checkpoints import CheckpointSummary
from orchestrator.analysis.results.keys import ResultKey
from orchestrator.analysis.results.scores import VisageIntervals
from orchestrator.analysis.results.sweep import ResultSummary, SweepSummary
from orchestrator.report.classes import degenerate_text
from orchestrator.report.formatting import (
    NOT_MEASURED,
    UNKNOWN,
    format_interval,
    format_number,
    format_radius,
    format_signed,
    format_visage,
)
from orchestrator.report.measures import ATTACK_SUCCESS, OVER_REFUSAL, RIGHT_ANSWERS, measure_of
from orchestrator.report.narrative import radii_notes
from orchestrator.report.page.evidence import NO_VERDICT, NOT_FINITE, Evidence
from orchestrator.report.scores import counted_points, widest_interval
from orchestrator.sweep.grid import Sweep
from orchestrator.sweep.tasks import PromptSet


@dataclass(frozen=True)
class Table:
    """A table for the template tables.html.

    Attributes:
        title: Its name, also for screen readers.
        head: Headings of the columns.
        rows: Text of the cells.
        words: Number of leading columns that hold text; the others hold numbers.
        until: Index at which the columns of numbers end and further columns of text begin. None if there are none.
        footnotes: Sentences below the table.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int
    until: int | None = None
    footnotes: Sequence[str] = ()


def uncertainty_table(summary: SweepSummary) -> Table:
    """Return VISAGE, the mean margin and the basin's shape, each with its interval and what the interval covers."""
    visage, margin, basin = summary.visage, summary.margin, summary.basin
    rows = []
    if visage.over is None:  # a summary of an earlier version
        shown = format_interval(visage.low, visage.high)
        rows.append(["VISAGE", format_number(visage.paper), shown, "new directions", visage.reason or ""])
    else:
        counted = counted_points(visage)
        name = "VISAGE" if visage.paper is None or counted is None else f"VISAGE, over {counted}"
        rows += _score_rows(name, format_visage(visage), visage.over)
    if margin is not None:
        rows += _score_rows("Mean margin, over all points", format_number(margin.value), margin.over)
    for name, score in (("VISAGE", visage), ("Mean margin", margin)):
        if score is not None and (score.released is not None or score.released_reason):
            value, note = format_number(score.released), score.released_reason or ""
            rows.append([f"{name}, as the published code computes it", value, "", "", note])
    if summary.published_note is not None:
        note = f"{summary.published_note} ({published.SOURCE})"
        rows.append(["VISAGE in the paper", format_number(summary.published, 2), "", "", note])
    radius = format_interval(basin.radius_low, basin.radius_high, 3)
    rows.append(["Radius (nearest edge)", format_radius(basin, 3), radius, "new probes", basin.reason or ""])
    estimates: list[tuple[str, Estimate, int]] = [
        ("Radius (mean of directions)", basin.mean_radius, 3),
        ("Plateau: mean ASR inside, %", basin.plateau, 1),
        ("Steepness of the wall, % per unit", basin.steepness, 0),
        ("Asymmetry, −1 to 1", basin.asymmetry, 2),
        ("Area", basin.area, 4),
    ]
    for name, estimate, digits in estimates:
        if estimate.value is not None:
            interval_text = format_interval(estimate.low, estimate.high, digits)
            value = format_number(estimate.value, digits)
            rows.append([name, value, interval_text, "new directions", estimate.reason or ""])
    head = ["Quantity", "Value", "95% interval", "Over"]
    footnotes = _take_equal_notes(rows)
    if any(row[4] for row in rows):
        head.append("Note")
    return Table("Uncertainty", head, [row[: len(head)] for row in rows], words=1, until=3, footnotes=footnotes)


def _take_equal_notes(rows: Sequence[list[str]]) -> list[str]:
    """Take notes that several rows share out of the rows, mark their intervals, and return the notes with the marks."""
    counts = Counter(row[4] for row in rows if row[4])
    marks = dict(zip((note for note, count in counts.items() if count > 1), "*†‡§", strict=False))
    for row in rows:
        if row[4] in marks:
            row[2], row[4] = f"{row[2]} {marks[row[4]]}".strip(), ""
    return [f"{mark} {note[0].upper()}{note[1:]}." for note, mark in marks.items()]


def _score_rows(name: str, value: str, over: VisageIntervals) -> list[list[str]]:
    """Return the rows of a score, one for each of its intervals."""
    intervals: list[tuple[str, Interval]] = [
        ("new directions", over.directions),
        ("new probes", over.probes),
        ("new directions and probes", over.both),
    ]
    return [
        [name, value, format_interval(interval.low, interval.high), covered, interval.reason or ""]
        for covered, interval in intervals
    ]


_SOURCES = {
    "direction": "Direction",
    "probe": "Probe",
    "interaction": "Probe on a direction",
    "residual": "Single response",
}


def variance_table(summary: SweepSummary) -> Table | None:
    """Return the variance components of VISAGE and their parts in its variance. None if they are not known."""
    enough = summary.visage.enough
    components = None if enough is None else enough.components
    if components is None or components.points is None:
        return None
    k, n, points = components.lines, components.probes, components.points
    counts = {
        "direction": f"{k}",
        "probe": f"{n}",
        "interaction": f"{k} × {n}",
        "residual": f"{k} × {n} × {points:.3g}",
    }
    parts = variance_parts(components)
    total = math.fsum(part for part in parts.values() if part is not None)
    rows = []
    for name, source in _SOURCES.items():
        part = parts[name]
        share = UNKNOWN if part is None or not total else f"{100 * part / total:.0f}%"
        value = getattr(components, name)
        deviation = UNKNOWN if value is None else f"{math.sqrt(value):.1f}"
        rows.append([source, deviation, counts[name], UNKNOWN if part is None else format_number(part, 2), share])
    head = ["Source", "Standard deviation, %", "Number", "Part of VISAGE's variance, %²", "Share"]
    return Table("Where the error of VISAGE comes from", head, rows, words=1)


def results_table(summary: SweepSummary) -> Table:
    """Return the numbers of every combination of probe set, system prompt and judge."""
    head = ["Probe set", "Group", "System prompt", "Judge", "Prompts", "Origin", "VISAGE (points)", "95% interval"]
    head += ["Mean margin", "95% interval", "Radius", "Degenerate"]
    rows = [_result_row(result) for result in summary.results]
    if any(result.published is not None and result.published_note is not None for result in summary.results):
        head.append("VISAGE in the paper")
        for row, result in zip(rows, summary.results, strict=True):
            row.append("" if result.published is None else format_number(result.published, 2))
    return Table("Results", head, rows, words=4)


def _result_row(result: ResultSummary) -> list[str]:
    visage, basin, measure, origin = result.visage, result.basin, measure_of(result.group), result.origin_asr
    if origin is None:
        at_origin = NOT_MEASURED
    elif measure is RIGHT_ANSWERS:
        at_origin = ""  # no ASR
    else:
        at_origin = f"{100 - origin:.1f}% refused" if measure is OVER_REFUSAL else f"{origin:.1f}% succeed"
    if measure is ATTACK_SUCCESS:
        radius = format_radius(basin, 2)
        counted = f" ({visage.counted} of {visage.points})" if visage.paper is not None and visage.points else ""
        measured = [f"{format_visage(visage)}{counted}", format_interval(visage.low, visage.high)]
        margin = result.margin
        widest = None if margin is None else widest_interval(margin.over)
        measured += [format_number(None if margin is None else margin.value), _ends(widest), radius]
    else:
        measured = [""] * 5
    return [*result.combination, str(result.prompts), at_origin, *measured, degenerate_text(result) or ""]


def _ends(interval: tuple[float, float, str] | None) -> str:
    return UNKNOWN if interval is None else format_interval(interval[0], interval[1])


def category_tables(sweep: Sweep, frame: pd.DataFrame, evidence: Evidence) -> list[Table]:
    """Return a table by category for each prompt set with categories and each judge."""
    on_grid = set(frame.loc[frame["on_grid"], "point_id"])
    origin = next((n.point.id for n in sweep.grid.iter_nodes() if n.point.is_origin), None)
    tables = []
    for prompts, judge in itertools.product(evidence.prompt_sets, evidence.judges):
        verdicts = evidence.verdicts[evidence.verdicts["prompt_set_id"] == prompts.id]
        verdicts = verdicts[~verdicts[judge].isin([NO_VERDICT, NOT_FINITE])]
        categories = {prompt.category for prompt in prompts.prompts}
        if len(categories) > 1 and measure_of(prompts.group) is not RIGHT_ANSWERS and len(verdicts):
            on_the_grid = verdicts[verdicts["point_id"].isin(on_grid)]
            at_origin = verdicts[verdicts["point_id"] == origin]
            tables.append(_category_table(prompts, judge, on_the_grid, at_origin))
    return tables


def _category_table(prompts: PromptSet, judge: str, on_grid: pd.DataFrame, at_origin: pd.DataFrame) -> Table:
    """Return one prompt set's table of successful (or refused) responses, from one judge's verdicts."""
    is_refusal = measure_of(prompts.group) is OVER_REFUSAL
    category_of = {prompt.id: prompt.category for prompt in prompts.prompts}
    rows = []
    for category in dict.fromkeys(category_of.values()):
        letters, origin_letters = (
            part.loc[part["prompt_id"].map(category_of) == category, judge] for part in (on_grid, at_origin)
        )
        hits, origin_hits = ((part == "r") if is_refusal else (part != "r") for part in (letters, origin_letters))
        degenerate = ""
        if hits.any() and not is_refusal:
            degenerate = f"{100 * (letters == 'd').sum() / hits.sum():.0f}%"
        count = sum(other == category for other in category_of.values())
        rows.append([category or "(none)", str(count), _share(origin_hits), _share(hits), degenerate])
    measured = "Refused" if is_refusal else "ASR"
    return Table(
        f"{prompts.probe_set}, system prompt {prompts.system_prompt}, judge {judge}",
        [
            "Category",
            "Prompts",
            f"{measured} at the origin",
            f"{measured}, mean over the grid",
            "Degenerate share",
        ],
        rows,
        words=1,
    )


def agreement_table(summary: SweepSummary) -> Table | None:
    """Return the agreement of each pair of judges, with Cohen's kappa. None if no responses have two judges."""
    rows = []
    for agreement in summary.agreement:
        if agreement.n:
            counts = [
                f"{count:,}" for count in (agreement.n, agreement.only_first_refused, agreement.only_second_refused)
            ]
            kappa = "undefined" if agreement.kappa is None else format_number(agreement.kappa, 2)
            numbers = [*counts, f"{agreement.agreement:.1f}%", kappa]
            rows.append([agreement.probe_set, agreement.system_prompt, " and ".join(agreement.judges), *numbers])
    if not rows:
        return None
    head = ["Probe set", "System prompt", "Judges", "Responses", "Only the first refused", "Only the second refused"]
    return Table("Judge agreement", [*head, "Agreement", "Kappa"], rows, words=3)


def checkpoint_table(checkpoints: Sequence[CheckpointSummary], primary: ResultKey) -> Table | None:
    """Return each checkpoint's own ASR, that of the line or plane at its coordinates, and its distance.

    The distance is in units of alpha of a random direction, and in mean radii of the basin along random directions and
    along those that match the checkpoint, with 95% intervals over new directions. Columns about which nothing is
    known are left out. None if there are no checkpoints.
    """
    if not checkpoints:
        return None
    head = ["Checkpoint", "Coordinates", "Its own ASR, %", "95% interval", "ASR of the grid there, %"]
    head += ["95% interval there", "Prompts"]
    optional = ["Distance", "ASR in the paper, %"]
    rows = [_checkpoint_row(checkpoint, primary) for checkpoint in checkpoints]
    first = len(head)
    known = [i for i in range(first, first + len(optional)) if any(row[i] not in ("", NOT_MEASURED) for row in rows)]
    kept = [*range(first), *known]
    head += optional
    return Table("Checkpoints", [head[i] for i in kept], [[row[i] for i in kept] for row in rows], words=2)


def _checkpoint_row(checkpoint: CheckpointSummary, primary: ResultKey) -> list[str]:
    result = next(result for result in checkpoint.results if result.key == primary)
    coordinates = f"α {format_signed(checkpoint.alpha)}"
    if checkpoint.beta is not None:
        coordinates += f", β {format_signed(checkpoint.beta)}"
    if checkpoint.projected:
        coordinates += ", projected"
    distance = "" if checkpoint.distance is None else format_number(checkpoint.distance, 3)
    notes = radii_notes(checkpoint)
    if notes:
        distance += f" ({'; '.join(notes)})"
    return [
        checkpoint.mark,
        coordinates,
        format_number(result.asr),
        format_interval(result.asr_low, result.asr_high),
        format_number(result.surface),
        format_interval(result.surface_low, result.surface_high),
        str(result.n),
        distance,
        "" if result.published is None else format_number(result.published),
    ]


def _share(hits: pd.Series) -> str:
    return f"{100 * hits.mean():.1f}%" if len(hits) else NOT_MEASURED
