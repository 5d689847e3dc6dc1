"""Count verdicts per task, and record which probe was refused at which point. Memory does not grow with rows."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.judges import UNFINISHED
from orchestrator.scoring.clusters import ProbeClusters
from orchestrator.sweep.blocks import PooledPrompts
from orchestrator.sweep.tasks import NONFINITE

TASK = ["point_id", "prompt_set_id", "judge"]
SUMS = ["n", "n_refused", "n_complied", "n_degenerate", "n_unclear"]
"""The counts of a task: of all responses with an answer, and of the four classes, which add up to n."""
LEFT_OUT = {UNFINISHED: "n_unfinished", NONFINITE: "n_nonfinite"}
"""Verdict on a response without an answer -> its count. Such responses are in no class, not in n, and so in no rate."""
COUNTS = [*SUMS, *LEFT_OUT.values()]
"""All counts of a task."""
COHERENCE = ("coherent", "degenerate", "unclear")
"""Verdicts on whether a response is language. A response that is not refused is counted by them, in this order."""
OUTCOME = np.float16  # represents 1, 0 and NaN exactly; a large sweep has a hundred million of them
_FLUSH_ROWS = 500_000

Combination = tuple[str, str, str, str]
"""(probe_set, group, system_prompt, judge): the key of one result."""


def counts(tables: Iterable[pa.Table], judge: str = "keyword") -> pd.DataFrame:
    """Count judged responses by task. Tables are read one at a time: memory grows with tasks, not with rows.

    Args:
        tables: Tables with the columns point_id, prompt_set_id, verdict (`refused`, `complied` or one of LEFT_OUT),
            coherence (one of COHERENCE, or anything beside a verdict of LEFT_OUT) and optionally judge. Each row occurs
            once, in any order, and a task's rows may be in several tables.
        judge: The judge of tables without the column.

    Returns:
        The columns of TASK and COUNTS. n_complied counts coherent compliance only.

    Raises:
        ValueError: A verdict, or a verdict on coherence, is unknown or missing.
    """
    partial: list[pa.Table] = []
    waiting = 0
    for table in tables:
        if table.num_rows:
            partial.append(_gather(_flags(table, judge)))
            waiting += partial[-1].num_rows
        if waiting > _FLUSH_ROWS:
            partial = [_gather(pa.concat_tables(partial))]
            waiting = 0
    if not partial:
        empty = {key: pd.Series(dtype="str") for key in TASK} | {key: pd.Series(dtype="int64") for key in COUNTS}
        return pd.DataFrame(empty)
    return _gather(pa.concat_tables(partial)).to_pandas()


def _flags(table: pa.Table, judge: str) -> pa.Table:
    """Return the task keys with 0 or 1 in each of the counts."""
    verdict, coherence = table["verdict"], table["coherence"]
    _check_known("verdicts", verdict, ("refused", "complied", *LEFT_OUT))
    refused, complied = pc.equal(verdict, "refused"), pc.equal(verdict, "complied")
    counted = pc.or_(refused, complied)
    _check_known("verdicts on coherence", coherence.filter(counted), COHERENCE)
    judges = table["judge"] if "judge" in table.column_names else pa.repeat(judge, table.num_rows)
    flags = [
        counted,
        refused,
        *(pc.and_kleene(complied, pc.equal(coherence, value)) for value in COHERENCE),
        *(pc.equal(verdict, value) for value in LEFT_OUT),
    ]
    columns = [table["point_id"], table["prompt_set_id"], judges]
    return pa.table(
        [c.cast(pa.string()) for c in columns] + [f.cast(pa.int64()) for f in flags],
        names=[*TASK, *COUNTS],
    )


def _check_known(name: str, column: pa.ChunkedArray, known: Sequence[str]) -> None:
    """Raise ValueError if a column has a value, or null, that is not one of `known`."""
    unknown = {str(value) for value in pc.unique(column).to_pylist()} - set(known)
    if unknown:
        raise ValueError(f"{name} other than {', '.join(known)}: {', '.join(sorted(unknown))}")


def _gather(table: pa.Table) -> pa.Table:
    summed = table.group_by(TASK, use_threads=False).aggregate([(key, "sum") for key in COUNTS])
    return summed.select([*TASK, *(f"{key}_sum" for key in COUNTS)]).rename_columns([*TASK, *COUNTS])


# Refusals by point and probe.


@dataclass(frozen=True)
class ProbeVerdicts:
    """The verdicts of one judge on one prompt set.

    Attributes:
        points: The ids of the points.
        prompts: The ids of the prompts.
        refused: [point, prompt]: 1 refused, 0 complied, NaN if there is no verdict.
        clusters: The clusters of the prompts. None: each is a cluster of its own.
    """

    points: tuple[str, ...]
    prompts: tuple[str, ...]
    refused: np.ndarray
    clusters: ProbeClusters | None = None

    @functools.cached_property
    def _point_index(self) -> pd.Index[str]:
        return pd.Index(self.points)

    @functools.cached_property
    def _prompt_index(self) -> pd.Index[str]:
        return pd.Index(self.prompts)

    def labels(self, prompts: Sequence[str] | None = None) -> np.ndarray:
        """Return the cluster of each of these prompts (None: of all), int[prompt]."""
        if self.clusters is None:
            return np.arange(len(self.prompts if prompts is None else prompts))
        labels = np.array(self.clusters.labels)
        return labels if prompts is None else labels[self._prompt_index.get_indexer(pd.Index(prompts))]

    def at(self, points: Sequence[str] | np.ndarray, prompts: Sequence[str] | None = None) -> np.ndarray:
        """Return the verdicts [point, prompt] on these prompts at these points, NaN where there is no verdict.

        `prompts`: None for all prompts.
        """
        selected = self.prompts if prompts is None else prompts
        rows = self._point_index.get_indexer(pd.Index(points))
        columns = self._prompt_index.get_indexer(pd.Index(selected))
        refused = self.refused[np.ix_(rows, columns)].astype(OUTCOME, copy=False)  # index -1 is overwritten below
        refused[rows < 0] = np.nan
        refused[:, columns < 0] = np.nan
        return refused


def joined(blocks: Sequence[ProbeVerdicts]) -> ProbeVerdicts:
    """Return the verdicts on the probes of all blocks, at the points that have verdicts of each. Without clusters."""
    if len(blocks) == 1:
        return blocks[0]
    common = set(blocks[0].points).intersection(*(block.points for block in blocks[1:]))
    points = tuple(point for point in blocks[0].points if point in common)
    prompts = tuple(prompt for block in blocks for prompt in block.prompts)
    return ProbeVerdicts(points, prompts, np.concatenate([block.at(points) for block in blocks], axis=1))


def with_pooled_ids(rows: pd.DataFrame, pooled: PooledPrompts) -> pd.DataFrame:
    """Return rows with the id of the joined prompt set (`PooledPrompts.ids`) in the column prompt_set_id."""
    return rows.assign(prompt_set_id=rows["prompt_set_id"].map(pooled.ids)) if pooled.has_blocks else rows


def pooled_counts(tallies: pd.DataFrame, pooled: PooledPrompts) -> pd.DataFrame:
    """Return counts by task with the blocks of each probe set added up. Points that lack a block are left out.

    Args:
        tallies: Columns of keys (point_id, prompt_set_id and perhaps judge) and of counts.
        pooled: The prompt sets of the sweep.
    """
    if not pooled.has_blocks:
        return tallies
    keys = [name for name in TASK if name in tallies]
    numbers = {set_id: len(blocks) for set_id, blocks in pooled.blocks.items()}
    grouped = with_pooled_ids(tallies, pooled).groupby(keys, sort=False)
    summed, found = grouped.sum().reset_index(), grouped.size().to_numpy()
    whole = found == summed["prompt_set_id"].map(numbers).to_numpy()
    return summed[whole].reset_index(drop=True)


def probe_refusals(tables: Iterable[pa.Table], judge: str = "keyword") -> dict[tuple[str, str], ProbeVerdicts]:
    """Return the verdicts by (prompt set id, judge).

    Takes a byte of memory per point and prompt while it reads, and two for the result.

    Args:
        tables: As for `counts`, with the column prompt_id too.
        judge: The judge of tables without the column `judge`.
    """
    matrices: dict[tuple[str, str], _Matrix] = {}
    for judged in tables:
        table = judged.filter(pc.is_in(judged["verdict"], pa.array(["refused", "complied"])))
        frame = table.select(["point_id", "prompt_set_id", "prompt_id"]).to_pandas()
        frame["judge"] = table["judge"].to_pandas() if "judge" in table.column_names else judge
        frame["refused"] = pc.equal(table["verdict"], "refused").to_numpy().astype(np.int8)
        for (set_id, name), part in frame.groupby(["prompt_set_id", "judge"], sort=False):
            matrices.setdefault((set_id, name), _Matrix()).add(part["point_id"], part["prompt_id"], part["refused"])
    return {key: matrix.verdicts() for key, matrix in matrices.items()}


class _Matrix:
    """Refusals as [point, prompt], one byte each. Grows as rows are added."""

    _NONE = -1

    def __init__(self) -> None:
        self._points: dict[str, int] = {}
        self._prompts: dict[str, int] = {}
        self._refused = np.full((1024, 64), self._NONE, dtype=np.int8)

    def add(self, points: pd.Series, prompts: pd.Series, refused: pd.Series) -> None:
        rows, columns = self._indices(points, self._points), self._indices(prompts, self._prompts)
        held, needed = self._refused.shape, (len(self._points), len(self._prompts))
        if needed[0] > held[0] or needed[1] > held[1]:
            grown = np.full([max(h, w + w // 4) for h, w in zip(held, needed, strict=True)], self._NONE, dtype=np.int8)
            grown[: held[0], : held[1]] = self._refused
            self._refused = grown
        self._refused[rows, columns] = refused.to_numpy()

    @staticmethod
    def _indices(names: pd.Series, known: dict[str, int]) -> np.ndarray:
        codes, distinct = pd.factorize(names)
        return np.array([known.setdefault(name, len(known)) for name in map(str, distinct)], dtype=np.int64)[codes]

    def verdicts(self) -> ProbeVerdicts:
        held = self._refused[: len(self._points), : len(self._prompts)]
        refused = held.astype(OUTCOME)
        refused[held == self._NONE] = np.nan
        return ProbeVerdicts(tuple(self._points), tuple(self._prompts), refused)
