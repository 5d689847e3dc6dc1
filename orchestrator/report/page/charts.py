"""The data of the page's charts, as page.js reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from orchestrator.analysis.landscape import combinations, is_inferred, mean_over_lines, with_inferred
from orchestrator.analysis.results.basin import BasinSummary
from orchestrator.analysis.results.checkpoints import CheckpointSummary
from orchestrator.analysis.results.curves import MeanCurve
from orchestrator.analysis.results.keys import ResultKey
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.report.measures import ATTACK_SUCCESS, Measure, measure_of
from orchestrator.report.page import contours
from orchestrator.report.page.evidence import Evidence
from orchestrator.sweep.directions import Direction
from orchestrator.sweep.grid import Grid, Sweep


def chart_data(
    sweep: Sweep,
    frame: pd.DataFrame,
    summary: SweepSummary,
    checkpoints: Sequence[CheckpointSummary],
    evidence: Evidence,
) -> dict[str, Any]:
    """Return the numbers of every result, and which results are shown together.

    Points are indices into `points`, prompt sets and judges indices into the sweep's, results indices into `results`.

    Returns:
        `plane`: whether the grid consists of planes. `axes`: names of the axes of the first line or plane. `lines`:
        names of the lines or planes. `marks`: [line, point, name] of named points. `beside`: checkpoints off their line
        or plane. `points`: point ids. `origin`: the unperturbed point, or None. `results`: the numbers by result.
        `views`: which results are shown on the same axes, the primary one first.
    """
    points = list(dict.fromkeys(frame["point_id"]))
    point_index = {point: i for i, point in enumerate(points)}
    set_index = {p.names: i for i, p in enumerate(evidence.prompt_sets)}
    parts = combinations(frame)
    results = []
    for (key, part), numbers in zip(parts, summary.results, strict=True):
        measure = measure_of(key.group)
        rows = measure.of(with_inferred(part))
        results.append(
            {
                "set": set_index[key.probe_set, key.group, key.system_prompt],
                "judge": list(sweep.judges).index(key.judge),
                "kind": measure.kind,
                "name": f"{measure.name} ({key.probe_set})",
                "label": " · ".join(key.combination),
                "rows": _rows(rows, point_index),
                "mean": None if sweep.grid.is_plane else _mean(measure, part, numbers.curves),
                "planes": [_plane(plane) for _, plane in rows.groupby("line")] if sweep.grid.is_plane else [],
                "over": numbers.curves[0].over if numbers.curves else "",
                "chance": numbers.chance,
                "edges": _edges(numbers.basin) if measure is ATTACK_SUCCESS else [],
            }
        )
    nodes = sweep.grid.nodes
    return {
        "plane": sweep.grid.is_plane,
        "axes": _axis_names(sweep.grid),
        "lines": [_line_name(sweep.grid, k) for k in range(sweep.grid.lines)],
        "marks": [[n.line, point_index[n.point.id], n.mark] for n in nodes if n.mark and n.point.id in point_index],
        "beside": _projected_checkpoints(checkpoints, frame, [key for key, _ in parts]),
        "points": points,
        "origin": next((point_index[n.point.id] for n in nodes if n.point.is_origin), None),
        "results": results,
        "views": list(_views(sweep.grid.is_plane, [key for key, _ in parts], summary.primary)),
    }


def _rows(rows: pd.DataFrame, point_index: Mapping[str, int]) -> dict[str, list[Any]]:
    """Return the rows as columns; `value` and its interval are None at missing points."""
    return {
        "line": rows["line"].tolist(),
        "point": rows["point_id"].map(point_index).tolist(),
        "grid": rows["on_grid"].astype(int).tolist(),
        "n": rows["n"].tolist(),
        "unfinished": rows["n_unfinished"].tolist(),
        "nonfinite": rows["n_nonfinite"].tolist(),
        "inferred": is_inferred(rows).astype(int).tolist(),
        **{name: _values(rows[name]) for name in ("alpha", "beta")},
        **{name: _values(rows[name], 2) for name in ("value", "low", "high", "complied", "unclear", "degenerate")},
        "refused": _values(100 - rows["asr"], 2),
    }


def _mean(measure: Measure, rows: pd.DataFrame, curves: Sequence[MeanCurve]) -> dict[str, list[float | None]]:
    """Return the mean over lines by alpha; None if any line lacks the point."""
    names = ["value", "low", "high", "degenerate"]
    mean = measure.of(mean_over_lines(rows, curves))
    return {"alpha": _values(mean["alpha"]), **{name: _values(mean[name], 2) for name in names}}


def _plane(part: pd.DataFrame) -> dict[str, Any]:
    """Return the extent and the contours of one plane by name."""
    grid = contours.pivot(part, "value")
    return {
        "x": [float(grid.columns[0]), float(grid.columns[-1])],
        "y": [float(grid.index[0]), float(grid.index[-1])],
        "bands": contours.bands(grid),
        "threshold": contours.threshold(grid),
    }


def _projected_checkpoints(
    checkpoints: Sequence[CheckpointSummary], frame: pd.DataFrame, keys: Sequence[ResultKey]
) -> list[dict[str, Any]]:
    """Return the checkpoints off their line or plane, at their projection, with the value of each result."""
    projected = []
    for checkpoint in checkpoints:
        if not checkpoint.projected:
            continue
        own = frame[frame["projected"].astype(bool) & (frame["point_id"] == checkpoint.point_id)]
        own = own[own["line"] == checkpoint.line].assign(projected=False)
        values = {key: measure_of(key.group).of(rows)["value"].iloc[0] for key, rows in combinations(own)}
        projected.append(
            {
                "line": checkpoint.line,
                "mark": checkpoint.mark,
                "alpha": checkpoint.alpha,
                "beta": checkpoint.beta,
                "values": _values(pd.Series([values[key] for key in keys]), 2),
            }
        )
    return projected


def _edges(basin: BasinSummary) -> list[float]:
    """Return alpha at the edges of a basin; none for a basin without extent."""
    if not basin.radius:
        return []
    return [edge for edge in (basin.left, basin.right) if edge is not None]


def _views(is_plane: bool, keys: Sequence[ResultKey], primary: ResultKey) -> Iterator[dict[str, Any]]:
    """Yield the label and the results of each view, the primary result's first.

    On a line, a curve of attacks is shown with the curves of refused benign requests and of right answers under the
    same system prompt. On a plane each result has a view of its own.
    """
    is_attack = [measure_of(key.group) is ATTACK_SUCCESS for key in keys]
    leading = [i for i in range(len(keys)) if is_plane or is_attack[i]] or range(len(keys))
    for i in sorted(leading, key=lambda i: keys[i] != primary):
        key = keys[i]
        companions = [
            j
            for j, other in enumerate(keys)
            if not is_plane
            and is_attack[i]
            and not is_attack[j]
            and (other.system_prompt, other.judge) == (key.system_prompt, key.judge)
        ]
        label = f"{key.probe_set} · system prompt {key.system_prompt} · judge {key.judge}"
        yield {"label": label, "results": [i, *companions]}


def _line_name(grid: Grid, k: int) -> str:
    """Return `direction 1 (seed 123)`, `plane 1 (seeds 123, 124)` or `toward NAME`."""
    axes = [axis for axis in grid.axes(k) if axis is not None]
    seeds = [str(axis.seed) for axis in axes if axis.seed is not None]
    targets = [_target_name(axis) for axis in axes if axis.fingerprint is not None]
    if targets:
        return ", ".join([f"toward {' and '.join(targets)}", *(f"seed {seed}" for seed in seeds)])
    shape = "plane" if len(axes) > 1 else "direction"
    noun = "seeds" if len(seeds) > 1 else "seed"
    return f"{shape} {k + 1} ({noun} {', '.join(seeds)})"


def _axis_names(grid: Grid) -> list[str]:
    """Return the names of the axes of the first line or plane, such as `perturbation α` or `α, toward NAME`."""
    names = []
    for letter, axis in zip("αβ", grid.axes(0), strict=True):
        if axis is not None and axis.reference is not None and grid.match is not None:
            names.append(f"{letter}, in lengths of {grid.match.label or axis.reference[:8]}")
        elif axis is None or axis.fingerprint is None:
            names.append(f"perturbation {letter}")
        else:
            names.append(f"{letter}, toward {_target_name(axis)}")
    return names


def _target_name(axis: Direction) -> str:
    """Return the name of the checkpoint or adapter that an axis points to."""
    return axis.label or (axis.fingerprint or "")[:8]


def _values(column: pd.Series, digits: int = 9) -> list[float | None]:
    """Return rounded numbers, None where they are missing."""
    return [None if pd.isna(value) else round(float(value), digits) for value in column.tolist()]
