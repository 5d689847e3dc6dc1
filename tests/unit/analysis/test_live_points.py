"""Points as they are measured: numbers that are undefined at the end are undefined on the way too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from orchestrator.analysis.live_points import LivePoints, MeasuredPoint
from orchestrator.store.discovery import latest_sweep
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.utils.choices import Norm
from tests.unit.stored import basin, store_sweep


def last_point(tmp_path: Path, judges: tuple[str, ...] = ("keyword",), **grid: Any) -> MeasuredPoint:
    """Return the last point of a stored sweep; its only part stands for the visit."""
    folder = latest_sweep(store_sweep(tmp_path, basin(0.25), probes=tuple("abcd"), directions=1, **grid))
    sweep = dataclasses.replace(StoredSweep.open(folder).sweep, judges=judges)
    stored = StoredSweep(folder, sweep)
    (visit,) = {part.path.stem for part in stored.generations.values()}
    return LivePoints(stored).take(visit, sweep.grid.points()[-1].id, tokens=4, seconds=1.0)


@pytest.mark.parametrize("norm", [Norm.layer, Norm.sigma])
def test_there_is_no_visage_on_the_way_if_there_is_none_at_the_end(tmp_path: Path, norm: Norm) -> None:
    point = last_point(tmp_path, norm=norm)
    assert (point.visage_so_far is None) == (norm == Norm.sigma)
    assert point.radius_so_far is not None and 0.2 < point.radius_so_far < 0.3 and len(point.asr) == 1


def test_people_judge_after_the_sweep(tmp_path: Path) -> None:
    point = last_point(tmp_path, judges=("human", "keyword"))
    assert (dict(point.asr), point.visage_so_far, point.radius_so_far) == ({}, None, None)
