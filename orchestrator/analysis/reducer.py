"""Reduce a stored sweep: verdicts -> landscape -> summary.

Reducing needs no engine and can be repeated at any time, because it only reads stored data. This module writes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from orchestrator.analysis import distances, published
from orchestrator.analysis.agreement import summarize_agreement
from orchestrator.analysis.components import TARGET, Wanted, with_plans
from orchestrator.analysis.curves import Probes
from orchestrator.analysis.inferred import add_inferred
from orchestrator.analysis.landscape import (
    build_landscape,
    check_columns,
    combinations,
    split_lines,
    with_all_counts,
    with_inferred,
)
from orchestrator.analysis.requested import has_other_rule, requested
from orchestrator.analysis.results.basin import Estimate
from orchestrator.analysis.results.checkpoints import MEAN_RADIUS, CheckpointResult, CheckpointSummary, MatchedDistance
from orchestrator.analysis.results.clusters import ClusterSummary
from orchestrator.analysis.results.judges import JUDGE_RECORD, JudgeSummary, VerdictCounts
from orchestrator.analysis.results.keys import PromptsKey, ResultKey
from orchestrator.analysis.results.sweep import AdaptiveSummary, ResultSummary, SweepSummary
from orchestrator.analysis.share_corrections import ShareCorrections
from orchestrator.analysis.summary.basin import summarize_basin
from orchestrator.analysis.summary.checkpoints import summarize_checkpoints
from orchestrator.analysis.summary.sweep import summarize
from orchestrator.judges import Judge
from orchestrator.judges._model import UNPARSED
from orchestrator.prompts import capability
from orchestrator.scoring.counts import Combination, ProbeVerdicts, counts, pooled_counts
from orchestrator.scoring.cut_responses import cut_by_task
from orchestrator.scoring.log_probability import SweepLogProbabilities
from orchestrator.scoring.panel import load_panel
from orchestrator.scoring.verdicts import (
    degeneracy_id,
    degeneracy_version,
    log_probability_version,
    outcomes,
    refusals_by_probe,
    verdict_counts,
)
from orchestrator.store.parts import TaskKey
from orchestrator.store.records import RunRecord
from orchestrator.store.runs import engines_of, given_up, with_totals
from orchestrator.store.schemas import RESPONSE_KEY
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.grid import Sweep
from orchestrator.sweep.prompt_rendering import renderings
from orchestrator.sweep.tasks import NONFINITE, PromptSet
from orchestrator.sweep.thoughts import Answers
from orchestrator.utils.errors import UserError


def read_results(folder: SweepFolder) -> tuple[pd.DataFrame, SweepSummary]:
    """Return a sweep's stored landscape and summary. Raises UserError if there are none to read."""
    with folder.explained():
        frame, summary = folder.read_landscape()
        check_columns(frame)
        return with_all_counts(frame), SweepSummary.from_json(summary)


def stored_summaries(study: Study) -> Iterator[SweepSummary]:
    """Yield the summaries of a study's sweeps, by the names of their folders, without those that cannot be read."""
    return (summary for _, summary in folders_and_summaries(study))


def folders_and_summaries(study: Study) -> Iterator[tuple[SweepFolder, SweepSummary]]:
    """Yield what `stored_summaries` does, with the folders."""
    for path in sorted(study.root.glob("sweeps/*")):
        with contextlib.suppress(UserError):
            folder = SweepFolder(study, path)
            with folder.explained():
                summary = SweepSummary.from_json(folder.read_summary())
            yield folder, summary


# The landscape.


def reduce_landscape(stored: StoredSweep, refusals: Mapping[Combination, ProbeVerdicts] | None = None) -> pd.DataFrame:
    """Return the sweep's landscape from the verdicts that are stored.

    Args:
        stored: The sweep.
        refusals: What `refusals_by_probe` returned. None: it is read.
    """
    if refusals is None:
        refusals = refusals_by_probe(stored)
    panel = load_panel(stored)
    pooled = stored.pooled
    counted = [_with_enough(counts(outcomes(stored, judge), judge.name), judge, stored) for judge in panel]
    sets = pd.DataFrame(
        [
            {"prompt_set_id": p.id, "probe_set": p.probe_set, "group": p.group, "system_prompt": p.system_prompt}
            for p in pooled.sets
        ]
    )
    names = stored.sweep.judges
    correct = pooled_counts(count_correct(stored), pooled)
    clusters = {key: ClusterSummary.of(verdicts) for key, verdicts in refusals.items()}
    tallies = pooled_counts(pd.concat(counted, ignore_index=True), pooled)
    frame = build_landscape(nodes(stored.sweep), tallies, sets, names, correct, clusters)
    inapplicable = _inapplicable(panel, stored.prompt_sets)
    kept = [key not in inapplicable for key in zip(frame["judge"], frame["group"], strict=True)]
    frame = frame if all(kept) else frame[kept].reset_index(drop=True)
    if stored.sweep.grid.adaptive is None:
        return frame
    set_ids = {p.names: p.id for p in pooled.sets}
    known = pooled.keys(stored.generations.keys() | requested(stored).keys)
    return add_inferred(frame, stored.sweep.grid, set_ids, known)


def _with_enough(tallies: pd.DataFrame, judge: Judge, stored: StoredSweep) -> pd.DataFrame:
    """Return the counts of the tasks of which the judge has judged enough responses.

    These are tasks without a cut response, because the whole ones beside it are mostly not refused, and tasks of which
    it has judged at least the share `Judge.least_share`.
    """
    if cut := cut_by_task(stored, judge):
        keys = zip(tallies["point_id"], tallies["prompt_set_id"], strict=True)
        tallies = tallies[[key not in cut for key in keys]]
    if not judge.least_share:
        return tallies
    sizes = {prompts.id: len(prompts.prompts) for prompts in stored.prompt_sets}
    return tallies[tallies["n"] >= judge.least_share * tallies["prompt_set_id"].map(sizes).astype("float64")]


def nodes(sweep: Sweep) -> pd.DataFrame:
    """Return the sweep's nodes, a row each: the first argument of `build_landscape`."""
    keys = ("line", "alpha", "beta", "on_grid", "seed_x", "seed_y", "mark", "projected")
    columns: dict[str, list[Any]] = {key: [] for key in (*keys, "point_id")}
    for node in sweep.grid.iter_nodes():
        for key in keys:
            columns[key].append(getattr(node, key))
        columns["point_id"].append(node.point.id)
    return pd.DataFrame(columns)


def _inapplicable(panel: Sequence[Judge], prompt_sets: Sequence[PromptSet]) -> set[tuple[str, str]]:
    """Return the pairs of judge and prompt group to which the judge does not apply: they get no landscape rows."""
    pairs = {(judge.name, p.group) for judge in panel for p in prompt_sets if not judge.applies_to(p.group)}
    if all((judge.name, capability.GROUP) in pairs for judge in panel):
        pairs.discard((panel[0].name, capability.GROUP))  # correct answers need no judge, but they need a row
    return pairs


def count_correct(stored: StoredSweep) -> pd.DataFrame:
    """Count the correct answers to each capability set at each point. Needs no judge.

    Only the answer in a response counts, not its thought. A thought without an end is a wrong answer.

    Returns:
        Columns point_id, prompt_set_id, n_asked (number of stored answers), n_correct and n_nonfinite (number of
        responses that are no answers). Points without responses have no row.
    """
    questions = {
        p.id: {prompt.id: (prompt.target or "", prompt.choices) for prompt in p.prompts}
        for p in stored.prompt_sets
        if p.group == capability.GROUP
    }
    tallies: dict[TaskKey, list[int]] = {}
    answers = Answers(stored.prompt_sets, stored.sweep.thought)
    if questions:
        parts = {key: part for key, part in stored.generations.items() if key[1] in questions}
        for _, table in stored.study.generations.rows(parts):
            names = (*RESPONSE_KEY, "response", "scores", "finish_reason")
            columns = (table[name].to_pylist() for name in names)
            for point, set_id, prompt, response, scores, reason in zip(*columns, strict=True):
                tally = tallies.setdefault((point, set_id), [0, 0, 0])
                if reason == NONFINITE:
                    tally[2] += 1
                    continue
                tally[0] += 1
                answer = answers.of(set_id, prompt, response) or ""
                tally[1] += capability.is_correct(*questions[set_id][prompt], answer, scores)
    rows = [(*key, *tally) for key, tally in tallies.items()]
    return pd.DataFrame(rows, columns=["point_id", "prompt_set_id", "n_asked", "n_correct", "n_nonfinite"])


# The summary.


def reduce_summary(
    stored: StoredSweep,
    frame: pd.DataFrame,
    refusals: Mapping[Combination, ProbeVerdicts] | None = None,
    target: float = TARGET,
    unit_sweeps: Collection[str | None] | None = None,
) -> SweepSummary:
    """Return the sweep's summary: the landscape's numbers, the request, and the cost of all runs together.

    Args:
        stored: The sweep.
        frame: Its landscape.
        refusals: What `refusals_by_probe` returned. None: it is read.
        target: The half-width of VISAGE's interval to plan for, percent.
        unit_sweeps: Ids of the sweeps whose basins may be the units of the distances of checkpoints. None: all of the
            study.
    """
    if refusals is None:
        refusals = refusals_by_probe(stored)
    model, grid = stored.study.info.model, stored.sweep.grid.to_json()
    runs = with_totals(stored.study, stored.record.runs)
    numbers = with_plans(summarize(frame, refusals, grid), Wanted(target, _seconds_per_response(runs)))
    corrections = ShareCorrections(stored)
    parts = dict(combinations(frame))
    results = tuple(
        dataclasses.replace(
            _with_published_visage(stored, result),
            chance=capability.chance_level(_prompt_set(stored, result).prompts),
            classes=corrections.apply(result, parts[result.key], _prompt_set(stored, result).sampling.max_tokens),
        )
        for result in numbers.results
    )
    primary = next(result for result in results if result.key == numbers.primary)
    geometry = stored.record.target_geometry
    return dataclasses.replace(
        numbers,
        study_id=stored.study.id,
        sweep_id=stored.sweep.id,
        model=model,
        grid=grid,
        results=results,
        adaptive=_adaptive(stored, frame),
        until=next((run.until for run in reversed(runs) if run.until is not None), None),
        classes=primary.classes,
        degenerate_version=degeneracy_version(stored),
        degenerate_id=degeneracy_id(stored),
        published=primary.published,
        published_note=primary.published_note,
        plane_share=None if geometry is None else geometry.plane_share,
        checkpoints=_checkpoints(stored, frame, numbers.primary, unit_sweeps),
        judges=tuple(_judge_summary(stored, judge) for judge in load_panel(stored)),
        agreement=summarize_agreement(refusals) if len(stored.sweep.judges) > 1 else (),
        log_probability=SweepLogProbabilities(stored).coverage(),
        log_probability_version=log_probability_version(stored),
        rendering=renderings(stored.prompt_sets, stored.sweep.thought),
        tasks_failed=len(given_up(runs) - stored.generations.keys()),
        seconds=round(sum(run.seconds for run in runs), 1),
        tokens=sum(run.totals.tokens for run in runs),
        restarts=sum(run.totals.restarts for run in runs),
        actors=max((run.totals.actors for run in runs), default=0),
        actors_at_once=max((run.totals.actors_at_once for run in runs), default=0) or None,
        ready_seconds=round(sum(run.totals.ready_seconds for run in runs), 1),
        idle_seconds=round(sum(run.totals.idle_seconds for run in runs), 1),
        speculative=sum(run.totals.speculative for run in runs),
        engines=tuple(engines_of(stored.generations)),
        versions=next((run.versions for run in reversed(runs) if run.versions), {}),
    )


def _adaptive(stored: StoredSweep, frame: pd.DataFrame) -> AdaptiveSummary | None:
    """Return which nodes an adaptive sweep measured and which it inferred. None if its grid is not adaptive."""
    chosen = stored.sweep.grid.adaptive
    if chosen is None:
        return None
    asked = requested(stored)
    points = frame[frame["on_grid"].astype(bool)].groupby("point_id")["inferred"].all()
    measured = {point for point, _ in stored.generations} & set(points.index)
    summary = AdaptiveSummary(
        judge=chosen.judge,
        rule=chosen.rule,
        points=len(points),
        measured=len(measured),
        inferred=int(points.sum()),
        audited=sum(len(refinement.audited) for refinement in asked.refinements),
        failed_audits=sum(len(refinement.failed_audits) for refinement in asked.refinements),
        levels=max((refinement.level + 1 for refinement in asked.refinements), default=0),
        complete=bool(asked.refinements) and asked.is_final and asked.keys <= stored.generations.keys(),
        unrequested=len(measured - {task.point.id for task in asked.tasks}),
    )
    before = _stored_adaptive(stored) if has_other_rule(stored.sweep.grid) and stored.folder.has_results else None
    if before is None:
        return summary
    return dataclasses.replace(before, measured=summary.measured, inferred=summary.inferred)


def _stored_adaptive(stored: StoredSweep) -> AdaptiveSummary | None:
    """Return what the stored summary says about an adaptive grid. None if there is no summary that can be read."""
    with contextlib.suppress(UserError):
        return SweepSummary.from_json(stored.folder.read_summary()).adaptive
    return None


def _with_published_visage(stored: StoredSweep, result: ResultSummary) -> ResultSummary:
    """Return a result with the paper's VISAGE, or why it is not comparable."""
    info, grid = stored.study.info, stored.sweep.grid.to_json()
    papers = published.visage(info.model, info.dtype, grid, result, _prompt_set(stored, result))
    if papers is None:
        return result
    return dataclasses.replace(result, published=papers.value, published_note=papers.note)


def _with_published_asr(stored: StoredSweep, recipe: str, result: CheckpointResult) -> CheckpointResult:
    """Return a checkpoint's result with the paper's ASR, or why it is not comparable."""
    info = stored.study.info
    papers = published.finetuned(info.model, info.dtype, recipe, result, _prompt_set(stored, result))
    if papers is None:
        return result
    return dataclasses.replace(result, published=papers.value, published_note=papers.note)


def _prompt_set(stored: StoredSweep, key: PromptsKey) -> PromptSet:
    """Return the stored prompts that a result is about."""
    names = (key.probe_set, key.group, key.system_prompt)
    return next(p for p in stored.pooled.sets if p.names == names)


def _seconds_per_response(runs: Sequence[RunRecord]) -> float | None:
    """Return the time of all runs divided by their number of responses; None before the first response."""
    responses = sum(run.totals.responses for run in runs)
    return sum(run.seconds for run in runs) / responses if responses else None


def _judge_summary(stored: StoredSweep, judge: Judge) -> JudgeSummary:
    """Return the counts of a judge's verdicts by prompt set, and the record of its weights."""
    verdicts, mean_scores = verdict_counts(stored, judge)
    record = stored.folder.read_judge_record(judge.name)
    if judge.source:
        record |= {"file": judge.origin, "file_sha256": judge.source}
    sets = tuple(
        VerdictCounts(
            probe_set=p.probe_set,
            group=p.group,
            system_prompt=p.system_prompt,
            verdicts=verdicts[p.id],
            mean_score=mean_scores.get(p.id),
        )
        for p in stored.pooled.sets
        if p.id in verdicts
    )
    return JudgeSummary(
        judge=judge.name,
        judge_id=judge.id,
        version=judge.version,
        record={key: record[key] for key in JUDGE_RECORD if key in record},
        unparsed=sum(by_verdict.get(UNPARSED, 0) for by_verdict in verdicts.values()),
        sets=sets,
    )


def _checkpoints(
    stored: StoredSweep, frame: pd.DataFrame, primary: ResultKey, unit_sweeps: Collection[str | None] | None
) -> tuple[CheckpointSummary, ...]:
    """Return the checkpoints on or projected onto the grid, with their distances from the model.

    Distances are in units of alpha of a random direction. If sweeps of this study have measured the basin along random
    directions, or along directions that match a checkpoint, distances are also given in units of its mean radius there.
    """
    summaries = summarize_checkpoints(frame)
    if not summaries:
        return ()
    geometry = stored.record.target_geometry
    directions = {
        node.point.id: direction
        for node in stored.sweep.grid.iter_nodes()
        if node.mark
        for direction, _ in node.point.coefficients
    }
    units = _UnitSweeps(stored.study, primary, unit_sweeps)
    measured = units.random_basin()
    mean_radius = Estimate(reason=distances.NO_BASIN) if measured is None else measured.basin.mean_radius
    placed = []
    for checkpoint in summaries:
        distance, recipe = None, checkpoint.mark
        direction = directions[checkpoint.point_id]
        if geometry is not None:
            # a control is as long as its reference
            distance = geometry.alpha_of(direction.fingerprint or direction.reference or "")
            recipe = geometry.recipes.get(checkpoint.mark, checkpoint.mark)
        results = tuple(_with_published_asr(stored, recipe, result) for result in checkpoint.results)
        radii = distances.in_radii(distance, mean_radius)
        placed.append(
            dataclasses.replace(
                checkpoint,
                results=results,
                distance=distance,
                radii=radii.value,
                radii_unit=MEAN_RADIUS,
                radii_low=radii.low,
                radii_high=radii.high,
                radius=None if measured is None else measured.basin.radius,
                mean_radius=mean_radius,
                radius_of=None if measured is None else measured.sweep_id,
                radius_reason=radii.reason,
                matched=units.matched_distances(direction.fingerprint),
            )
        )
    return tuple(placed)


class _UnitSweeps:
    """The sweeps of a study whose basins can be units of distance, with the basins that their rows give.

    A stored summary only says that its sweep has been reduced. Its numbers are not used, because its hash does not show
    that they follow from the rows (see `recomputation.py`).
    """

    def __init__(self, study: Study, primary: ResultKey, ids: Collection[str | None] | None) -> None:
        """Find the sweeps along random lines with this primary result. `ids`: the sweeps to admit. None: all."""
        self._primary = primary
        self._folders: dict[str, SweepFolder] = {}
        self._measured: dict[str, SweepSummary] = {}
        self._sweeps: list[SweepSummary] = []
        for folder, stored_summary in folders_and_summaries(study):
            grid = folder.read_record().request.get("grid", {})
            summary = dataclasses.replace(stored_summary, grid=grid)
            if (ids is None or summary.sweep_id in ids) and distances.line_sweeps([summary], primary):
                self._folders[summary.sweep_id] = folder
                self._sweeps.append(summary)

    def random_basin(self) -> SweepSummary | None:
        """Return the sweep that `distances.random_basin` selects."""
        return self._measure(distances.random_basin(self._sweeps))

    def matched_distances(self, fingerprint: str | None) -> tuple[MatchedDistance, ...]:
        """Return what `distances.matched_distance` does, for each kind of direction that matches a checkpoint."""
        sweeps = distances.matched_sweeps(self._sweeps, fingerprint)
        measured = {kind: self._measure(sweep) for kind, sweep in sweeps.items()}
        return tuple(distances.matched_distance(kind, sweep) for kind, sweep in measured.items() if sweep is not None)

    def _measure(self, sweep: SweepSummary | None) -> SweepSummary | None:
        """Return a sweep with the basin that its rows give."""
        if sweep is None:
            return None
        if sweep.sweep_id not in self._measured:
            stored = StoredSweep.open(self._folders[sweep.sweep_id])
            refusals = refusals_by_probe(stored)
            rows = with_inferred(dict(combinations(reduce_landscape(stored, refusals)))[self._primary])
            basin = summarize_basin(split_lines(rows), Probes.of(refusals.get(self._primary.combination)))
            self._measured[sweep.sweep_id] = dataclasses.replace(sweep, basin=basin)
        return self._measured[sweep.sweep_id]
