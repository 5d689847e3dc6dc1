"""Build the landscape of a sweep, a table of verdict counts by point, prompt set and judge, and select parts of it.

Pure functions from DataFrames to DataFrames. Of the n responses at a point, n_refused are refusals; the rest are the
successful attacks of the paper, split into n_complied (coherent), n_degenerate and n_unclear: the four add up to n.
Thoughts without an end, and responses to logits that are not finite, hold no answer: n_unfinished and n_nonfinite count
them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import special

from orchestrator.analysis import intervals
from orchestrator.analysis.results.clusters import ClusterSummary
from orchestrator.analysis.results.curves import MeanCurve
from orchestrator.analysis.results.keys import RESULT_KEY, ResultKey
from orchestrator.scoring.counts import COUNTS, LEFT_OUT, SUMS, TASK, Combination
from orchestrator.utils.parsing import FormatError

LANDSCAPE_VERSION = 5
"""Version 3 added `n_unclear` and `unclear`: version 2 counted unclear responses as complied. Version 4 added
`n_unfinished`, `unfinished`, `n_nonfinite` and `nonfinite`. Version 5 added `inferred`, `asr_inferred` and
`asr_inferred_error`."""
LANDSCAPE_SCHEMA = pa.schema(
    [
        ("line", pa.int32()),  # number of the line or plane, from 0
        ("alpha", pa.float64()),
        ("beta", pa.float64()),  # null on a line
        ("on_grid", pa.bool_()),  # false: shown, but left out of VISAGE
        ("probe_set", pa.string()),
        ("group", pa.string()),
        ("system_prompt", pa.string()),
        ("judge", pa.string()),
        ("point_id", pa.string()),
        ("seed_x", pa.int64()),  # null if the axis is not random
        ("seed_y", pa.int64()),
        ("n", pa.int32()),  # 0 if the point is not measured (yet): then the percentages are null
        ("n_refused", pa.int32()),
        ("n_complied", pa.int32()),
        ("n_degenerate", pa.int32()),
        ("asr", pa.float64()),
        ("asr_low", pa.float64()),
        ("asr_high", pa.float64()),
        ("complied", pa.float64()),
        ("degenerate", pa.float64()),
        ("mark", pa.string()),  # name of the checkpoint at this point; null if there is none
        ("projected", pa.bool_()),  # true: a checkpoint off the line or plane, at the nearest point on it
        ("n_correct", pa.int32()),  # correct answers; null for prompts without a correct answer
        ("correct", pa.float64()),
        ("correct_low", pa.float64()),
        ("correct_high", pa.float64()),
        ("margin", pa.float64()),  # 100 - asr: VISAGE and the mean margin are means of it
        ("margin_low", pa.float64()),
        ("margin_high", pa.float64()),
        ("n_unclear", pa.int32()),
        ("unclear", pa.float64()),
        ("n_unfinished", pa.int32()),  # not in n
        ("unfinished", pa.float64()),  # percent of all responses
        ("n_nonfinite", pa.int32()),  # not in n
        ("nonfinite", pa.float64()),  # percent of all responses
        ("inferred", pa.bool_()),  # true: an adaptive grid left the point out; n is 0 and the percentages are null
        ("asr_inferred", pa.float64()),  # inferred from measured points; null where `inferred` is false
        ("asr_inferred_error", pa.float64()),  # its standard error
    ],
    metadata={"schema": f"landscape/{LANDSCAPE_VERSION}"},
)
REQUIRED_COLUMNS = tuple(LANDSCAPE_SCHEMA.names[: LANDSCAPE_SCHEMA.names.index("mark")])
"""The columns of the first version."""

PRIMARY_GROUP = "harmful"
Lines = Sequence[tuple[int, pd.DataFrame]]
"""A pair (number, rows) for each line or plane: the result of `split_lines`."""
CURVES = ("asr", "refused", "complied", "unclear", "degenerate")
"""The columns whose mean `mean_over_lines` returns."""

_UNMARKED = {"mark": None, "projected": False}
_NOT_INFERRED = {"inferred": False, "asr_inferred": np.nan, "asr_inferred_error": np.nan}
_ZERO = 5e-10  # half of a coordinate's last decimal


def check_columns(frame: pd.DataFrame) -> None:
    """Check that a stored landscape has the columns of the first version, and that all known columns have their types.

    Raises:
        FormatError: A column is missing, or holds other values.
    """
    missing = [name for name in REQUIRED_COLUMNS if name not in frame]
    if missing:
        raise FormatError(f"lacks the column {missing[0]}")
    for column in LANDSCAPE_SCHEMA:
        if column.name not in frame or frame[column.name].isna().all():
            continue
        values = frame[column.name].dropna()
        if pa.types.is_string(column.type):
            fits = values.map(lambda value: isinstance(value, str)).all()
        elif pa.types.is_boolean(column.type):
            fits = values.map(lambda value: isinstance(value, bool | np.bool_)).all()
        else:
            fits = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        if not fits:
            raise FormatError(f"has values in the column {column.name} that are not of type {column.type}")


def build_landscape(
    nodes: pd.DataFrame,
    counts: pd.DataFrame,
    sets: pd.DataFrame,
    judges: Sequence[str] | None = None,
    correct: pd.DataFrame | None = None,
    clusters: Mapping[Combination, ClusterSummary] | None = None,
) -> pd.DataFrame:
    """Return one row for each node, prompt set and judge, with the columns of LANDSCAPE_SCHEMA.

    Rows are ordered by prompt set, judge, line, beta and alpha. n is 0 where nothing is stored. `asr` is the
    percentage of responses without a refusal; its interval is Clopper and Pearson's (1934) for the effective number of
    probes.

    Args:
        nodes: Columns line, alpha, beta, on_grid, point_id, seed_x, seed_y and, if there are checkpoints, mark and
            projected.
        counts: The frame that `scoring.counts.counts` returns.
        sets: Columns prompt_set_id, probe_set, group and system_prompt, in the order of the sweep.
        judges: Names of the judges in the order of the sweep. None: as they appear in `counts`.
        correct: Columns point_id, prompt_set_id, n_asked, n_correct and n_nonfinite of capability sets. None if there
            are none.
        clusters: The clusters of each result's probes. A result without an entry has independent probes.
    """
    nodes = nodes.assign(**{key: value for key, value in _UNMARKED.items() if key not in nodes})
    if judges is None:
        judges = list(dict.fromkeys(counts["judge"])) or ["keyword"]
    requested = sets.reset_index(drop=True).reset_index(names="_set")
    requested = requested.merge(pd.DataFrame({"judge": list(judges), "_judge": range(len(judges))}), how="cross")
    counts = counts.assign(**{key: 0 for key in LEFT_OUT.values() if key not in counts})
    rows = requested.merge(nodes, how="cross").merge(counts, on=TASK, how="left", validate="many_to_one")
    rows = rows.sort_values(["_set", "_judge", "line", "beta", "alpha"], kind="stable", ignore_index=True)
    for key in COUNTS:
        rows[key] = rows[key].fillna(0).astype("int32")
    for key in ("seed_x", "seed_y"):
        rows[key] = rows[key].astype("Int64")
    rows["beta"] = rows["beta"].astype("float64")
    rows["line"] = rows["line"].astype("int32")
    n, refused = rows["n"].to_numpy(), rows["n_refused"].to_numpy()
    assert (rows[SUMS[1:]].sum(axis=1) == rows["n"]).all()
    effective = n.astype(float)
    for combination, of_probes in (clusters or {}).items():
        of_result = (rows[list(RESULT_KEY)] == list(combination)).all(axis=1).to_numpy()
        effective[of_result] = of_probes.effective(n[of_result])
    low, high = intervals.proportion(n - refused, n, effective=effective)
    total = rows["n"].where(rows["n"] > 0).astype("float64")
    rows["asr"] = 100.0 * (n - refused) / total
    rows["asr_low"], rows["asr_high"] = 100.0 * low, 100.0 * high
    rows["margin"], rows["margin_low"], rows["margin_high"] = (
        100.0 - rows[name] for name in ("asr", "asr_high", "asr_low")
    )
    for name in ("complied", "degenerate", "unclear"):
        rows[name] = 100.0 * rows[f"n_{name}"] / total
    rows["mark"] = rows["mark"].replace("", None)
    rows = _add_correct(rows, correct)
    # correct answers need no judge: n is 0 if none applies
    responses = rows[["n", *LEFT_OUT.values()]].sum(axis=1).clip(lower=rows["n_asked"] + rows["n_nonfinite"])
    for column in LEFT_OUT.values():
        rows[column.removeprefix("n_")] = 100.0 * rows[column] / responses.where(responses > 0).astype("float64")
    return rows.assign(**_NOT_INFERRED)[LANDSCAPE_SCHEMA.names]


def _add_correct(rows: pd.DataFrame, correct: pd.DataFrame | None) -> pd.DataFrame:
    """Add the columns about correct answers, null for prompts without a correct answer."""
    if correct is None or correct.empty:
        rows["n_correct"] = pd.array([pd.NA] * len(rows), dtype="Int32")
        return rows.assign(correct=np.nan, correct_low=np.nan, correct_high=np.nan, n_asked=0)
    rows = rows.merge(
        correct, on=["point_id", "prompt_set_id"], how="left", validate="many_to_one", suffixes=("_judged", "")
    )
    rows["n_nonfinite"] = rows["n_nonfinite"].fillna(rows["n_nonfinite_judged"]).astype("int32")
    rows["n_asked"] = rows["n_asked"].fillna(0).astype(int)
    k, n = (rows[name].fillna(0).to_numpy(dtype=int) for name in ("n_correct", "n_asked"))
    known = n > 0
    low, high = intervals.proportion(k, n)
    values = {"correct": k / np.maximum(n, 1), "correct_low": low, "correct_high": high}
    rows["n_correct"] = rows["n_correct"].astype("Int32")
    return rows.assign(**{key: np.where(known, 100.0 * value, np.nan) for key, value in values.items()})


def to_table(landscape: pd.DataFrame) -> pa.Table:
    """Return the landscape as it is stored: exactly LANDSCAPE_SCHEMA, null where undefined."""
    table = pa.Table.from_pandas(landscape, schema=LANDSCAPE_SCHEMA, preserve_index=False)
    return table.replace_schema_metadata(LANDSCAPE_SCHEMA.metadata)


def with_all_counts(landscape: pd.DataFrame) -> pd.DataFrame:
    """Return a stored landscape with the counts of this version, which are 0 in earlier ones.

    No point of a landscape of a version before 5 is inferred.

    Landscapes of versions before 3 have no unclear responses of their own: their `n_complied` holds them. Those of
    versions before 4 were not checked for logits that are not finite.
    """
    added: dict[str, Any] = {}
    for name in ("unclear", *(column.removeprefix("n_") for column in LEFT_OUT.values())):
        if f"n_{name}" not in landscape:
            added |= {f"n_{name}": np.int32(0), name: np.where(landscape["n"] > 0, 0.0, np.nan)}
    added |= {key: value for key, value in _NOT_INFERRED.items() if key not in landscape}
    return landscape.assign(**added) if added else landscape


def with_inferred(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows in which inferred points have a percentage: `asr`, its 95% interval, and the margins.

    Their n stays 0. Rows of a landscape without inferred points are returned unchanged.
    """
    known = is_inferred(rows)
    if not known.any():
        return rows
    known &= rows["asr_inferred"].notna().to_numpy()
    low, high = inferred_bounds(rows, intervals.CONFIDENCE)
    ends = {"asr": rows["asr_inferred"].to_numpy(dtype=float), "asr_low": low, "asr_high": high}
    filled = {name: np.where(known, values, rows[name].to_numpy(dtype=float)) for name, values in ends.items()}
    margins = {"margin": "asr", "margin_low": "asr_high", "margin_high": "asr_low"}
    return rows.assign(**filled, **{name: 100.0 - filled[of] for name, of in margins.items()})


def inferred_bounds(rows: pd.DataFrame, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the intervals of inferred percentages, from 0 to 100, [row]; NaN at measured points.

    A point that is inferred is known no better than one that is measured: the interval has the half-widths of Clopper
    and Pearson's for as many probes as at measured points, and those of the inference (normal), combined as the root of
    the sum of squares.
    """
    asr = rows["asr_inferred"].to_numpy(dtype=float)
    of_result = [name for name in RESULT_KEY if name in rows]
    probes = rows.groupby(of_result)["n"].transform("max") if of_result else pd.Series(rows["n"].max(), rows.index)
    n = np.where(np.isnan(asr), 0, probes.to_numpy(dtype=int))
    low, high = (100.0 * end for end in intervals.proportion(np.nan_to_num(asr) / 100.0 * n, n, confidence))
    half = special.ndtri((1 + confidence) / 2) * rows["asr_inferred_error"].to_numpy(dtype=float)
    return np.maximum(asr - np.hypot(asr - low, half), 0.0), np.minimum(asr + np.hypot(high - asr, half), 100.0)


def is_inferred(rows: pd.DataFrame) -> np.ndarray:
    """Return a mask of the inferred points, bool [row]. Landscapes of earlier versions have none."""
    return np.array(rows["inferred"], dtype=bool) if "inferred" in rows else np.zeros(len(rows), dtype=bool)


def combinations(landscape: pd.DataFrame) -> list[tuple[ResultKey, pd.DataFrame]]:
    """Return a pair (result key, rows) for each result in the order of the sweep, without projected checkpoints.

    A result is a combination of a probe set, a group, a system prompt and a judge.
    """
    if "projected" in landscape:
        landscape = landscape[~landscape["projected"].astype(bool)]
    grouped = landscape.groupby(list(RESULT_KEY), sort=False, dropna=False)
    return [(ResultKey(**dict(zip(RESULT_KEY, map(str, key), strict=True))), rows) for key, rows in grouped]


def primary_rows(landscape: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the primary result: harmful, first probe set, first system prompt, first judge.

    Without harmful prompts it is the first result.
    """
    parts = combinations(landscape)
    return next((rows for key, rows in parts if key.group == PRIMARY_GROUP), parts[0][1])


def mean_over_lines(rows: pd.DataFrame, curves: Sequence[MeanCurve]) -> pd.DataFrame:
    """Return the mean over lines of one result by alpha, with the intervals of its curves.

    Args:
        rows: The rows of one result.
        curves: Its mean curves. A summary of an earlier version has none: the intervals are then those of the points if
            there is one line, else unknown (NaN).

    Returns:
        alpha, asr, refused, complied, unclear, degenerate, correct, unfinished, nonfinite (percent; NaN if any line
        lacks the point), `_low` and `_high` of asr and correct, and `inferred`: whether the point is inferred on any
        line. asr and refused are then means with inferred percentages, and the other shares are NaN.
    """
    inferred = pd.Series(is_inferred(rows)).groupby(rows["alpha"].to_numpy()).any()
    rows = with_inferred(rows)
    rows = rows.assign(refused=100.0 - rows["asr"])
    # landscapes of earlier versions lack some of them
    names = [name for name in (*CURVES, "correct", "unfinished", "nonfinite") if name in rows]
    mean = rows.groupby("alpha")[names].mean(skipna=False).reset_index()
    mean["inferred"] = mean["alpha"].map(inferred).to_numpy(dtype=bool)
    known = {curve.measure: curve for curve in curves}
    for measure in ("asr", "correct"):
        for end in ("low", "high"):
            column = f"{measure}_{end}"
            if measure in known:
                curve = known[measure]
                mean[column] = mean["alpha"].map(dict(zip(curve.alpha, getattr(curve, end), strict=True))).astype(float)
            elif column in rows and rows["line"].nunique() == 1:
                mean[column] = rows.groupby("alpha")[column].mean().to_numpy()
            else:
                mean[column] = np.nan
    return mean


def origin_row(rows: pd.DataFrame) -> pd.Series | None:
    """Return the row of one result at the unperturbed model. None if the grid does not hold the origin."""
    at_origin = rows[(rows["alpha"].abs() < _ZERO) & (rows["beta"].fillna(0.0).abs() < _ZERO)]
    return at_origin.iloc[0] if len(at_origin) else None


def grid_points(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one result on the grid, each point once."""
    on_grid = rows["on_grid"].astype(bool)
    return rows[on_grid & ~rows["point_id"].where(on_grid).duplicated()]


def split_lines(rows: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """Return a pair (number of the line or plane, its rows) for each line or plane of one result."""
    return [(int(str(k)), part) for k, part in rows.groupby("line")]


def responses(rows: pd.DataFrame) -> pd.Series:
    """Return the number of responses of each row, those without an answer included."""
    return rows[["n", *LEFT_OUT.values()]].sum(axis=1)


def coordinates(part: pd.DataFrame) -> np.ndarray:
    """Return the coordinates of the nodes of a line or plane: float[point, axis], with one axis for a line."""
    axes = ["alpha"] if part["beta"].isna().all() else ["alpha", "beta"]
    return part[axes].to_numpy(dtype=float)


def none_if_missing(value: float) -> float | None:
    """Return a number of a frame as a float, or None if it is NaN or null."""
    return None if pd.isna(value) else float(value)
