"""The summary of a sweep: the numbers of each combination of prompts and judge, and of the primary one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from orchestrator.analysis import visage
from orchestrator.analysis.curves import Probes, mean_curves
from orchestrator.analysis.landscape import (
    PRIMARY_GROUP,
    combinations,
    grid_points,
    is_inferred,
    none_if_missing,
    origin_row,
    responses,
    split_lines,
    with_inferred,
)
from orchestrator.analysis.line_errors import are_chosen
from orchestrator.analysis.results.classes import SuccessClasses
from orchestrator.analysis.results.keys import ResultKey
from orchestrator.analysis.results.sweep import INTERVALS_VERSION, ResultSummary, SweepSummary
from orchestrator.analysis.summary.basin import summarize_basin
from orchestrator.analysis.summary.scores import summarize_margin, summarize_visage
from orchestrator.prompts.capability import SCORING_VERSION
from orchestrator.scoring.counts import COUNTS, SUMS, Combination, ProbeVerdicts

_USED = [
    *("line", "alpha", "beta", "on_grid", "point_id", "seed_x", "seed_y", *COUNTS, "asr", "asr_low", "asr_high"),
    *("inferred", "asr_inferred", "asr_inferred_error"),
]


def summarize(
    landscape: pd.DataFrame,
    verdicts: Mapping[Combination, ProbeVerdicts] | None = None,
    grid: Mapping[str, Any] | None = None,
) -> SweepSummary:
    """Return the numbers of a landscape: the primary result at the top level, every combination in `results`.

    The fields about the sweep itself (its id, its cost, its judges) keep their defaults.

    Args:
        landscape: As `build_landscape` returns it.
        verdicts: Verdicts by point and probe, for each combination. None leaves the intervals over new probes
            undefined.
        grid: The grid as JSON, which decides whether VISAGE is defined. None: it is taken to be defined.
    """
    known, inapplicable = verdicts or {}, visage.why_inapplicable(grid or {})
    results = [
        _summarize_result(key, rows, known.get(key.combination), inapplicable) for key, rows in combinations(landscape)
    ]
    first = next((result for result in results if result.group == PRIMARY_GROUP), results[0])
    # a point is done if any judge has judged it: another run would not change answers that a judge model left unparsed,
    # nor responses without an answer
    # an adaptive grid does not ask for inferred points
    landscape = landscape[~is_inferred(landscape)]
    judged = (responses(landscape) > 0) | landscape["n_correct"].notna()
    by_set = judged.groupby([landscape[key] for key in ("point_id", "probe_set", "group", "system_prompt")]).max()
    done = by_set.groupby("point_id").min()
    return SweepSummary(
        points_done=int(done.sum()),
        points_total=len(done),
        primary=first.key,
        prompts=first.prompts,
        points_missing=first.points_missing,
        origin_asr=first.origin_asr,
        origin_low=first.origin_low,
        origin_high=first.origin_high,
        visage=first.visage,
        margin=first.margin,
        basin=first.basin,
        degenerate_share=first.degenerate_share,
        classes=first.classes,
        unfinished=first.unfinished,
        nonfinite=first.nonfinite,
        points_nonfinite=first.points_nonfinite,
        results=tuple(results),
        intervals_version=INTERVALS_VERSION,
        scoring_version=SCORING_VERSION,
    )


def _summarize_result(
    key: ResultKey, rows: pd.DataFrame, verdicts: ProbeVerdicts | None, inapplicable: str | None
) -> ResultSummary:
    """Return the numbers of one combination. `inapplicable`: why it has no VISAGE, from `visage.why_inapplicable`."""
    probes = Probes.of(verdicts)
    rows = with_inferred(rows)
    curves = mean_curves(rows, probes, are_drawn=not are_chosen([rows]))
    rows = rows[[name for name in _USED if name in rows]]  # the lines are copied below: drop the other columns
    distinct = ~rows["point_id"].duplicated()
    grid = grid_points(rows)
    classes = _classes(rows)
    lines = split_lines(rows)
    origin = origin_row(rows)
    asr, low, high = (
        None if origin is None else none_if_missing(origin[name]) for name in ("asr", "asr_low", "asr_high")
    )
    return ResultSummary(
        probe_set=key.probe_set,
        group=key.group,
        system_prompt=key.system_prompt,
        judge=key.judge,
        prompts=int(responses(rows).max()),
        points_missing=int(((rows["n"] == 0) & ~is_inferred(rows))[distinct].sum()),
        origin_asr=asr,
        origin_low=low,
        origin_high=high,
        visage=summarize_visage(lines, verdicts, inapplicable),
        margin=summarize_margin(lines, verdicts, inapplicable),
        basin=summarize_basin(lines, probes),
        degenerate_share=classes.degenerate,
        classes=classes,
        unfinished=int(grid["n_unfinished"].sum()),
        nonfinite=int(grid["n_nonfinite"].sum()),
        points_nonfinite=int((grid["n_nonfinite"] > 0).sum()),
        clusters=probes.clusters,
        curves=curves,
    )


def _classes(rows: pd.DataFrame) -> SuccessClasses:
    """Return the successes of one result's points on the grid, by class. Their share is not corrected yet."""
    sums = grid_points(rows)[SUMS].sum()
    successes = int(sums["n"] - sums["n_refused"])

    def share(name: str) -> float | None:
        return 100.0 * int(sums[f"n_{name}"]) / successes if successes else None

    return SuccessClasses(
        successes=successes, complied=share("complied"), degenerate=share("degenerate"), unclear=share("unclear")
    )
