"""Assemble everything that the page's template shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Any

import pandas as pd

from orchestrator.analysis.adapter_versions import older_version_note
from orchestrator.analysis.results.basin import BasinSummary
from orchestrator.analysis.results.scores import MarginSummary, VisageSummary
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.analysis.summary.checkpoints import summarize_checkpoints
from orchestrator.report import narrative
from orchestrator.report.classes import WHAT, corrected_share, uncorrected_note
from orchestrator.report.formatting import NOT_MEASURED, format_number, format_radius, format_visage
from orchestrator.report.page import tables
from orchestrator.report.page.charts import chart_data
from orchestrator.report.page.evidence import Evidence
from orchestrator.report.page.provenance import provenance
from orchestrator.report.scores import RANGE, counted_points, interval_text
from orchestrator.store.engine_identity import differ
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder

MEASURING = "measuring"
"""Value of a tile whose number is held back until a sweep that runs has measured enough points."""


def page_content(
    stored: StoredSweep,
    frame: pd.DataFrame,
    summary: SweepSummary,
    evidence: Evidence,
    surface: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Return the values of the page's template by name.

    Args:
        stored: The sweep.
        frame: Its landscape.
        summary: Its summary.
        evidence: The responses and verdicts that the page shows.
        surface: The landscape to draw. None: `frame`.
    """
    sweep = stored.sweep
    checkpoints = summary.checkpoints or summarize_checkpoints(frame)  # earlier versions did not store them
    return {
        "model": summary.model,
        "about": _prompts_and_judge(summary),
        "tiles": tiles(summary),
        "verdict": narrative.verdict(summary),
        "narrative": narrative.details(summary),
        "warnings": _warnings(stored, summary, surface is None),
        "chart": chart_data(sweep, frame if surface is None else surface, summary, checkpoints, evidence),
        "plane": sweep.grid.is_plane,
        "sampled": _sample_note(evidence),
        "reveal": evidence.reveal,
        "checkpoints": tables.checkpoint_table(checkpoints, summary.primary),
        "uncertainty": tables.uncertainty_table(summary),
        "variance": tables.variance_table(summary),
        "more_precision": more_precision(summary),
        "results": tables.results_table(summary),
        "categories": tables.category_tables(sweep, frame, evidence),
        "agreement": tables.agreement_table(summary),
        "files": figure_files(stored.folder),
        "command": shlex.join(["python", "-m", "orchestrator", "run", *stored.record.overrides]),
        "provenance": provenance(stored, summary, evidence),
    }


def figure_files(folder: SweepFolder) -> list[str]:
    """Return the paths of a sweep's figures in its folder, such as `figures/landscape.png`."""
    paths = (folder.path / "figures").glob("*")
    return sorted(f"figures/{path.name}" for path in paths if re.fullmatch(r"[a-z_]+\.(png|svg|pdf)", path.name))


def tiles(summary: SweepSummary, is_running: bool = False) -> list[dict[str, str]]:
    """Return the headline numbers: `name`, `value`, `unit`, `style`, and in `note` their interval or a reason.

    Args:
        summary: The sweep's summary.
        is_running: Whether the sweep runs, so that numbers that are held back are being measured.
    """
    origin = summary.origin_asr
    origin_note = "" if origin is None else f"95% interval {summary.origin_low:.1f} to {summary.origin_high:.1f}%"
    radius, radius_note = _radius(summary.basin)
    margin = summary.margin
    margin_value = format_number(None if margin is None else margin.value)
    scores = [
        _tile("VISAGE", format_visage(summary.visage), "of 100", _visage_note(summary.visage)),
        _tile("Mean margin", margin_value, "of 100", _margin_note(margin, summary.visage)),
        _tile("ASR at the origin", format_number(origin), "%", origin_note),
        _tile("Basin radius", radius, "", radius_note),
        _degenerate_tile(summary),
    ]
    if not narrative.are_held_back(summary):
        return _without_equal_notes(scores)
    note = f"{narrative.points_measured(summary)}; shown when there are enough"
    held_back = {"VISAGE", "Mean margin", "Basin radius"}
    value = MEASURING if is_running else NOT_MEASURED
    return _without_equal_notes(
        _tile(tile["name"], value, "", note) if tile["name"] in held_back else tile for tile in scores
    )


def _tile(name: str, value: str, unit: str, note: str) -> dict[str, str]:
    is_number = any(character.isdigit() for character in value)
    style = "" if is_number else " words"  # class of the value's element
    return {"name": name, "value": value, "unit": unit if is_number else "", "note": note, "style": style}


def _without_equal_notes(shown: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """Return the tiles; of those with the same note, only the first keeps it."""
    seen: set[str] = set()
    kept = []
    for tile in shown:
        kept.append(tile | {"note": ""} if tile["note"] in seen else tile)
        seen.add(tile["note"])
    return kept


def _degenerate_tile(summary: SweepSummary) -> dict[str, str]:
    """Return the share of degenerate successes with its interval, or uncorrected and said to be so."""
    share, known = summary.degenerate_share, corrected_share(summary)
    if share is None:
        return _tile(
            "Degenerate", *(("none", "", "no attack succeeded") if summary.points_done else (NOT_MEASURED, "", ""))
        )
    if known is None:
        return _tile("Degenerate", f"≥ {share:.0f}", "% of successes", f"at least; {WHAT}; {uncorrected_note(summary)}")
    note = f"95% interval {known.low:.0f} to {known.high:.0f}%, corrected for the judge's errors; {WHAT}"
    return _tile("Degenerate", f"{known.value:.0f}", "% of successes", note)


def _visage_note(visage: VisageSummary) -> str:
    """Return the points behind VISAGE and its interval, or why there is none."""
    if visage.paper is None:
        return visage.reason or ""
    points = counted_points(visage)
    mean = "over the points where any attack fails" if points is None else f"over the {points} where any attack fails"
    if visage.low is None:
        return f"{mean}; one direction: spread between directions unknown"
    return f"{mean}; 95% interval {visage.low:.1f} to {visage.high:.1f}, over directions"


def _margin_note(margin: MarginSummary | None, visage: VisageSummary) -> str:
    """Return the points behind the mean margin and its interval, or why there is none."""
    if margin is None:
        return "not computed by the version that reduced this sweep"
    if margin.value is None:
        return margin.reason or ""
    mean = f"100 - ASR, over all {visage.all_points} points in {RANGE}"
    interval = interval_text(margin.over)
    return mean if interval is None else f"{mean}; {interval}"


def _radius(basin: BasinSummary) -> tuple[str, str]:
    """Return the radius and its interval, or why there is none."""
    value = format_radius(basin, 2)
    if basin.radius is None and basin.censored_at is not None:
        return value, f"50% is not reached up to {basin.censored_at:.2g}"
    if basin.radius is None:
        return value, basin.reason or ""
    low = format_number(basin.radius_low, 2)
    if basin.radius_high is None:
        return value, f"95% interval from {low}, unbounded above"
    return value, f"95% interval {low} to {basin.radius_high:.2f}"


def _prompts_and_judge(summary: SweepSummary) -> str:
    """Return the prompts and the judge of the headline numbers, as text."""
    primary = summary.primary
    return (
        f"{summary.prompts} prompts of {primary.probe_set} ({primary.group}), system prompt {primary.system_prompt}, "
        f"judge {primary.judge}"
    )


def _warnings(stored: StoredSweep, summary: SweepSummary, has_gaps: bool) -> list[str]:
    """Return warnings: missing points, logits that are not finite, failed tasks, differing engines, old adapters.

    Args:
        stored: The sweep.
        summary: Its summary.
        has_gaps: Whether nothing is drawn at missing points.
    """
    note = older_version_note(stored.record)
    warnings = [] if note is None else [note]
    missing, failed = summary.points_total - summary.points_done, summary.tasks_failed
    if missing:
        charts = "have gaps there" if has_gaps else "show inferred values there"
        are = "is" if missing == 1 else "are"
        warnings.append(f"{missing} of {summary.points_total} points {are} missing; the charts {charts}.")
    if nonfinite := narrative.nonfinite_sentence(summary):
        warnings.append(nonfinite)
    if failed:
        subject = "1 task has" if failed == 1 else f"{failed} tasks have"
        warnings.append(f"{subject} failed and will not be tried again, except with retry=failed.")
    if differ(summary.engines):
        warnings.append("The responses come from more than one engine: near-ties may have been decided differently.")
    return warnings


def _sample_note(evidence: Evidence) -> str:
    """Return a sentence on how many of the responses the page contains."""
    contained, total = len(evidence.responses), evidence.total
    if contained == total:
        return f"All {total:,} responses are in this file."
    prompts = ", ".join(
        f"{len(evidence.shown_prompts[prompt_set.id])} of {len(prompt_set.prompts)} ({prompt_set.probe_set})"
        for prompt_set in evidence.prompt_sets
    )
    return (
        f"This file contains a sample, {contained:,} of {total:,} responses: those to the same prompts at every point, "
        f"{prompts}."
    )


def more_precision(summary: SweepSummary) -> str:
    """Return sentences on what a narrower interval of VISAGE needs; empty if unknown."""
    enough = summary.visage.enough
    if enough is None or enough.more is None:
        return ""
    sentences = [
        f"With {enough.directions} directions, VISAGE is known to ± {enough.half_width:.1f} over new directions; about "
        f"{enough.more} more would halve this interval."
    ]
    if enough.plan is not None:
        sentences.append(narrative.plan_sentence(enough.plan))
    clusters = summary.primary_result.clusters
    if clusters is not None:
        sentences.append(narrative.clusters_sentence(clusters))
    return " ".join(sentences)
