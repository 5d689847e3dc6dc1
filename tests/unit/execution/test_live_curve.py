"""The live curve reads the attack success rate from stored visits and is drawn as bars."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.execution.live_curve import LiveCurve, draw_bars
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from tests.unit.stored import basin, store_sweep


def stored_curve(folder: Path) -> LiveCurve:
    """Return the curve of a stored sweep; nothing is read yet."""
    return LiveCurve(StoredSweep.open(SweepFolder(Study.open(folder.parents[1]), folder)))


def test_the_curve_has_the_means_of_the_stored_landscape(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path, basin(0.25, slack=0), directions=2)
    curve = stored_curve(folder)
    assert {asr for _, asr in curve.means} == {None}, "nothing is read yet"
    curve.read()
    study = Study.open(folder.parents[1])
    landscape, _ = SweepFolder(study, folder).read_landscape()
    means = landscape.groupby("alpha")["asr"].mean()
    assert dict(curve.means) == pytest.approx(means.to_dict())
    curve.add_visit("no such visit")
    curve.read()
    assert dict(curve.means) == pytest.approx(means.to_dict())


def test_the_position_on_a_plane_is_the_distance_from_the_origin(tmp_path: Path) -> None:
    grid = {"kind": "random_2d", "directions": 1}
    folder = store_sweep(tmp_path, basin(0.31, slack=0), leave_out=lambda node: node.alpha > 0.35, **grid)
    curve = stored_curve(folder)
    curve.read()
    means = dict(curve.means)
    assert means[0.0] == 0.0 and means[0.1] == 0.0 and means[0.5] == 100.0
    assert min(means) == 0.0 and 0.6 < max(means) < 0.8


def test_bars_fit_the_width_and_keep_the_origin() -> None:
    means = [(i / 100, None if i % 2 else 100.0 * abs(i) / 50) for i in range(-50, 51)]
    for width in (12, 40, 200):
        lines = draw_bars(means, width).splitlines()
        assert len(lines) == 5 and max(map(len, lines)) <= width + 9
    assert draw_bars([(-0.1, 100.0), (0.0, 0.0), (0.1, None)], 9, unicode=False).splitlines() == [
        "ASR 100% ###",
        "         ###",
        "         ###",
        "      0% ###___...",
        "         -0.1 +0.1",
    ]
