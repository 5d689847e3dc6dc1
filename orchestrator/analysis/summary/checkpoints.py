"""Summarize the checkpoints on lines and planes."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from orchestrator.analysis.landscape import combinations, none_if_missing, with_inferred
from orchestrator.analysis.results.checkpoints import CheckpointResult, CheckpointSummary
from orchestrator.analysis.results.keys import RESULT_KEY, ResultKey


def summarize_checkpoints(landscape: pd.DataFrame) -> tuple[CheckpointSummary, ...]:
    """Return every checkpoint in a landscape with its coordinates, its results, and the grid's ASR there.

    A landscape does not contain the distance of a checkpoint from the model: `distance` and the fields that depend on
    it keep their defaults.
    """
    if "mark" not in landscape:  # a landscape of an earlier version
        return ()
    landscape = with_inferred(landscape)
    marked = landscape[landscape["mark"].notna()]
    parts = combinations(landscape)
    checkpoints = []
    for (line, mark, point), at_checkpoint in marked.groupby(["line", "mark", "point_id"], sort=False):
        first = at_checkpoint.iloc[0]
        checkpoints.append(
            CheckpointSummary(
                line=int(str(line)),
                mark=str(mark),
                point_id=str(point),
                alpha=float(first["alpha"]),
                beta=none_if_missing(first["beta"]),
                projected=bool(first["projected"]),
                results=tuple(
                    _checkpoint_result(key, at_checkpoint, rows[rows["line"] == line]) for key, rows in parts
                ),
            )
        )
    return tuple(checkpoints)


def _checkpoint_result(key: ResultKey, at_checkpoint: pd.DataFrame, line: pd.DataFrame) -> CheckpointResult:
    """Return one result at a checkpoint, from the checkpoint's own rows and the rows of its line."""
    result = at_checkpoint[(at_checkpoint[list(RESULT_KEY)] == pd.Series(key.to_json())).all(axis=1)].iloc[0]
    grid = line[line["on_grid"] & (line["point_id"] != result["point_id"])]
    return CheckpointResult(
        probe_set=key.probe_set,
        group=key.group,
        system_prompt=key.system_prompt,
        judge=key.judge,
        n=int(result["n"]),
        asr=none_if_missing(result["asr"]),
        asr_low=none_if_missing(result["asr_low"]),
        asr_high=none_if_missing(result["asr_high"]),
        surface=_interpolate(grid, "asr", result["alpha"], result["beta"]),
        surface_low=_interpolate(grid, "asr_low", result["alpha"], result["beta"]),
        surface_high=_interpolate(grid, "asr_high", result["alpha"], result["beta"]),
    )


def _interpolate(grid: pd.DataFrame, column: str, alpha: float, beta: float) -> float | None:
    """Interpolate a column linearly between a grid's points. None outside the grid or beside a missing point.

    Interpolated ends of the points' intervals are an interval of the interpolated ASR: they are as far apart as if the
    errors of all points were the same, and the errors of a weighted mean are never larger than that.
    """
    from scipy.interpolate import RegularGridInterpolator

    if math.isnan(beta):
        known = grid.drop_duplicates("alpha").sort_values("alpha")
        axes, values, position = [known["alpha"].to_numpy()], known[column].to_numpy(), [alpha]
    else:
        table = grid.pivot_table(index="alpha", columns="beta", values=column, dropna=False, aggfunc="first")
        axes, values = [table.index.to_numpy(), table.columns.to_numpy()], table.to_numpy()  # type: ignore[assignment]
        position = [alpha, beta]
    if any(len(axis) < 2 for axis in axes):
        return None
    surface = RegularGridInterpolator(axes, values, bounds_error=False, fill_value=np.nan)
    return none_if_missing(float(surface(position)[0]))
