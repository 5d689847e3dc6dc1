"""Answers are views of what is stored: judge what has no verdict yet, count, lay out the landscape, sum up, draw.

Needs no engine. Everything here can be done again at any time, from the evidence alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator import judges
from orchestrator.analysis import published
from orchestrator.analysis.agreement import summarize_agreement
from orchestrator.analysis.landscape import build_landscape, to_table
from orchestrator.analysis.results import (
    JUDGE_RECORD,
    CheckpointSummary,
    JudgeSummary,
    ResultKey,
    SweepSummary,
    VerdictCounts,
)
from orchestrator.analysis.summary import summarize, summarize_checkpoints
from orchestrator.config.schema import ReportConfig
from orchestrator.judges import Judge
from orchestrator.judges._model import UNPARSED, ModelJudge
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.prompts import capability
from orchestrator.scoring import counts as counting
from orchestrator.scoring.panel import bench, check_judges
from orchestrator.store.parts import Part, TaskKey
from orchestrator.store.runs import totals
from orchestrator.store.schemas import JUDGEMENTS
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.grid import Sweep
from orchestrator.sweep.target_geometry import TargetGeometry
from orchestrator.sweep.tasks import Prompt, PromptSet
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id, text_id

FLUSH_ROWS = 50_000  # judgements a part
_ROW = ["point_id", "prompt_set_id", "prompt_id"]

Advance = Callable[[int], None]
Find = Callable[[Prompt, str], tuple[str, float | None] | None]  # (prompt, response) -> (verdict, score); None: unknown
Winners = Mapping[TaskKey, Part]


def engines(winners: Winners) -> list[dict[str, Any]]:
    """The identities of the engines that made these parts, each once."""
    found = {content_id(part.meta["engine"]): part.meta["engine"] for part in winners.values()}
    return [found[key] for key in sorted(found)]


def given_up(record: Mapping[str, Any]) -> set[TaskKey]:
    """The tasks that runs of a sweep gave up, whatever became of them later."""
    failures = (failure for run in record.get("runs", []) for failure in run.get("failures", []))
    return {(failure["point_id"], set_id) for failure in failures for set_id in failure["prompt_set_ids"]}


# Judging.


def judge_missing(
    study: Study,
    judge: Judge,
    winners: Winners,
    prompt_sets: Sequence[PromptSet],
    advance: Advance | None = None,
    find: Find | None = None,
) -> int:
    """Store the judge's verdict on every response of these tasks that has none; how many that were.

    `advance` hears how many responses were judged since it was last called. `find`: where verdicts come from, if not
    from the judge itself; a task of which one is not known is left out whole.
    """
    find = find or (lambda prompt, response: (judge.verdict(prompt.text, response), None))
    known = study.judgements(judge.id).covering(winners)
    prompts = {prompt.id: prompt for each in prompt_sets for prompt in each.prompts}
    rows: list[pa.Table] = []
    judged: dict[TaskKey, str] = {}
    total = 0

    def flush() -> None:
        if rows:
            study.judgements(judge.id).write(pa.concat_tables(rows), judged)
            rows.clear()
            judged.clear()

    for part, table in study.generations.rows({key: part for key, part in winners.items() if key not in known}):
        table = _judge(judge, table, prompts, find)
        rows.append(table)
        judged |= {key: part.tasks[key] for key in zip(*(table[c].to_pylist() for c in _ROW[:2]), strict=True)}
        total += table.num_rows
        if advance:
            advance(table.num_rows)
        if sum(r.num_rows for r in rows) >= FLUSH_ROWS:
            flush()
    flush()
    return total


def _judge(judge: Judge, table: pa.Table, prompts: Mapping[str, Prompt], find: Find) -> pa.Table:
    responses = table["response"].to_pylist()
    asked = [prompts[prompt_id] for prompt_id in table["prompt_id"].to_pylist()]
    found = [find(prompt, response) for prompt, response in zip(asked, responses, strict=True)]
    columns = {
        "judge_id": [judge.id] * table.num_rows,
        **{name: table[name] for name in _ROW},
        "response_id": [text_id(response) for response in responses],
        "verdict": [None if each is None else each[0] for each in found],
        "score": [None if each is None else each[1] for each in found],
    }
    judged = pa.table(columns, schema=JUDGEMENTS)
    if None not in found:
        return judged
    tasks = list(zip(*(judged[name].to_pylist() for name in _ROW[:2]), strict=True))
    open_ = {task for task, each in zip(tasks, found, strict=True) if each is None}
    return judged.filter(pa.array([task not in open_ for task in tasks]))


def verdicts(study: Study, judge: Judge, winners: Winners) -> Iterator[pa.Table]:
    """A judge's stored verdicts on these tasks, and whether each response is degenerate: what `counting.counts` takes.

    A part of judgements at a time, so that memory does not grow with the study.
    """
    groups = {set_id: study.prompt_sets.read(set_id).group for set_id in {key[1] for key in winners}}
    winners = {key: part for key, part in winners.items() if judge.applies_to(groups[key[1]])}
    own, beside = study.judgements(judge.id).covering(winners), study.judgements(DEGENERATE.id).covering(winners)
    both = {key: part for key, part in own.items() if key in beside}
    for part, table in study.judgements(judge.id).rows(both):
        others = [
            t for _, t in study.judgements(DEGENERATE.id).rows({key: beside[key] for key in part.tasks if key in both})
        ]
        degenerate = pa.concat_tables([JUDGEMENTS.empty_table(), *others])  # none, where what held them is damaged
        if not all(table[name].equals(degenerate[name]) for name in _ROW):
            ruined = degenerate.select([*_ROW, "verdict"]).rename_columns([*_ROW, "ruin"])
            table = table.join(ruined, keys=_ROW, join_type="inner")
            ruin = table["ruin"]
        else:
            ruin = degenerate["verdict"]
        flags = pc.equal(ruin, "degenerate")
        names = [*_ROW, "verdict", "judge", "degenerate"]
        columns = [*(table[n] for n in names[:4]), pa.repeat(judge.name, table.num_rows), flags]
        yield _counted(judge, groups, pa.table(columns, names=names))


def by_probe(
    study: Study, sweep: Sweep, prompt_sets: Sequence[PromptSet], winners: Winners | None = None
) -> dict[counting.Combination, counting.Verdicts]:
    """Who refused what, for each of the sweep's results that has verdicts: what intervals over new probes need.
    `winners`, here and below: what is stored of the sweep, if it is known already."""
    winners = study.generations.stored_of(sweep.tasks()) if winners is None else winners
    found: dict[counting.Combination, counting.Verdicts] = {}
    for judge in bench(study, sweep):
        name = judge.name
        made = counting.by_probe(verdicts(study, judge, winners), name)
        for p in prompt_sets:
            if (p.id, name) in made:
                found[p.probe_set, p.group, p.system_prompt, name] = made[p.id, name]
    return found


def _counted(judge: Judge, groups: Mapping[str, str], table: pa.Table) -> pa.Table:
    """A judge's own words turned into `refused` and `complied`; rows without either are left out."""
    if not isinstance(judge, ModelJudge):
        return table
    words = zip(table["verdict"].to_pylist(), table["prompt_set_id"].to_pylist(), strict=True)
    outcomes = pa.array([judge.outcome(verdict, groups[set_id]) for verdict, set_id in words], pa.string())
    table = table.set_column(table.column_names.index("verdict"), "verdict", outcomes)
    return table.filter(pc.is_valid(outcomes))


def told(study: Study, sweep: Sweep, prompt_sets: Sequence[PromptSet], winners: Winners) -> tuple[JudgeSummary, ...]:
    """What each judge said, in its own words, how often: by prompt set, over all points; and which weights said it."""
    folder = SweepFolder.of(study, sweep).path
    found = []
    for judge in bench(study, sweep):
        counts: dict[str, dict[str, int]] = {}
        scores: dict[str, list[float]] = {}
        judgements = study.judgements(judge.id)
        for _, table in judgements.rows(judgements.covering(winners)):
            sums = [("response_id", "count"), ("score", "sum"), ("score", "count")]
            for row in table.group_by(["prompt_set_id", "verdict"], use_threads=False).aggregate(sums).to_pylist():
                own = counts.setdefault(row["prompt_set_id"], dict.fromkeys(judge.verdicts, 0))
                own[row["verdict"]] += row["response_id_count"]
                if row["score_count"]:
                    total = scores.setdefault(row["prompt_set_id"], [0.0, 0])
                    total[0], total[1] = total[0] + row["score_sum"], total[1] + row["score_count"]
        known = SweepFolder(study, folder).read_judge(judge.name) if isinstance(judge, ModelJudge) else {}
        sets = tuple(
            VerdictCounts(
                probe_set=p.probe_set,
                group=p.group,
                system_prompt=p.system_prompt,
                verdicts=counts[p.id],
                mean_score=scores[p.id][0] / scores[p.id][1] if p.id in scores else None,
            )
            for p in prompt_sets
            if p.id in counts
        )
        found.append(
            JudgeSummary(
                judge=judge.name,
                judge_id=judge.id,
                version=judge.version,
                record={key: known[key] for key in JUDGE_RECORD if key in known},
                unparsed=sum(own.get(UNPARSED, 0) for own in counts.values()),
                sets=sets,
            )
        )
    return tuple(found)


# Reducing.


def nodes(sweep: Sweep) -> pd.DataFrame:
    """The sweep's nodes as `build_landscape` takes them."""
    keys = ("line", "alpha", "beta", "on_grid", "seed_x", "seed_y", "mark", "projected")
    columns: dict[str, list[Any]] = {key: [] for key in (*keys, "point_id")}
    for node in sweep.grid.walk():
        for key in keys:
            columns[key].append(getattr(node, key))
        columns["point_id"].append(node.point.id)
    return pd.DataFrame(columns)


def landscape(
    study: Study, sweep: Sweep, prompt_sets: Sequence[PromptSet], winners: Winners | None = None
) -> pd.DataFrame:
    """The sweep's landscape from what is stored and judged; nothing is computed that is stored already."""
    winners = study.generations.stored_of(sweep.tasks()) if winners is None else winners
    found = [counting.counts(verdicts(study, judge, winners), judge.name) for judge in bench(study, sweep)]
    sets = pd.DataFrame(
        [
            {"prompt_set_id": p.id, "probe_set": p.probe_set, "group": p.group, "system_prompt": p.system_prompt}
            for p in prompt_sets
        ]
    )
    right = answered_right(study, winners, prompt_sets)
    frame = build_landscape(nodes(sweep), pd.concat(found, ignore_index=True), sets, sweep.judges, right)
    silent = {(name, p.group) for name in sweep.judges for p in prompt_sets if not judges.get(name).applies_to(p.group)}
    if all((name, capability.GROUP) in silent for name in sweep.judges):
        silent.discard((sweep.judges[0], capability.GROUP))  # right answers need no judge, but a row to stand in
    says = [key not in silent for key in zip(frame["judge"], frame["group"], strict=True)]
    return frame if all(says) else frame[says].reset_index(drop=True)


def answered_right(study: Study, winners: Winners, prompt_sets: Sequence[PromptSet]) -> pd.DataFrame:
    """How many questions of each capability set were answered right at each point: point_id, prompt_set_id, n_asked,
    n_correct. From what is stored alone: no judge is asked."""
    asked = {
        p.id: {prompt.id: (prompt.target or "", prompt.choices) for prompt in p.prompts}
        for p in prompt_sets
        if p.group == capability.GROUP
    }
    counts: dict[tuple[str, str], list[int]] = {}
    for _, table in study.generations.rows({key: part for key, part in winners.items() if key[1] in asked}):
        columns = (table[name].to_pylist() for name in (*_ROW, "response", "scores"))
        for point, set_id, prompt, response, scores in zip(*columns, strict=True):
            own = counts.setdefault((point, set_id), [0, 0])
            own[0] += 1
            own[1] += capability.is_correct(*asked[set_id][prompt], response, scores)
    rows = [(*key, *own) for key, own in counts.items()]
    return pd.DataFrame(rows, columns=["point_id", "prompt_set_id", "n_asked", "n_correct"])


def summarise(
    study: Study,
    sweep: Sweep,
    prompt_sets: Sequence[PromptSet],
    frame: pd.DataFrame,
    record: Mapping[str, Any],
    winners: Winners | None = None,
) -> SweepSummary:
    """summary.json: the landscape's numbers, what was asked for, and what all runs of the sweep together took."""
    runs = totals(study, record.get("runs", []))
    stored = study.generations.stored_of(sweep.tasks()) if winners is None else winners
    verdicts_by_probe = by_probe(study, sweep, prompt_sets, stored)
    numbers = summarize(frame, verdicts_by_probe)
    model, grid = study.info.model, sweep.grid.to_json()
    geometry = TargetGeometry.from_json(record.get("around", {}))
    results = tuple(
        dataclasses.replace(result, published=published.visage(model, grid, result)) for result in numbers.results
    )
    return dataclasses.replace(
        numbers,
        study_id=study.id,
        sweep_id=sweep.id,
        model=model,
        grid=grid,
        results=results,
        published=published.visage(model, grid, numbers.primary),
        plane_share=geometry.plane_share if geometry else None,
        checkpoints=checkpoints(study, sweep, frame, numbers.primary, record),
        judges=told(study, sweep, prompt_sets, stored),
        agreement=summarize_agreement(verdicts_by_probe) if len(sweep.judges) > 1 else (),
        tasks_failed=len(given_up(record) - stored.keys()),
        seconds=round(sum(run.get("seconds", 0.0) for run in runs), 1),
        tokens=sum(run.get("tokens", 0) for run in runs),
        restarts=sum(run.get("restarts", 0) for run in runs),
        actors=max((run.get("actors", 0) for run in runs), default=0),
        engines=tuple(engines(stored)),
        versions=next((run["versions"] for run in reversed(runs) if run.get("versions")), {}),
    )


def checkpoints(
    study: Study, sweep: Sweep, frame: pd.DataFrame, primary: ResultKey, record: Mapping[str, Any]
) -> tuple[CheckpointSummary, ...]:
    """The checkpoints on and beside the grid, with how far each is from the model: in units of alpha of a random
    direction, and of the basin's radius along such directions, where a sweep of this study has measured that."""
    found = summarize_checkpoints(frame)
    if not found:
        return ()
    geometry = TargetGeometry.from_json(record.get("around", {}))
    ends = {
        node.point.id: direction for node in sweep.grid.walk() if node.mark for direction, _ in node.point.coefficients
    }
    radius, radius_of, radius_reason = _random_basin(study, primary)
    placed = []
    for each in found:
        end = ends[each.point_id]
        distance = geometry.alpha_of(getattr(end, "fingerprint", "")) if geometry else None
        recipe = geometry.recipes.get(each.mark, each.mark) if geometry else each.mark
        results = tuple(
            dataclasses.replace(result, published=published.finetuned(study.info.model, recipe, result))
            for result in each.results
        )
        placed.append(
            dataclasses.replace(
                each,
                results=results,
                distance=distance,
                radii=distance / radius if distance is not None and radius else None,
                radius=radius,
                radius_of=radius_of,
                radius_reason=radius_reason,
            )
        )
    return tuple(placed)


def _random_basin(study: Study, primary: ResultKey) -> tuple[float | None, str | None, str | None]:
    """(radius, sweep id, reason) of the basin along random directions, of the sweep of this study that looked at most
    of them; the reason says why the radius is None."""
    best: SweepSummary | None = None
    for folder in sorted(study.root.glob("sweeps/*")):
        with contextlib.suppress(UserError):
            summary = read_results(SweepFolder(study, folder))[1]
            is_random = summary.grid["kind"] == "random_1d" and summary.grid["norm"] == "layer"
            fewer = 0 if best is None else len(best.basin.by_direction)
            if is_random and summary.primary == primary and len(summary.basin.by_direction) > fewer:
                best = summary
    if best is None:
        reason = "no sweep of this study has looked for the basin along random directions: run +experiment=basin first"
        return None, None, reason
    basin = best.basin
    unknown = None if basin.radius else "there is no basin around the model, or its edge was not reached"
    return basin.radius or None, best.sweep_id, basin.reason or unknown


def read_results(folder: SweepFolder) -> tuple[pd.DataFrame, SweepSummary]:
    """Return a sweep's stored landscape and summary. Raises UserError if there are none to read."""
    frame, summary = folder.read_landscape()
    return frame, SweepSummary.from_json(summary)


def answer(
    study: Study, sweep: Sweep, folder: Path, look: ReportConfig | None = None, advance: Advance | None = None
) -> tuple[pd.DataFrame, SweepSummary]:
    """Judge, reduce and draw what is stored of a sweep: landscape.parquet, summary.json, the figures, report.html."""
    prompt_sets = check_judges(study, sweep)
    winners = study.generations.stored_of(sweep.tasks())
    for judge in [*bench(study, sweep), DEGENERATE]:
        if not isinstance(judge, ModelJudge):
            judge_missing(study, judge, winners, prompt_sets, advance)
    return reduce_stored(study, sweep, folder, look, None if study.problems else winners)


def reduce_stored(
    study: Study, sweep: Sweep, folder: Path, look: ReportConfig | None = None, winners: Winners | None = None
) -> tuple[pd.DataFrame, SweepSummary]:
    """The same without judging: from stored verdicts on."""
    from orchestrator.report.page.render import write_report

    prompt_sets = [study.prompt_sets.read(set_id) for set_id in sweep.prompt_set_ids]
    winners = study.generations.stored_of(sweep.tasks()) if winners is None else winners
    frame = landscape(study, sweep, prompt_sets, winners)
    known = None if study.problems else winners  # what was just found damaged is not stored any more
    summary = summarise(study, sweep, prompt_sets, frame, SweepFolder(study, folder).read_record(), known)
    SweepFolder(study, folder).write_landscape(to_table(frame))
    SweepFolder(study, folder).write_summary(summary.to_json())
    draw(study, folder, frame, summary)
    write_report(study, sweep, folder, frame, summary, look)
    return frame, summary


def draw(study: Study, folder: Path, frame: pd.DataFrame, summary: SweepSummary) -> None:
    """The figures of a sweep."""
    from orchestrator.report.figures.landscape import draw_landscape
    from orchestrator.report.figures.results import draw_results

    files = SweepFolder(study, folder)
    title = f"{summary.model}: {summary.primary.probe_set}"
    for suffix in ("png", "svg", "pdf"):
        files.write_figure(f"landscape.{suffix}", lambda path: draw_landscape(frame, summary, path, title))
        if frame["beta"].isna().all() and len(summary.results) > 1:
            files.write_figure(f"results.{suffix}", lambda path: draw_results(frame, summary, path, title))
