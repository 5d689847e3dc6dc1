"""Compare stored sweeps: differences of VISAGE, mean margin and ASR at each point, with intervals and p-values.

Each sweep is compared with the first, by its primary result. Points pair if they are the same point on the same line
(same seeds), probes if they are the same question. Differences are then taken probe by probe, so that effects that both
sweeps share (hard probes, hard directions) cancel out. If probes do not pair, the errors of the two sweeps add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from orchestrator.analysis import intervals, resampling, visage
from orchestrator.analysis.adapter_versions import older_version_note
from orchestrator.analysis.intervals import Error
from orchestrator.analysis.landscape import coordinates, primary_rows
from orchestrator.analysis.line_errors import error_over_directions, probe_arrays
from orchestrator.analysis.reducer import read_results
from orchestrator.analysis.results.basin import BasinSummary
from orchestrator.analysis.results.keys import RESULT_KEY, ResultKey
from orchestrator.analysis.results.scores import MarginSummary, VisageIntervals, VisageSummary
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.analysis.visage import MEAN_MARGIN, VISAGE, Score
from orchestrator.scoring.clusters import design_effect
from orchestrator.scoring.counts import ProbeVerdicts
from orchestrator.scoring.verdicts import refusals_by_probe
from orchestrator.store.discovery import latest_sweep
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.utils.errors import UserError
from orchestrator.utils.records import JsonRecord

SCHEMA = "comparison/1"
REDUCE_AGAIN = "it was reduced by an earlier version: `reduce` it again"
_FEWEST_SHARED = 2  # probes in common that are needed to pair them
_NODE = ["seed_x", "seed_y", "alpha", "beta", "point_id"]
_DIFFERENCE_BOUNDS = (-100.0, 100.0)  # a difference of two scores


@dataclass(frozen=True)
class ComparedSweep:
    """A sweep to compare.

    Attributes:
        name: Name of the model and of the sweep, as shown to users.
        rows: The landscape rows of the primary result.
        verdicts: Verdicts of the primary result by point and probe. None if no verdicts are stored.
        note: What an earlier version of the program measured otherwise. None if nothing.
        letter_scoring: `PromptSet.letter_scoring` of the primary result.
    """

    name: str
    rows: pd.DataFrame
    summary: SweepSummary
    verdicts: ProbeVerdicts | None
    note: str | None = None
    letter_scoring: str | None = None

    def headline(self) -> SweepHeadline:
        """Return the sweep's own numbers, without a comparison."""
        summary = self.summary
        return SweepHeadline(
            name=self.name,
            study_id=summary.study_id,
            sweep_id=summary.sweep_id,
            model=summary.model,
            primary=summary.primary,
            origin_asr=summary.origin_asr,
            visage=summary.visage,
            margin=summary.margin,
            basin=summary.basin,
            degenerate_share=summary.degenerate_share,
        )


@dataclass(frozen=True, kw_only=True)
class SweepHeadline(JsonRecord):
    """The numbers of one of the sweeps; see `SweepSummary`."""

    name: str
    study_id: str
    sweep_id: str
    model: str
    primary: ResultKey
    origin_asr: float | None
    visage: VisageSummary
    margin: MarginSummary | None
    basin: BasinSummary
    degenerate_share: float | None


@dataclass(frozen=True, kw_only=True)
class Difference(JsonRecord):
    """A difference in percent, second minus first, with its 95% interval and p-value.

    `p_corrected` is corrected for the number of tests; see `_correct`. Each value is None if it is undefined.
    """

    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_corrected: float | None


@dataclass(frozen=True, kw_only=True)
class PointDifference(JsonRecord):
    """The difference of ASR at a point that both sweeps measured, in percent; see `Difference`.

    Attributes:
        beta: None on a line.
        n: Number of probes with a verdict in both sweeps. If probes do not pair, their number in the first sweep.
    """

    line: int
    alpha: float
    beta: float | None
    point_id: str
    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float


@dataclass(frozen=True, kw_only=True)
class ScoreDifference(Difference):
    """The difference of VISAGE or of the mean margin.

    Attributes:
        about: Variation that the interval and the p-value cover: new `directions`, new `probes` or `both`. None if
            undefined.
        over: The intervals over new directions, new probes and both. None if the difference itself is undefined.
        paired_lines: Number of lines that were paired. 0 if the sweeps' own scores were compared.
        reason: Why a value is undefined. None if there is nothing to explain.
    """

    about: str | None
    over: VisageIntervals | None
    paired_lines: int
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class SweepDifference(JsonRecord):
    """Difference between one sweep and the first.

    Attributes:
        first: Name of the first sweep.
        second: Name of the other sweep.
        paired_probes: Number of probes in common. 0 if probes are not paired.
        paired_points: Number of points that both sweeps measured.
        visage: The difference of VISAGE.
        margin: The difference of the mean margin.
        points: The difference of ASR at each paired point.
        reason: Other differences between the sweeps, and probes that were left out. None if there are none.
    """

    first: str
    second: str
    paired_probes: int
    paired_points: int
    visage: ScoreDifference
    margin: ScoreDifference
    points: tuple[PointDifference, ...]
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Comparison(JsonRecord):
    """The result of `compare`."""

    schema: str = SCHEMA
    sweeps: tuple[SweepHeadline, ...]
    differences: tuple[SweepDifference, ...]


def read_sweeps(paths: Sequence[Path]) -> list[ComparedSweep]:
    """Read the sweep in each of these folders; if a folder holds several, the one that was used last.

    Raises:
        UserError: If there are fewer than two folders, or one holds no reduced sweep.
    """
    if len(paths) < 2:
        raise UserError("compare", " ".join(map(str, paths)), "name two sweeps or more: compare FOLDER FOLDER")
    sweeps = []
    for path in paths:
        stored = StoredSweep.open(latest_sweep(path))
        frame, summary = read_results(stored.folder)
        name = f"{summary.model or stored.study.id} / {stored.folder.path.name}"
        verdicts = refusals_by_probe(stored).get(summary.primary.combination)
        note = older_version_note(stored.record)
        key = summary.primary
        scoring = {(p.probe_set, p.group, p.system_prompt): p.letter_scoring for p in stored.prompt_sets}
        letters = scoring.get((key.probe_set, key.group, key.system_prompt))
        sweeps.append(ComparedSweep(name, primary_rows(frame), summary, verdicts, note, letters))
    return sweeps


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
    corrected = iter(_correct([score.p for score in scores if score.p is not None]))
    return [score if score.p is None else replace(score, p_corrected=next(corrected)) for score in scores]


def _correct(p: Sequence[float]) -> list[float]:
    """Correct p-values by the method of Benjamini and Yekutieli (Annals of Statistics 29, 2001).

    At most 5% of the differences with a corrected p-value below 0.05 are expected to be false, however the tests depend
    on each other. Those of one comparison share probes, and two-sided tests need not depend on each other positively,
    as the method of Benjamini and Hochberg requires.
    """
    return [float(x) for x in false_discovery_control(p, method="by")] if len(p) else []


def _compare_pair(first: ComparedSweep, second: ComparedSweep) -> SweepDifference:
    """Return the differences of two sweeps, second minus first.

    Answers whose letters are scored in different ways are not compared at all.
    """
    scoring = first.letter_scoring, second.letter_scoring
    if None not in scoring and scoring[0] != scoring[1]:
        return _not_compared(first, second, f"answers are scored in {scoring[0]} and in {scoring[1]}: not comparable")
    pairs = _pair_nodes(first.rows, second.rows)
    prompts = _shared_prompts(first.verdicts, second.verdicts)
    keys = zip(RESULT_KEY, first.summary.primary.combination, second.summary.primary.combination, strict=True)
    notes = [f"{name} differs: {one} and {two}" for name, one, two in keys if one != two]
    notes += [f"{sweep.name}: {sweep.note.rstrip('.')}" for sweep in (first, second) if sweep.note]
    if not prompts:
        notes.append("no probes in common, or no verdicts: probes are not paired")
    elif len(prompts) < max(first.summary.prompts, second.summary.prompts):
        notes.append(f"only the {len(prompts)} probes in common are compared")
    points = _compare_points(first, second, prompts)
    return SweepDifference(
        first=first.name,
        second=second.name,
        paired_probes=len(prompts),
        paired_points=len({point.point_id for point in points}),
        visage=_compare_score(VISAGE, pairs, first, second, prompts),
        margin=_compare_score(MEAN_MARGIN, pairs, first, second, prompts),
        points=points,
        reason="; ".join(notes) or None,
    )


def _not_compared(first: ComparedSweep, second: ComparedSweep, reason: str) -> SweepDifference:
    """Return a difference in which every number is undefined."""
    return SweepDifference(
        first=first.name,
        second=second.name,
        paired_probes=0,
        paired_points=0,
        visage=_undefined(reason),
        margin=_undefined(reason),
        points=(),
        reason=reason,
    )


def _shared_prompts(first: ProbeVerdicts | None, second: ProbeVerdicts | None) -> list[str]:
    """Return the ids of the probes that both sweeps used, in the first's order; none if they are too few to pair."""
    if first is None or second is None:
        return []
    other = set(second.prompts)
    shared = [prompt for prompt in first.prompts if prompt in other]
    return shared if len(shared) >= _FEWEST_SHARED else []


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


# Points.


def _compare_points(first: ComparedSweep, second: ComparedSweep, prompts: Sequence[str]) -> tuple[PointDifference, ...]:
    """Return the difference at each point that both sweeps measured, each point once."""
    distinct = [sweep.rows[sweep.rows["n"] > 0].drop_duplicates("point_id") for sweep in (first, second)]
    nodes = distinct[0].merge(distinct[1][["point_id", "n", "n_refused", "asr"]], on="point_id", suffixes=("", "_2"))
    if nodes.empty:
        return ()
    if prompts:
        assert first.verdicts is not None and second.verdicts is not None
        one, two = (verdicts.at(nodes["point_id"].tolist(), prompts) for verdicts in (first.verdicts, second.verdicts))
        known = ~np.isnan(one) & ~np.isnan(two)  # [point, prompt]
        measured = known.any(axis=1)
        nodes, one, two, known = nodes[measured], one[measured], two[measured], known[measured]
        n = known.sum(axis=1)
        asr1, asr2 = (100.0 * ((refused == 0) & known).sum(axis=1) / n for refused in (one, two))
        gained, lost = ((one == 1) & (two == 0)).sum(axis=1), ((one == 0) & (two == 1)).sum(axis=1)
        labels = first.verdicts.labels(prompts)
        effect = design_effect(np.where(known, one - two, np.nan), labels)
        share = intervals.effective_count(n, effect, len(labels), len(np.unique(labels))) / n
        low, high, p = intervals.matched(gained * share, lost * share, n * share)
    else:
        n, m = nodes["n"].to_numpy(), nodes["n_2"].to_numpy()
        asr1, asr2 = nodes["asr"].to_numpy(), nodes["asr_2"].to_numpy()
        shares = [_effective_share(sweep, count) for sweep, count in ((first, n), (second, m))]
        successes = n - nodes["n_refused"].to_numpy(), m - nodes["n_refused_2"].to_numpy()
        low, high, p = intervals.unmatched(
            successes[0] * shares[0], n * shares[0], successes[1] * shares[1], m * shares[1]
        )
    return tuple(
        PointDifference(
            line=int(node["line"]),
            alpha=float(node["alpha"]),
            beta=None if pd.isna(node["beta"]) else float(node["beta"]),
            point_id=node["point_id"],
            n=int(n[i]),
            first=float(asr1[i]),
            second=float(asr2[i]),
            difference=float(asr2[i] - asr1[i]),
            low=100.0 * float(low[i]),
            high=100.0 * float(high[i]),
            p=float(p[i]),
            p_corrected=corrected,
        )
        for i, (node, corrected) in enumerate(zip(nodes.to_dict("records"), _correct(p.tolist()), strict=True))
    )


def _effective_share(sweep: ComparedSweep, n: np.ndarray) -> np.ndarray:
    """Return how many independent probes tell as much as one of n probes of a sweep; 1 without clusters."""
    clusters = sweep.summary.primary_result.clusters
    return np.ones(len(n)) if clusters is None else clusters.effective(n) / n


# VISAGE and the mean margin.


def _compare_score(
    score: Score, pairs: pd.DataFrame, first: ComparedSweep, second: ComparedSweep, prompts: Sequence[str]
) -> ScoreDifference:
    """Return the difference over paired lines, points and probes, or of the sweeps' own scores if no line pairs."""
    for sweep in (first, second):
        inapplicable = visage.why_inapplicable(sweep.summary.grid)
        if inapplicable:
            return _undefined(f"{score.name} is undefined for {sweep.name}: {inapplicable}")
    parts = [part for _, part in pairs[pairs["on_grid"] & pairs["on_grid_2"]].groupby("line", sort=True)]
    both = [[score.measure(coordinates(part), part[column]).value for column in ("asr", "asr_2")] for part in parts]
    lines = [part for part, values in zip(parts, both, strict=True) if None not in values]
    if not lines:
        return _compare_own_scores(score, first, second)
    scores = np.array([values for values in both if None not in values], dtype=float)  # [line, sweep]
    if prompts:
        assert first.verdicts is not None and second.verdicts is not None
        one, positions = probe_arrays(lines, first.verdicts, prompts)
        two, _ = probe_arrays(lines, second.verdicts, prompts)
        on_shared = np.stack([resampling.score_of_lines(each, score.from_margins) for each in (one, two)], axis=1)
        defined = ~np.isnan(on_shared).any(axis=1)
        if not defined.any():
            return _undefined(f"with the probes in common {score.name} is undefined")
        scores = on_shared[defined]
        lines = [part for part, is_defined in zip(lines, defined, strict=True) if is_defined]
        probes = resampling.difference_error_over_probes(
            one[defined],
            two[defined],
            positions[defined],
            score=score.from_margins,
            labels=first.verdicts.labels(prompts),
        )
        step = 100.0 / len(prompts)
    else:
        probes = _add_errors(score, first, second, "probes")
        step = 100.0 / min(first.summary.prompts, second.summary.prompts)
    differences = (scores[:, 1] - scores[:, 0]).tolist()
    directions = error_over_directions(list(enumerate(lines)), differences, step)
    one_mean, two_mean = scores.mean(axis=0).tolist()
    value = float(np.mean(differences))
    difference = _score_difference(value, (one_mean, two_mean), directions, probes, paired_lines=len(lines))
    left_out = sorted({int(part["line"].iloc[0]) for part in parts} - {int(part["line"].iloc[0]) for part in lines})
    if not left_out:
        return difference
    reasons = [
        f"{score.name} is undefined on line {', '.join(map(str, left_out))}, which is left out",
        difference.reason,
    ]
    return replace(difference, reason="; ".join(reason for reason in reasons if reason))


def _own_score(score: Score, sweep: ComparedSweep) -> VisageSummary | MarginSummary | None:
    """Return a sweep's own score. None if the sweep was reduced by a version that did not compute it."""
    own: VisageSummary | MarginSummary | None = getattr(sweep.summary, score.key)
    return own


def _compare_own_scores(score: Score, first: ComparedSweep, second: ComparedSweep) -> ScoreDifference:
    """Return the difference of the sweeps' own scores, as if they were independent."""
    values = []
    for sweep in (first, second):
        own = _own_score(score, sweep)
        if own is None:
            return _undefined(f"{sweep.name}: {REDUCE_AGAIN}")
        if own.value is None:
            return _undefined(f"{sweep.name}: {own.reason}")
        values.append(own.value)
    directions, probes = (_add_errors(score, first, second, source) for source in ("directions", "probes"))
    return _score_difference(values[1] - values[0], (values[0], values[1]), directions, probes, paired_lines=0)


def _add_errors(score: Score, first: ComparedSweep, second: ComparedSweep, source: str) -> Error:
    """Return the error of the difference of two independent scores, over new `directions` or new `probes`.

    The squares of the standard errors add up (Welch 1947); the degrees of freedom are Satterthwaite's (1946).
    """
    own = [_own_score(score, sweep) for sweep in (first, second)]
    over = [None if entry is None else entry.over for entry in own]
    errors = [getattr(entry, source) for entry in over if entry is not None]
    known = [(error.se, error.df) for error in errors if error.se is not None]
    if len(known) < 2:
        reason = next((error.reason for error in errors if error.reason), REDUCE_AGAIN)
        return Error(None, None, reason)
    total = sum(se**2 for se, _ in known)
    if total == 0.0:
        return Error(0.0, min(df for _, df in known))
    return Error(total**0.5, total**2 / sum(se**4 / df for se, df in known))


def _score_difference(
    value: float, scores: tuple[float, float], directions: Error, probes: Error, paired_lines: int
) -> ScoreDifference:
    """Return a difference with its intervals.

    Its p-value and its own interval cover new directions and new probes if both errors are known, otherwise only the
    one that is known. Both are None if no line pairs and the spread between directions is unknown: the difference may
    then be one between directions.
    """
    over = VisageIntervals(
        directions=intervals.error_interval(value, directions, _DIFFERENCE_BOUNDS),
        probes=intervals.error_interval(value, probes, _DIFFERENCE_BOUNDS),
        both=intervals.interval(value, [directions, probes], _DIFFERENCE_BOUNDS),
    )
    errors = {"directions": directions, "probes": probes}
    known = {source: error for source, error in errors.items() if error.se is not None}
    about = "both" if len(known) == 2 else next(iter(known), None)
    reasons = [error.reason for error in errors.values() if error.reason]
    if not paired_lines and directions.se is None:
        about = None
        reasons.append("the sweeps share no direction, so their difference may be one between directions")
    return ScoreDifference(
        first=scores[0],
        second=scores[1],
        difference=value,
        low=getattr(over, about).low if about else None,
        high=getattr(over, about).high if about else None,
        p=intervals.p_value(value, list(known.values())) if about else None,
        p_corrected=None,
        about=about,
        over=over,
        paired_lines=paired_lines,
        reason="; ".join(reasons) or None,
    )


def _undefined(reason: str) -> ScoreDifference:
    return ScoreDifference(
        first=None,
        second=None,
        difference=None,
        low=None,
        high=None,
        p=None,
        p_corrected=None,
        about=None,
        over=None,
        paired_lines=0,
        reason=reason,
    )
