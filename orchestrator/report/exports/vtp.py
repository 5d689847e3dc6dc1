"""Surfaces for ParaView and other programs that read VTK's PolyData in XML (`.vtp`)."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from orchestrator.analysis.landscape import primary_rows, split_lines
from orchestrator.analysis.recomputation import checked_results
from orchestrator.store.sweep_folder import StoredSweep

COLUMNS = ("asr", "asr_low", "asr_high", "complied", "degenerate", "unclear", "n", "asr_inferred", "asr_inferred_error")
"""The columns of the landscape that each file holds as numbers at its points; NaN where nothing is measured."""


def write(stored: StoredSweep, path: Path) -> None:
    """Write `plane-K.vtp` or `line-K.vtp` for each plane or line of a sweep, with the numbers of the primary result.

    The x and y coordinates are alpha and beta (0 on a line), z is 0: "Warp By Scalar" makes a surface of it.
    """
    path.mkdir()
    landscape = primary_rows(checked_results(stored).parsed()[0])
    kind = "plane" if stored.sweep.grid.is_plane else "line"
    for number, rows in split_lines(landscape):
        text = ElementTree.tostring(poly_data(rows[rows["on_grid"]]), encoding="unicode")
        document = f'<?xml version="1.0"?>\n{text}\n'
        (path / f"{kind}-{number}.vtp").write_text(document, encoding="utf-8")


def poly_data(rows: pd.DataFrame) -> ElementTree.Element:
    """Return a document of VTK with a quadrilateral for each cell of a plane, or one line through all points of a line.

    Args:
        rows: The rows of one line or plane in the landscape, of nodes on the grid.
    """
    rows = rows.sort_values(["beta", "alpha"])
    alphas = sorted(rows["alpha"].unique())
    is_line = bool(rows["beta"].isna().all())
    if is_line:
        shapes = [tuple(range(len(rows)))]
    else:
        width, height = len(alphas), rows["beta"].nunique()
        corners = itertools.product(range(height - 1), range(width - 1))
        shapes = [(j * width + i, j * width + i + 1, (j + 1) * width + i + 1, (j + 1) * width + i) for j, i in corners]
    file = ElementTree.Element(
        "VTKFile", type="PolyData", version="0.1", byte_order="LittleEndian", header_type="UInt32"
    )
    counts = {"NumberOfLines": len(shapes) * is_line, "NumberOfPolys": len(shapes) * (not is_line)}
    data = ElementTree.SubElement(file, "PolyData")
    piece = ElementTree.SubElement(
        data, "Piece", {"NumberOfPoints": str(len(rows))} | {k: str(v) for k, v in counts.items()}
    )
    numbers = ElementTree.SubElement(piece, "PointData", Scalars="asr")
    for column in COLUMNS:
        _array(numbers, column, rows[column].tolist())
    places = [
        number
        for alpha, beta in zip(rows["alpha"], rows["beta"].fillna(0.0), strict=True)
        for number in (alpha, beta, 0.0)
    ]
    _array(ElementTree.SubElement(piece, "Points"), "points", places, components=3)
    cells = ElementTree.SubElement(piece, "Lines" if is_line else "Polys")
    _array(cells, "connectivity", list(itertools.chain.from_iterable(shapes)), "Int64")
    _array(cells, "offsets", list(itertools.accumulate(len(shape) for shape in shapes)), "Int64")
    return file


def _array(
    parent: ElementTree.Element, name: str, values: Sequence[float], kind: str = "Float64", components: int = 1
) -> None:
    """Add an array in base64, after its number of bytes: VTK reads no NaN in text."""
    attributes = {"type": kind, "Name": name, "NumberOfComponents": str(components), "format": "binary"}
    data = np.array(values, dtype=_TYPES[kind]).tobytes()
    encoded = base64.b64encode(np.array([len(data)], dtype="<u4").tobytes() + data)
    ElementTree.SubElement(parent, "DataArray", attributes).text = encoded.decode()


_TYPES = {"Float64": "<f8", "Int64": "<i8"}
