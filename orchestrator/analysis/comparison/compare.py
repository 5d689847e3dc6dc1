"""Compare sweeps with the first of them: pair their nodes and probes, and correct the p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from orchestrator.analysis.comparison.classes import compare_degenerate
from orchestrator.analysis.comparison.correction import correct
from orchestrator.analysis.comparison.differences import Comparison, ScoreDifference, SweepDifference
from orchestrator.analysis.comparison.points import compare_points
from orchestrator.analysis.comparison.scores import compare_score
from orchestrator.analysis.comparison.sweeps import ComparedSweep
from orchestrator.analysis.comparison.tensors import describe_differences
from orchestrator.analysis.landscape import is_inferred
from orchestrator.analysis.results.keys import RESULT_KEY
from orchestrator.analysis.visage import MEAN_MARGIN, VISAGE
from orchestrator.scoring.counts import ProbeVerdicts

_MIN_SHARED = 2  # probes in common that are needed to pair them
_NODE = ["seed_x", "seed_y", "alpha", "beta", "point_id"]


def compare(sweeps: Sequence[ComparedSweep]) -> Comparison:
    """Compare each further sweep with the first."""
    differences = [_compare_pair(sweeps[0], other) for other in sweeps[1:]]
    visages, margins = (_with_corrected([getattr(d, key) for d in differences]) for key in ("visage", "margin"))
    return Comparison(
        sweeps=tuple(sweep.headline() for sweep in sweeps),
        differences=tuple(
            replace(d, visage=one, margin=other) for d, one, other in zip(differences, visages, margins, strict=True)
        ),
    )


def _with_corrected(scores: Sequence[ScoreDifference]) -> list[ScoreDifference]:
    """Return the differences of a score between all sweeps and the first, with their corrected p-values."""
    corrected = iter(correct([score.p for score in scores if score.p is not None]))
    return [score if score.p is None else replace(score, p_corrected=next(corrected)) for score in scores]


def _compare_pair(first: ComparedSweep, second: ComparedSweep) -> SweepDifference:
    """Return the differences of two sweeps, second minus first.

    Answers whose letters are scored in different ways, and models that move different tensors, are not compared at all.
    """
    scoring = first.letter_scoring, second.letter_scoring
    if None not in scoring and scoring[0] != scoring[1]:
        return _not_compared(first, second, f"answers are scored in {scoring[0]} and in {scoring[1]}: not comparable")
    if differing := _differing_tensors(first, second):
        return _not_compared(first, second, f"their directions do not move the same tensors: {differing}")
    pairs = _pair_nodes(first.rows, second.rows)
    prompts = _shared_prompts(first.verdicts, second.verdicts)
    keys = zip(RESULT_KEY, first.summary.primary.combination, second.summary.primary.combination, strict=True)
    notes = [f"{name} differs: {one} and {two}" for name, one, two in keys if one != two]
    notes += [f"{sweep.name}: {sweep.note.rstrip('.')}" for sweep in (first, second) if sweep.note]
    if tensors_note := _unchecked_tensors(first, second):
        notes.append(tensors_note)
    if not prompts:
        notes.append("no probes in common, or no verdicts: probes are not paired")
    elif len(prompts) < max(first.summary.prompts, second.summary.prompts):
        notes.append(f"only the {len(prompts)} probes in common are compared")
    if adaptive := [sweep.name for sweep in (first, second) if is_inferred(sweep.rows).any()]:
        notes.append(
            f"points of {' and '.join(adaptive)} are inferred: only points that both measured are compared, and the "
            "scores compared are means over these"
        )
    points = compare_points(first, second, prompts)
    return SweepDifference(
        first=first.name,
        second=second.name,
        paired_probes=len(prompts),
        paired_points=len({point.point_id for point in points}),
        visage=compare_score(VISAGE, pairs, first, second, prompts),
        margin=compare_score(MEAN_MARGIN, pairs, first, second, prompts),
        points=points,
        reason="; ".join(notes) or None,
        degenerate=compare_degenerate(first.summary, second.summary),
    )


def _differing_tensors(first: ComparedSweep, second: ComparedSweep) -> str | None:
    """Return as text which tensors differ between the models. None if the stored directions show no difference."""
    if first.moved is None or second.moved is None:
        return None
    models = first.summary.model, second.summary.model
    names = (first.name, second.name) if models[0] == models[1] else models
    return describe_differences(names, first.moved, second.moved)


def _unchecked_tensors(first: ComparedSweep, second: ComparedSweep) -> str | None:
    """Return a note that the two models may not move the same tensors. None if their directions show that they do."""
    if first.summary.study_id == second.summary.study_id or not (first.has_directions and second.has_directions):
        return None
    missing = [sweep.name for sweep in (first, second) if sweep.moved is None]
    if missing:
        return f"no directions are stored for {' and '.join(missing)}: whether both move the same tensors is not known"
    older = [sweep.name for sweep in (first, second) if sweep.moved is not None and not sweep.moved.complete]
    if older:
        return f"the stored directions of {' and '.join(older)} hold no shapes: only the tensors' names were compared"
    return None


def _not_compared(first: ComparedSweep, second: ComparedSweep, reason: str) -> SweepDifference:
    """Return a difference in which every number is undefined."""
    return SweepDifference(
        first=first.name,
        second=second.name,
        paired_probes=0,
        paired_points=0,
        visage=ScoreDifference.undefined(reason),
        margin=ScoreDifference.undefined(reason),
        points=(),
        reason=reason,
    )


def _shared_prompts(first: ProbeVerdicts | None, second: ProbeVerdicts | None) -> list[str]:
    """Return the ids of the probes that both sweeps used, in the first's order; none if they are too few to pair."""
    if first is None or second is None:
        return []
    other = set(second.prompts)
    shared = [prompt for prompt in first.prompts if prompt in other]
    return shared if len(shared) >= _MIN_SHARED else []


def _pair_nodes(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return the measured nodes that both sweeps have, on the first's lines; columns of the second end in `_2`.

    Lines along random directions pair by their seeds, lines toward checkpoints by their number.
    """
    columns = ["line", *_NODE, "on_grid", "n", "n_refused", "asr"]
    tables = []
    for rows in (first, second):
        table = rows.loc[rows["n"] > 0, columns].copy()
        is_random = table["seed_x"].notna() | table["seed_y"].notna()
        table["by_line"] = table["line"].where(~is_random, -1)
        tables.append(table)
    keys = [*_NODE, "by_line"]
    return tables[0].merge(tables[1], on=keys, suffixes=("", "_2")).drop(columns="by_line")
