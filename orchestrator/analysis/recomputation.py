"""Compute a sweep's results again from its stored rows, and compare them with the stored results.

The hash in a document shows that it was not damaged, not that its numbers follow from the rows: whoever edits a number
can make the hash anew. So `gate` and `compare` use recomputed numbers, `verify` compares them with the stored ones, and
`report`, `view` and `load_study` show no stored number that differs from them. The numbers are computed by the reducer,
which has the only definition of each. Nothing is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from orchestrator.analysis.components import TARGET
from orchestrator.analysis.landscape import check_columns, to_table, with_all_counts
from orchestrator.analysis.reducer import reduce_landscape, reduce_summary
from orchestrator.analysis.requested import has_other_rule
from orchestrator.analysis.results.sweep import INTERVALS_VERSION, SweepSummary
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.prompts.capability import GROUP, SCORING_VERSION
from orchestrator.scoring.counts import Combination, ProbeVerdicts
from orchestrator.scoring.verdicts import degeneracy_version, refusals_by_probe
from orchestrator.store.records import DAMAGED
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.utils.errors import UserError

LANDSCAPE_FILE, SUMMARY_FILE = "landscape.parquet", "summary.json"
TOLERANCE = 1e-9
"""Largest relative or absolute difference that is put down to another machine's rounding."""
_MOST_NAMED = 3  # differences of a file that a sentence names

_COSTS = (
    *("seconds", "tokens", "restarts", "actors", "actors_at_once", "tasks_failed"),
    *("ready_seconds", "idle_seconds", "speculative"),
)
"""Fields that a run may raise although it stores nothing."""
# Fields of a summary that every version of the intervals computes alike.
_STABLE_FIELDS = (
    *("prompts", "points_missing", "points_done", "points_total"),
    *("origin_asr", "paper", "released", "radius"),
)
# Those among them that do not depend on which points are measured.
_FIELDS_OF_MEASURED = ("prompts", "origin_asr")
# Columns of inferred points.
_INFERRED = ("inferred", "asr_inferred", "asr_inferred_error")
# Ends of the names of columns that depend on measured points elsewhere.
_OF_INFERENCE = ("inferred", "inferred_error")
# Columns that count unclear responses in version 2 of landscapes.
_WITH_UNCLEAR = ("n_complied", "complied")
# Columns that count right answers.
_OF_SCORING = ("n_correct", "correct", "correct_low", "correct_high")


@dataclass(frozen=True)
class Difference:
    """A stored number that does not follow from the stored rows.

    Attributes:
        file: Name of the file of the sweep's folder that has it.
        key: Its place in the file, such as `visage.paper`.
        stored: Its stored value.
        recomputed: The value that the stored rows give.
    """

    file: str
    key: str
    stored: Any
    recomputed: Any

    def __str__(self) -> str:
        return f"{self.key} is stored as {_shown(self.stored)}, and the stored rows give {_shown(self.recomputed)}"


@dataclass(frozen=True)
class Recomputation:
    """Results computed from the stored rows.

    Attributes:
        stored: The landscape and the summary, as they are stored.
        landscape: The landscape that the rows give.
        summary: The summary that they give.
        refusals: The verdicts behind them, as `refusals_by_probe` returns them.
        grown: Number of rows of the stored landscape that lack verdicts which were stored since.
        differences: Numbers of the stored results that the rows do not give.
        unchecked: Why other numbers of the stored results were not compared, a sentence for each reason.
    """

    stored: tuple[pd.DataFrame, dict[str, Any]]
    landscape: pd.DataFrame
    summary: SweepSummary
    refusals: Mapping[Combination, ProbeVerdicts]
    grown: int
    differences: tuple[Difference, ...]
    unchecked: tuple[str, ...]

    def differences_by_file(self) -> dict[str, str]:
        """Return the names of the files with differences, and a sentence that names the first of those and counts them.

        It names _MOST_NAMED of them.
        """
        sentences = {}
        for file in (LANDSCAPE_FILE, SUMMARY_FILE):
            of_file = [str(difference) for difference in self.differences if difference.file == file]
            if of_file:
                left = len(of_file) - _MOST_NAMED
                more = f"; {left} more of its numbers differ" if left > 0 else ""
                sentences[file] = f"{'; '.join(of_file[:_MOST_NAMED])}{more}"
        return sentences

    def unsound(self) -> str:
        """Return one sentence on all differences and what to do; empty if there are none."""
        of_files = [f"{file}: {sentence}" for file, sentence in self.differences_by_file().items()]
        return f"{'; '.join(of_files)}: `reduce` writes it again" if of_files else ""


def recompute(stored: StoredSweep) -> Recomputation:
    """Compute a stored sweep's results from its rows and compare them with the stored ones.

    Raises:
        UserError: There are no stored results to read, or a judge cannot be loaded (`scoring.panel.load_judge`).
        DamagedFileError: A prompt set cannot be read.
    """
    with stored.folder.explained():
        results = stored.folder.read_landscape()
        stored_landscape, stored_summary = results
        check_columns(stored_landscape)
        written = SweepSummary.from_json(stored_summary)
    refusals = refusals_by_probe(stored)
    landscape = reduce_landscape(stored, refusals)
    summary = reduce_summary(stored, landscape, refusals, _target(written), _unit_sweeps(written))
    unchecked = []
    if written.scoring_version != SCORING_VERSION and landscape["n_correct"].notna().any():
        unchecked.append("its right answers are of an earlier version of their rules")
        stored_landscape = stored_landscape.drop(columns=[*_OF_SCORING], errors="ignore")
    other_rule = has_other_rule(stored.sweep.grid)
    if other_rule:
        unchecked.append("its inferred points, and the numbers that contain them, are of another version of their rule")
        stored_landscape = stored_landscape.drop(columns=[*_INFERRED], errors="ignore")
    grown, differences = _compare_landscapes(stored_landscape, landscape)
    if grown:
        unchecked.append(f"{grown} of {len(landscape)} rows of {LANDSCAPE_FILE} lack responses that were stored since")
    else:
        has_current_verdicts = degeneracy_version(stored) == DEGENERATE.version
        of_summary, remark = compare_summaries(stored_summary, summary, has_current_verdicts)
        unchecked += [remark] if remark else []
        if any(run.outcome == DAMAGED for run in stored.record.runs):
            of_summary = [difference for difference in of_summary if _last(difference.key) not in _COSTS]
            unchecked.append("its costs were not compared, because a record of a run cannot be read")
        if other_rule:
            of_summary = [difference for difference in of_summary if _last(difference.key) in _FIELDS_OF_MEASURED]
        differences += of_summary
    return Recomputation(results, landscape, summary, refusals, grown, tuple(differences), tuple(unchecked))


@dataclass(frozen=True)
class CheckedResults:
    """Results that may be shown: no number of them contradicts the stored rows.

    Attributes:
        landscape: The landscape, as it is stored.
        summary: The summary, as it is stored.
        remarks: Which numbers could not be compared and why, a sentence for each reason.
    """

    landscape: pd.DataFrame
    summary: dict[str, Any]
    remarks: tuple[str, ...]

    def parsed(self) -> tuple[pd.DataFrame, SweepSummary]:
        """Return the landscape with the columns of this version, and the summary."""
        return with_all_counts(self.landscape), SweepSummary.from_json(self.summary)


def checked_results(stored: StoredSweep) -> CheckedResults:
    """Return a sweep's stored results after comparing them with its rows.

    If verdicts were stored since, the results are those that the rows give now, because only these can be checked.

    Raises:
        UserError: There are none that can be read, or a number does not follow from the rows.
        DamagedFileError: A prompt set cannot be read.
    """
    recomputed = recompute(stored)
    if unsound := recomputed.unsound():
        damaged = len(stored.study.problems)
        note = f" ({damaged} files of the study do not verify: `verify` names them)" if damaged else ""
        raise UserError("sweep", stored.folder.path, f"{unsound}{note}")
    if recomputed.grown:
        remarks = tuple(f"{remark}; these numbers include them" for remark in recomputed.unchecked)
        landscape = to_table(recomputed.landscape).to_pandas()
        return CheckedResults(landscape, json.loads(json.dumps(recomputed.summary.to_json())), remarks)
    return CheckedResults(*recomputed.stored, recomputed.unchecked)


def _target(summary: SweepSummary) -> float:
    """Return the half-width for which a stored summary plans a sweep: an option of the call that wrote it."""
    enough = summary.visage.enough
    return TARGET if enough is None or enough.plan is None else enough.plan.target


def _unit_sweeps(summary: SweepSummary) -> set[str | None]:
    """Return the ids of the sweeps whose basins are the units of the stored distances of checkpoints."""
    matched = (distance.sweep_id for checkpoint in summary.checkpoints for distance in checkpoint.matched)
    return {*matched, *(checkpoint.radius_of for checkpoint in summary.checkpoints)}


# Landscapes.


def _compare_landscapes(stored: pd.DataFrame, recomputed: pd.DataFrame) -> tuple[int, list[Difference]]:
    """Return the number of rows that have more responses than the stored ones, and the differences in other rows.

    Intervals are left out if there are such rows, because they depend on the responses at all points.
    """
    if len(stored) != len(recomputed):
        return 0, [Difference(LANDSCAPE_FILE, "the number of rows", len(stored), len(recomputed))]
    stored, recomputed = stored.reset_index(drop=True), recomputed.reset_index(drop=True)
    has_more = recomputed["n"] > stored["n"]
    if "n_correct" in stored:
        has_more |= recomputed["n_correct"].notna() & stored["n_correct"].isna()
    grown = has_more.to_numpy(dtype=bool)
    names = [
        name
        for name in map(str, recomputed)
        if name in stored and not (grown.any() and name.endswith(("_low", "_high", *_OF_INFERENCE)))
    ]
    if "n_unclear" not in stored:
        names = [name for name in names if name not in _WITH_UNCLEAR]
    return int(grown.sum()), [
        Difference(LANDSCAPE_FILE, f"{name} in row {row}", _plain(stored[name][row]), _plain(recomputed[name][row]))
        for name in names
        for row in np.flatnonzero(_unequal(stored[name], recomputed[name]) & ~grown)
    ]


def _unequal(stored: pd.Series[Any], recomputed: pd.Series[Any]) -> npt.NDArray[np.bool_]:
    """Return where two columns differ by more than TOLERANCE. Missing values are equal."""
    if pd.api.types.is_numeric_dtype(recomputed):
        one, other = (column.to_numpy(dtype=float, na_value=np.nan) for column in (stored, recomputed))
        return ~np.isclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    both_missing = stored.isna() & recomputed.isna()
    return ((stored != recomputed) & ~both_missing).to_numpy(dtype=bool)


def _plain(value: Any) -> Any:
    """Return a table's value as a JSON value: None for a missing one."""
    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


# Summaries.


def compare_summaries(
    stored: Mapping[str, Any], summary: SweepSummary, has_current_verdicts: bool
) -> tuple[list[Difference], str | None]:
    """Return the numbers of a stored summary that differ, and why others were not compared.

    Texts are not compared, because versions word them differently, and neither are keys that only one of the two has.

    Args:
        stored: The stored summary.
        summary: The recomputed one.
        has_current_verdicts: Whether the current version of the judge of degeneracy has judged the sweep.
    """
    current = json.loads(json.dumps(summary.to_json()))
    if stored.get("scoring_version") != current.pop("scoring_version"):
        for result in current["results"]:
            if result["group"] == GROUP:
                del result["curves"]
    if not has_current_verdicts:
        del current["log_probability"]  # it counts verdicts of the current version alone
    elif (stored.get("log_probability") or {}).get("measured", 0) < current["log_probability"]["measured"]:
        del current["log_probability"]  # more were measured since
    differences = [Difference(SUMMARY_FILE, *difference) for difference in _differing(stored, current)]
    grown = {key for key in _COSTS if (stored.get(key) or 0) < (current.get(key) or 0)}
    if grown:  # there was a run since
        differences = [d for d in differences if d.key not in grown and _last(d.key) != "seconds"]
        differences = [d for d in differences if not d.key.startswith("until.")]
    if stored.get("intervals_version", 1) >= INTERVALS_VERSION:
        return differences, None
    remark = f"its intervals and scores in {SUMMARY_FILE} are of an earlier version of their methods"
    return [difference for difference in differences if _last(difference.key) in _STABLE_FIELDS], remark


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _differing(stored: Any, recomputed: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, stored, recomputed) of the numbers that differ in two JSON values."""
    if isinstance(stored, dict) and isinstance(recomputed, dict):
        for name in sorted(stored.keys() & recomputed.keys()):
            yield from _differing(stored[name], recomputed[name], f"{key}.{name}".lstrip("."))
    elif isinstance(stored, list) and isinstance(recomputed, list):
        if len(stored) != len(recomputed):
            yield f"the number of {key}", len(stored), len(recomputed)
        else:
            for i, pair in enumerate(zip(stored, recomputed, strict=True)):
                yield from _differing(*pair, f"{key}.{i}")
    elif _is_number(stored) and _is_number(recomputed):
        if not math.isclose(stored, recomputed, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            yield key, stored, recomputed
    elif stored != recomputed and not (isinstance(stored, str) and isinstance(recomputed, str)):
        yield key, stored, recomputed


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """Return a JSON value as text for a message. Numbers are in full, so that two that differ look different."""
    if value is None:
        return "undefined"
    if isinstance(value, dict | list):
        return f"{len(value)} entries"
    return repr(value) if _is_number(value) else str(value)
