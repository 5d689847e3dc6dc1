"""Scalars of a direction are sent to the ranks once, not with every point."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import ORIGIN, Point
from workers.engines.vllm import VllmEngine

LINE, ACROSS = RandomDirection(11), RandomDirection(12, orthogonal_to=11)


def test_each_table_is_sent_once_and_again_after_a_failure() -> None:
    engine: Any = object.__new__(VllmEngine)
    engine._sent_scalars = set()
    sent: list[list[str]] = []
    fails = [True, False, False, False, False]

    def rpc(method: str, point: Point, scalars: dict[str, pa.Table]) -> None:
        assert method == "landscape_apply_point"
        sent.append(sorted(scalars))
        if fails.pop(0):
            raise RuntimeError("a rank failed")

    engine._rpc, engine._reset_prefix_cache = rpc, lambda: None
    tables = {d.id: pa.table({}) for d in (LINE, ACROSS)}
    line, plane = Point.from_coefficients([(LINE, 0.1)]), Point.from_coefficients([(LINE, 0.2), (ACROSS, 0.1)])
    with pytest.raises(RuntimeError, match="a rank failed"):
        engine.apply_point(line, tables)
    for point in (line, plane, plane, ORIGIN):
        engine.apply_point(point, tables)
    assert sent == [[LINE.id], [LINE.id], [ACROSS.id], [], []]
