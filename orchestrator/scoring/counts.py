"""From rows of verdicts to counts per task, and to who refused what: memory does not grow with rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

TASK = ["point_id", "prompt_set_id", "judge"]
SUMS = ["n", "n_refused", "n_complied", "n_degenerate"]
OUTCOME = np.float16  # 1, 0 and NaN are exact in it, and a large sweep has a hundred million of them
_FLUSH_ROWS = 500_000

Combination = tuple[str, str, str, str]
"""(probe_set, group, system_prompt, judge): what one result is about."""


def counts(tables: Iterable[pa.Table], judge: str = "keyword") -> pd.DataFrame:
    """Rows of judged responses, counted by task; streaming: memory grows with tasks, not with rows.

    In: tables with point_id, prompt_set_id, verdict (`refused` or `complied`), degenerate (bool) and, where
    several judges are in one stream, judge (else `judge` is theirs); each row once, in any order, a task's rows in
    as many tables as they like. Out: point_id, prompt_set_id, judge, n, n_refused, n_complied, n_degenerate.
    Raises ValueError on a verdict that is neither.
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
        empty = {key: pd.Series(dtype="str") for key in TASK} | {key: pd.Series(dtype="int64") for key in SUMS}
        return pd.DataFrame(empty)
    return _gather(pa.concat_tables(partial)).to_pandas()


def _flags(table: pa.Table, judge: str) -> pa.Table:
    """Task keys, and 0 or 1 in each of the four counts."""
    verdict, degenerate = table["verdict"], table["degenerate"]
    refused = pc.equal(verdict, "refused")
    known = pc.or_(refused, pc.equal(verdict, "complied"))
    if not pc.all(pc.fill_null(known, False), skip_nulls=False, min_count=0).as_py():
        strange = sorted({str(v) for v in pc.unique(verdict).to_pylist()} - {"refused", "complied"})
        raise ValueError(f"verdicts other than refused and complied: {', '.join(strange)}")
    if degenerate.null_count:
        raise ValueError(f"{degenerate.null_count} responses without a verdict on degeneration")
    rest = pc.invert(refused)
    whole = table["judge"] if "judge" in table.column_names else pa.repeat(judge, table.num_rows)
    flags = [
        pa.repeat(True, table.num_rows),
        refused,
        pc.and_not(rest, degenerate),
        pc.and_(rest, degenerate),
    ]
    columns = [table["point_id"], table["prompt_set_id"], whole]
    return pa.table(
        [c.cast(pa.string()) for c in columns] + [f.cast(pa.int64()) for f in flags],
        names=[*TASK, *SUMS],
    )


def _gather(table: pa.Table) -> pa.Table:
    summed = table.group_by(TASK, use_threads=False).aggregate([(key, "sum") for key in SUMS])
    return summed.select([*TASK, *(f"{key}_sum" for key in SUMS)]).rename_columns([*TASK, *SUMS])


# Who refused what.


@dataclass(frozen=True)
class Verdicts:
    """One prompt set's verdicts by one judge. `refused` [point, prompt]: 1 refused, 0 not, NaN where there is none."""

    points: tuple[str, ...]
    prompts: tuple[str, ...]
    refused: np.ndarray

    def at(self, points: Sequence[str] | np.ndarray, prompts: Sequence[str] | None = None) -> np.ndarray:
        """[point, prompt] in this order; NaN throughout for a point or prompt that is not there."""
        wanted = self.prompts if prompts is None else prompts
        rows = pd.Index(self.points).get_indexer(pd.Index(points))
        columns = pd.Index(self.prompts).get_indexer(pd.Index(wanted))
        found = self.refused[np.ix_(rows, columns)].astype(OUTCOME, copy=False)  # -1 is any, and is overwritten
        found[rows < 0] = found[:, columns < 0] = np.nan
        return found


def by_probe(tables: Iterable[pa.Table], judge: str = "keyword") -> dict[tuple[str, str], Verdicts]:
    """{(prompt set id, judge): its verdicts}, from tables as `counts` takes them that have prompt_id too.

    Streaming: in memory is a byte for each point and prompt.
    """
    found: dict[tuple[str, str], _Matrix] = {}
    for table in tables:
        frame = table.select(["point_id", "prompt_set_id", "prompt_id"]).to_pandas()
        frame["judge"] = table["judge"].to_pandas() if "judge" in table.column_names else judge
        frame["refused"] = pc.equal(table["verdict"], "refused").to_numpy().astype(np.int8)
        for (set_id, name), part in frame.groupby(["prompt_set_id", "judge"], sort=False):
            found.setdefault((set_id, name), _Matrix()).take(part["point_id"], part["prompt_id"], part["refused"])
    return {key: matrix.verdicts() for key, matrix in found.items()}


class _Matrix:
    """Who refused what, [point, prompt], growing as rows come: a byte each."""

    _NONE = -1

    def __init__(self) -> None:
        self._points: dict[str, int] = {}
        self._prompts: dict[str, int] = {}
        self._refused = np.full((1024, 64), self._NONE, dtype=np.int8)

    def take(self, points: pd.Series, prompts: pd.Series, refused: pd.Series) -> None:
        rows, columns = self._places(points, self._points), self._places(prompts, self._prompts)
        held, wanted = self._refused.shape, (len(self._points), len(self._prompts))
        if wanted[0] > held[0] or wanted[1] > held[1]:
            grown = np.full([max(h, w + w // 4) for h, w in zip(held, wanted, strict=True)], self._NONE, dtype=np.int8)
            grown[: held[0], : held[1]] = self._refused
            self._refused = grown
        self._refused[rows, columns] = refused.to_numpy()

    @staticmethod
    def _places(names: pd.Series, known: dict[str, int]) -> np.ndarray:
        codes, distinct = pd.factorize(names)
        return np.array([known.setdefault(name, len(known)) for name in map(str, distinct)], dtype=np.int64)[codes]

    def verdicts(self) -> Verdicts:
        held = self._refused[: len(self._points), : len(self._prompts)]
        refused = held.astype(OUTCOME)
        refused[held == self._NONE] = np.nan
        return Verdicts(tuple(self._points), tuple(self._prompts), refused)
