"""The stage that turns stored verdicts into results: landscape.parquet, summary.json, figures and report.html."""

from __future__ import annotations

import contextlib
import logging

import pandas as pd
from rich.console import Console

from orchestrator.analysis.adapter_versions import older_version_note
from orchestrator.analysis.changes import changed_results
from orchestrator.analysis.landscape import to_table
from orchestrator.analysis.reducer import read_results, reduce_landscape, reduce_summary
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.config.schema import Config, ReportConfig
from orchestrator.pipeline.judge import judge_sweep
from orchestrator.prompts import capability
from orchestrator.report.figures.landscape import draw_landscape
from orchestrator.report.figures.results import draw_results
from orchestrator.report.page.render import write_report
from orchestrator.scoring.degeneracy import score_with_log_probabilities
from orchestrator.scoring.panel import degeneracy_judge
from orchestrator.scoring.text_judges import score_missing
from orchestrator.scoring.verdicts import refusals_by_probe
from orchestrator.store.records import DAMAGED
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.utils.errors import ExitCode, UserError

logger = logging.getLogger(__name__)


def judge_and_reduce(config: Config, stored: StoredSweep, console: Console, run_models: bool = True) -> ExitCode:
    """Judge the responses without a verdict, then reduce, draw and report the sweep.

    Args:
        config: The judges' weights and engine, and the report's options.
        stored: The sweep.
        console: Where progress is shown.
        run_models: Whether model judges are run. If not, their stored verdicts are used.

    Returns:
        COMPLETE, FAILED_TASKS if a model judge gave no verdict on some responses, or INTERRUPTED.
    """
    code = judge_sweep(config, stored, console, run_models)
    with console.status("reducing"):
        reduce_stored(stored, config.report)
    return code


def judge_coherence_and_reduce(stored: StoredSweep, options: ReportConfig | None = None) -> None:
    """Judge by the current rules of degeneracy what they have not judged yet, then `reduce_stored`."""
    score_missing(stored, degeneracy_judge(stored))
    score_with_log_probabilities(stored)
    reduce_stored(stored, options)


def reduce_stored(stored: StoredSweep, options: ReportConfig | None = None) -> tuple[pd.DataFrame, SweepSummary]:
    """Reduce, draw and report a sweep from its stored verdicts.

    If numbers differ from the stored results although the responses are the same, a warning says which numbers, by how
    much and why.

    Args:
        stored: The sweep.
        options: The report's options. None uses the defaults.

    Returns:
        The landscape and the summary, which are stored too.
    """
    if note := older_version_note(stored.record):
        logger.warning("%s", note)
    _log_damaged_runs(stored)
    refusals = refusals_by_probe(stored)
    frame = reduce_landscape(stored, refusals)
    summary = reduce_summary(stored, frame, refusals, (options or ReportConfig()).target)
    with contextlib.suppress(UserError):  # nothing is stored yet, or it is damaged and made again
        before, _ = read_results(stored.folder)
        for sentence in changed_results(before, stored.folder.read_summary(), frame, summary):
            logger.warning("%s", sentence)
    stored.folder.write_landscape(to_table(frame))
    stored.folder.write_summary(summary.to_json())
    draw_figures(stored, frame, summary)
    write_report(stored, frame, summary, options)
    return frame, summary


def _log_damaged_runs(stored: StoredSweep) -> None:
    """Log which records of runs do not verify, what is lost with them, and what counts instead."""
    for run in stored.record.runs:
        if run.outcome == DAMAGED:
            logger.warning(
                "%s does not verify (`verify` says why). Its run's time, tokens and actors are counted from its event "
                "log instead; its host, versions and given-up visits are unknown. All stored responses count.",
                stored.folder.run_path(run.run),
            )


def draw_figures(stored: StoredSweep, frame: pd.DataFrame, summary: SweepSummary) -> None:
    """Draw the sweep's figures, each as PNG, SVG and PDF."""
    title = f"{summary.model}: {summary.primary.probe_set}"
    for suffix in ("png", "svg", "pdf"):
        stored.folder.write_figure(f"landscape.{suffix}", lambda path: draw_landscape(frame, summary, path, title))
        shown = len(summary.results) > 1 or any(result.group == capability.GROUP for result in summary.results)
        if frame["beta"].isna().all() and shown:
            stored.folder.write_figure(f"results.{suffix}", lambda path: draw_results(frame, summary, path, title))
