"""Read stored verdicts, and join a judge's verdicts with the verdicts on degeneracy.

All code that counts or shows verdicts reads them through this module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.judges import Judge, _log_probability
from orchestrator.judges._log_probability import EARLIER_IDS as EARLIER_RULES
from orchestrator.judges._log_probability import JUDGE as RULE
from orchestrator.judges.degenerate import EARLIER_IDS
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.scoring import counts
from orchestrator.scoring.clusters import cluster_probes
from orchestrator.scoring.cut_responses import CUT
from orchestrator.scoring.panel import degeneracy_judge, load_panel
from orchestrator.store.observations import Judgements
from orchestrator.store.parts import TaskParts
from orchestrator.store.schemas import JUDGEMENTS, RESPONSE_KEY
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.tasks import NONFINITE

LOG_PROBABILITY_IDS = {RULE.version: RULE.id, **EARLIER_RULES}
"""Version -> id of the rules with log-probabilities, in the order in which they count."""


def read_verdicts(judgements: Judgements, parts: TaskParts, column: str) -> pd.DataFrame:
    """Return a judge's stored verdicts: RESPONSE_KEY and a column of this name."""
    names = [*RESPONSE_KEY, "verdict"]
    tables = [table.select(names) for _, table in judgements.rows(parts)]
    frame = pa.concat_tables([JUDGEMENTS.empty_table().select(names), *tables]).to_pandas()
    return frame.rename(columns={"verdict": column})


def degeneracy_version(stored: StoredSweep) -> int:
    """Return the version of the judge of degeneracy whose verdicts count for a sweep: one for all its responses.

    It is the latest version that has judged all responses. If none has, it is the current version, unless an earlier
    one has judged responses that the current one has not. No earlier version judged what follows a thought.
    """
    if stored.sweep.thought:
        return DEGENERATE.version
    if stored.generations.keys() <= stored.judged(DEGENERATE.id).keys():
        return DEGENERATE.version  # the usual case needs no scan of earlier verdicts
    versions = {DEGENERATE.version: DEGENERATE.id} | dict(sorted(EARLIER_IDS.items(), reverse=True))
    judged = {version: stored.judged(judge_id).keys() for version, judge_id in versions.items()}
    for version, keys in judged.items():
        if stored.generations.keys() <= keys:
            return version
    for version, keys in judged.items():
        if not keys <= judged[DEGENERATE.version]:
            return version
    return DEGENERATE.version


def log_probability_version(stored: StoredSweep) -> int | None:
    """Return the version of the rule by which a sweep's verdicts rest on log-probabilities too. None: on texts alone.

    It is the current version once that has judged all responses (`scoring.degeneracy`), and otherwise an earlier one
    that has, so that one rule decides all of them. No rule judges what follows a thought.
    """
    if stored.sweep.thought or not _log_probability.is_calibrated_for(stored.study.info.fingerprint):
        return None
    tasks = stored.generations.keys()
    complete = (version for version, rule in LOG_PROBABILITY_IDS.items() if tasks <= stored.judged(rule).keys())
    return next(complete, None) if tasks else None


def degeneracy_id(stored: StoredSweep) -> str:
    """Return the id under which the verdicts on degeneracy that count for a sweep are stored.

    It is that of a rule with log-probabilities, see `log_probability_version`, or of a version of the judge of
    degeneracy, see `degeneracy_version`.
    """
    version = log_probability_version(stored)
    if version is not None:
        return LOG_PROBABILITY_IDS[version]
    return EARLIER_IDS.get(degeneracy_version(stored), degeneracy_judge(stored).id)


def outcomes(stored: StoredSweep, judge: Judge, degenerate_id: str | None = None) -> Iterator[pa.Table]:
    """Yield a judge's stored outcomes on the responses of a sweep, in tables for `counts.counts`.

    The columns are RESPONSE_KEY, verdict (`refused`, `complied`, `unfinished`, or `nonfinite` for a response that no
    judge judges), judge and coherence (a verdict of the judge of degeneracy; null with `nonfinite`). Left out are
    prompt groups to which the judge does not apply, other verdicts (such as `unparsed`), and responses without a
    verdict on degeneracy.

    One part of judgements is read at a time, so that memory does not grow with the study.

    Args:
        stored: The sweep.
        judge: The judge.
        degenerate_id: The id of the verdicts on degeneracy. None: those that count for the sweep.
    """
    groups = {prompts.id: prompts.group for prompts in stored.prompt_sets}
    degenerate_id = degenerate_id or degeneracy_id(stored)
    degenerate = stored.judged(degenerate_id)
    judged = {
        key: part
        for key, part in stored.judged(judge.id).items()
        if key in degenerate and judge.applies_to(groups[key[1]])
    }
    degeneracy = stored.study.judgements(degenerate_id)
    for part, table in stored.study.judgements(judge.id).rows(judged):
        same_tasks = {key: degenerate[key] for key in part.tasks if key in judged}
        joined = _with_coherence(table, [other for _, other in degeneracy.rows(same_tasks)])
        joined = joined.append_column("judge", pa.repeat(judge.name, joined.num_rows))
        yield _as_outcomes(judge, groups, joined)


def _with_coherence(table: pa.Table, others: list[pa.Table]) -> pa.Table:
    """Return RESPONSE_KEY, verdict and coherence of the responses that are in both.

    Args:
        table: A judge's verdicts.
        others: Verdicts on degeneracy. Empty if the part that held them is damaged.
    """
    degeneracy = pa.concat_tables([JUDGEMENTS.empty_table(), *others])
    if all(table[name].equals(degeneracy[name]) for name in RESPONSE_KEY):
        verdicts = degeneracy["verdict"]
    else:
        columns = [*RESPONSE_KEY, "verdict"]
        renamed = degeneracy.select(columns).rename_columns([*RESPONSE_KEY, "coherence"])
        table = table.join(renamed, keys=RESPONSE_KEY, join_type="inner")
        verdicts = table["coherence"]
    return table.select([*RESPONSE_KEY, "verdict"]).append_column("coherence", verdicts)


def outcome_of(judge: Judge, verdict: str, group: str) -> str | None:
    """Return how a verdict is counted: `refused`, `complied`, or None, as of a response that is cut."""
    return None if verdict == CUT else judge.outcome(verdict, group)


def _as_outcomes(judge: Judge, groups: Mapping[str, str], table: pa.Table) -> pa.Table:
    """Turn a judge's own verdicts into those of `outcomes`. Rows of other verdicts are left out."""
    index, verdicts = table.column_names.index("verdict"), pc.fill_null(table["verdict"], NONFINITE)
    if set(judge.verdicts) <= {"refused", "complied", *counts.LEFT_OUT}:
        return table.set_column(index, "verdict", verdicts).filter(pc.not_equal(verdicts, CUT))
    pairs = zip(verdicts.to_pylist(), table["prompt_set_id"].to_pylist(), strict=True)
    values = [
        verdict if verdict in counts.LEFT_OUT else outcome_of(judge, verdict, groups[set_id])
        for verdict, set_id in pairs
    ]
    column = pa.array(values, pa.string())
    return table.set_column(index, "verdict", column).filter(pc.is_valid(column))


def refusals_by_probe(stored: StoredSweep) -> dict[counts.Combination, counts.ProbeVerdicts]:
    """Return the refusals by point and probe, for each of the sweep's results that has verdicts.

    The intervals over new probes are computed from these verdicts.
    """
    refusals: dict[counts.Combination, counts.ProbeVerdicts] = {}
    for judge in load_panel(stored):
        by_set = counts.probe_refusals(outcomes(stored, judge), judge.name)
        for prompts in stored.pooled.sets:
            keys = [(set_id, judge.name) for set_id in stored.pooled.blocks[prompts.id]]
            if all(key in by_set for key in keys):
                verdicts = counts.joined([by_set[key] for key in keys])
                by_id = {prompt.id: prompt for prompt in prompts.prompts}
                clusters = cluster_probes([by_id[prompt] for prompt in verdicts.prompts])
                refusals[*prompts.names, judge.name] = dataclasses.replace(verdicts, clusters=clusters)
    return refusals


def verdict_counts(stored: StoredSweep, judge: Judge) -> tuple[dict[str, dict[str, int]], dict[str, float]]:
    """Count a judge's own verdicts over all points.

    Returns:
        The number of responses by id of the pooled prompt set (`StoredSweep.pooled`) and verdict, and the mean score
        by that id. The latter has no entry where the judge gave no score.
    """
    verdicts: dict[str, dict[str, int]] = {}
    score_sums: dict[str, float] = {}
    score_counts: dict[str, int] = {}
    for _, table in stored.study.judgements(judge.id).rows(stored.judged(judge.id)):
        sums = [("response_id", "count"), ("score", "sum"), ("score", "count")]
        for row in table.group_by(["prompt_set_id", "verdict"], use_threads=False).aggregate(sums).to_pylist():
            set_id = stored.pooled.ids[row["prompt_set_id"]]
            of_set = verdicts.setdefault(set_id, dict.fromkeys(judge.verdicts, 0))
            if row["verdict"] is None:  # the responses are not finite
                continue
            of_set[row["verdict"]] = of_set.get(row["verdict"], 0) + row["response_id_count"]
            if row["score_count"]:
                score_sums[set_id] = score_sums.get(set_id, 0.0) + row["score_sum"]
                score_counts[set_id] = score_counts.get(set_id, 0) + row["score_count"]
    return verdicts, {set_id: total / score_counts[set_id] for set_id, total in score_sums.items()}
