"""A plane's contours as paths: filled bands of ten percent and the 50% line; nothing where a point is missing.

Paths are in units of a thousandth of the plane's width and height, the second axis upwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import contourpy
import numpy as np
import pandas as pd

from orchestrator.analysis.basin import THRESHOLD

UNITS = 1000
LEVELS = (-1, *range(10, 100, 10), 101)  # a band holds its upper end, so the first begins below 0


def bands(grid: pd.DataFrame) -> list[str]:
    """A path for each of the ten bands, even-odd filled; empty where it covers nothing. `grid`: as `pivot` makes it."""
    generator = _generator(grid, contourpy.FillType.OuterOffset)
    return ["".join(_rings(*generator.filled(low, high))) for low, high in itertools.pairwise(LEVELS)]


def threshold(grid: pd.DataFrame) -> str:
    """Where ASR crosses 50%."""
    lines: Any = _generator(grid, contourpy.FillType.OuterOffset).lines(THRESHOLD)
    return "".join(_path(line) for line in lines)


def pivot(rows: pd.DataFrame, values: str) -> pd.DataFrame:
    """One plane's grid: beta down, alpha across, NaN where a point is missing."""
    grid = rows[rows["on_grid"]]
    return grid.pivot_table(index="beta", columns="alpha", values=values, dropna=False, aggfunc="first")


def _generator(grid: pd.DataFrame, fill: contourpy.FillType) -> Any:
    x, y = (np.asarray(axis, dtype=float) for axis in (grid.columns, grid.index))
    x, y = (UNITS * (axis - axis[0]) / (axis[-1] - axis[0]) for axis in (x, y))
    values = np.ma.masked_invalid(grid.to_numpy(dtype=float))
    line = contourpy.LineType.Separate
    return contourpy.contour_generator(x, UNITS - y, values, fill_type=fill, line_type=line, corner_mask=False)


def _rings(polygons: list[np.ndarray], offsets: list[np.ndarray]) -> Iterator[str]:
    for points, ends in zip(polygons, offsets, strict=True):
        for start, end in itertools.pairwise(ends):
            yield _path(points[start:end]) + "Z"


def _path(points: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}".replace(".0", "") for x, y in points)
