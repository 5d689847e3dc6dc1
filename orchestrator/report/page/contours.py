"""Contours of a plane as SVG paths: filled bands of ten percent, and the 50% line. Missing points leave holes.

Paths are in thousandths of the plane's width and height. The second axis points up.
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
LEVELS = (-1, *range(10, 100, 10), 101)  # a band includes its upper end, so the first starts below 0


def bands(grid: pd.DataFrame) -> list[str]:
    """Return a path for each of the ten bands, to be filled by the even-odd rule.

    The path of a band without area is an empty string.

    Args:
        grid: One plane, as `pivot` returns it.
    """
    generator = _generator(grid)
    return ["".join(_rings(*generator.filled(low, high))) for low, high in itertools.pairwise(LEVELS)]


def threshold(grid: pd.DataFrame) -> str:
    """Return the path along which the percentage crosses 50; an empty string if it does not."""
    lines: Any = _generator(grid).lines(THRESHOLD)
    return "".join(_path(line) for line in lines)


def pivot(rows: pd.DataFrame, values: str) -> pd.DataFrame:
    """Return one plane's grid: a row for each beta, a column for each alpha, NaN at missing points."""
    grid = rows[rows["on_grid"]]
    return grid.pivot_table(index="beta", columns="alpha", values=values, dropna=False, aggfunc="first")


def _generator(grid: pd.DataFrame) -> Any:
    x, y = (np.asarray(axis, dtype=float) for axis in (grid.columns, grid.index))
    x, y = (UNITS * (axis - axis[0]) / (axis[-1] - axis[0]) for axis in (x, y))
    return contourpy.contour_generator(
        x,
        UNITS - y,
        np.ma.masked_invalid(grid.to_numpy(dtype=float)),
        fill_type=contourpy.FillType.OuterOffset,
        line_type=contourpy.LineType.Separate,
        corner_mask=False,
    )


def _rings(polygons: list[np.ndarray], offsets: list[np.ndarray]) -> Iterator[str]:
    """Yield a closed path for each ring of contourpy's `OuterOffset` polygons."""
    for points, ends in zip(polygons, offsets, strict=True):
        for start, end in itertools.pairwise(ends):
            yield _path(points[start:end]) + "Z"


def _path(points: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}".replace(".0", "") for x, y in points)
