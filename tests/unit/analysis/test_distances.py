"""Distances of checkpoints in units of a basin's mean radius, along random directions and along matched ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from orchestrator.analysis import distances, reducer
from orchestrator.analysis.results.basin import Estimate
from orchestrator.analysis.results.checkpoints import MEAN_RADIUS, SMALLEST_RADIUS, CheckpointSummary
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.pipeline.reduce import reduce_stored
from orchestrator.report.narrative import radii_notes
from orchestrator.report.page.tables import checkpoint_table
from orchestrator.store.discovery import latest_sweep
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.target_geometry import TargetGeometry
from tests.unit.stored import basin, store_sweep

pytestmark = pytest.mark.thorough


TUNED, OTHER = TowardsDirection("aa", "tuned"), TowardsDirection("bb", "other")
DISTANCE = 0.06
PROBES = tuple("abcdefgh")


def checkpoint_of(tmp_path: Path) -> tuple[CheckpointSummary, SweepSummary]:
    """Store a line toward TUNED, which is DISTANCE away, and return its checkpoint as it is reduced now."""
    line: dict[str, Any] = {"kind": "interpolate_1d", "towards": (TUNED,), "range": (0.0, 1.0), "steps": 2}
    stored = StoredSweep.open(latest_sweep(store_sweep(tmp_path, basin(0.7), probes=PROBES, **line)))
    geometry = TargetGeometry(base_norm=100.0, moved_norm=50.0, lengths={"aa": 50.0 * DISTANCE})
    stored.folder.write_record(dataclasses.replace(stored.record, target_geometry=geometry))
    stored = StoredSweep.open(stored.folder)
    summary = reducer.reduce_summary(stored, reducer.reduce_landscape(stored))
    (checkpoint,) = SweepSummary.from_json(summary.to_json()).checkpoints
    return checkpoint, summary


def radii_of(path: Path) -> list[float]:
    """Return the radius of each line of a stored sweep."""
    _, summary = reducer.read_results(latest_sweep(path))
    radii = [line.radius for line in summary.basin.by_direction]
    assert None not in radii
    return [float(radius or 0) for radius in radii]


def store_matched(tmp_path: Path, radius: float, kind: str = "shuffled", **grid: Any) -> Path:
    defaults: dict[str, Any] = {"directions": 3, "range": (-20.0, 20.0), "match": TUNED, "direction": kind}
    return store_sweep(tmp_path, basin(radius, slack=2.0), probes=PROBES, **(defaults | grid))


def test_the_unit_is_the_mean_radius_and_its_interval_is_carried_through(tmp_path: Path) -> None:
    radii = radii_of(store_sweep(tmp_path, basin(0.25), probes=PROBES, directions=3, steps=40))
    assert len(set(radii)) == 3
    checkpoint, _ = checkpoint_of(tmp_path)
    low, high = stats.t.interval(0.95, 2, np.mean(radii), stats.sem(radii))
    assert checkpoint.distance == pytest.approx(DISTANCE) and checkpoint.radii_unit == MEAN_RADIUS
    assert checkpoint.radii == pytest.approx(DISTANCE / np.mean(radii))
    assert checkpoint.radius == min(radii) < np.mean(radii), "the smallest radius is told, but it is not the unit"
    assert checkpoint.mean_radius.value == pytest.approx(np.mean(radii))
    assert checkpoint.radii_low is not None and checkpoint.radii_high is not None
    assert checkpoint.radii_low < checkpoint.radii < checkpoint.radii_high
    assert checkpoint.radii_low == pytest.approx(DISTANCE / checkpoint.mean_radius.high)
    assert checkpoint.radii_high == pytest.approx(DISTANCE / checkpoint.mean_radius.low)
    # The mean radius has the t interval, or a wider one where points between grid nodes are interpolated.
    assert checkpoint.mean_radius.low <= low + 1e-9 and checkpoint.mean_radius.high >= high - 1e-9


def test_matched_radii_are_those_of_directions_as_long_as_the_checkpoint(tmp_path: Path) -> None:
    shuffled = radii_of(store_matched(tmp_path, 6.0))
    noise = radii_of(store_matched(tmp_path, 9.0, "matched"))
    store_matched(tmp_path, 3.0, directions=2, seed=900)  # fewer directions
    store_matched(tmp_path, 2.0, directions=5, match=OTHER)  # another checkpoint
    checkpoint, summary = checkpoint_of(tmp_path)
    by_kind = {matched.direction: matched for matched in checkpoint.matched}
    assert list(by_kind) == ["matched", "shuffled"]
    for kind, radii in (("shuffled", shuffled), ("matched", noise)):
        matched = by_kind[kind]
        assert matched.radii == pytest.approx(1 / np.mean(radii)) and matched.directions == 3
        assert matched.radii_low is not None and matched.radii_high is not None
        assert matched.radii_low == pytest.approx(1 / matched.mean_radius.high)
        assert matched.radii_high == pytest.approx(1 / matched.mean_radius.low)
        assert matched.reason is None
    assert checkpoint.radii is None and checkpoint.radius_reason == distances.NO_BASIN
    notes = radii_notes(checkpoint)
    assert [note.split()[4] for note in notes] == ["matched", "shuffled"]
    assert f"{1 / np.mean(shuffled):.2g} mean radii along shuffled directions of its own length [" in notes[1]
    table = checkpoint_table(summary.checkpoints, summary.primary)
    assert table is not None and notes[1] in table.rows[0][table.head.index("Distance")]


def test_the_unit_follows_from_the_rows_and_not_from_the_other_summary(tmp_path: Path) -> None:
    """A summary that was edited and hashed anew changes neither the unit nor which sweep is taken."""
    store_sweep(tmp_path, basin(0.25), probes=PROBES, directions=2, steps=40)
    path = store_sweep(tmp_path, basin(0.25), probes=PROBES, directions=3, steps=40)
    store_matched(tmp_path, 6.0)
    expected, _ = checkpoint_of(tmp_path)
    assert expected.radii is not None and expected.matched[0].radii is not None
    for other in tmp_path.glob("*/sweeps/*"):
        folder = latest_sweep(other)
        text = json.dumps(folder.read_summary())
        doubled = json.loads(text, parse_float=lambda number: 2 * float(number))
        if other == path:
            doubled["basin"]["by_direction"] = doubled["basin"]["by_direction"][:1]
            doubled["grid"]["directions"] = 1
        folder.write_summary(doubled)
    assert checkpoint_of(tmp_path)[0] == expected


def test_matched_directions_are_no_random_directions(tmp_path: Path) -> None:
    store_matched(tmp_path, 6.0, directions=5)
    radii = radii_of(store_sweep(tmp_path, basin(0.25), probes=PROBES, directions=2, steps=40))
    checkpoint, _ = checkpoint_of(tmp_path)
    assert checkpoint.radii == pytest.approx(DISTANCE / np.mean(radii))


def test_without_an_edge_there_are_no_matched_radii_but_a_reason(tmp_path: Path) -> None:
    store_matched(tmp_path, 30.0, directions=1)
    checkpoint, _ = checkpoint_of(tmp_path)
    (matched,) = checkpoint.matched
    assert matched.radii is None and matched.reason and radii_notes(checkpoint) == []


@pytest.mark.parametrize(
    ("radius", "expected"),
    [
        (Estimate(value=2.0, low=1.0, high=4.0), (1.5, 0.75, 3.0)),
        (Estimate(value=2.0, low=0.0, high=4.0), (1.5, 0.75, None)),
        (Estimate(value=2.0, reason="one direction"), (1.5, None, None)),
        (Estimate(reason="50% is not reached"), (None, None, None)),
        (Estimate(value=0.0, low=0.0, high=0.0), (None, None, None)),
    ],
)
def test_a_distance_of_three(radius: Estimate, expected: tuple[float | None, ...]) -> None:
    radii = distances.in_radii(3.0, radius)
    assert (radii.value, radii.low, radii.high) == expected
    assert (radii.value is not None) or radii.reason


def test_a_distance_that_is_not_recorded_is_the_reason() -> None:
    assert distances.in_radii(None, Estimate(value=2.0, low=1.0, high=4.0)) == Estimate(reason=distances.NO_DISTANCE)


def test_a_summary_of_an_earlier_version_keeps_the_smallest_radius_as_its_unit() -> None:
    place = {"line": 0, "mark": "tuned", "point_id": "p", "alpha": 1.0, "beta": None, "projected": False, "results": []}
    earlier = place | {"distance": 0.06, "radii": 0.3, "radius": 0.2, "radius_of": "s", "radius_reason": None}
    checkpoint = CheckpointSummary.from_json(earlier)
    assert checkpoint.radii_unit == SMALLEST_RADIUS
    assert radii_notes(checkpoint) == ["0.3 smallest radii of the basin away"]


def test_reduce_says_once_that_the_unit_of_distances_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("orchestrator.pipeline.reduce.draw_figures", lambda *_: None)
    store_sweep(tmp_path, basin(0.25), probes=PROBES, directions=3, steps=40)
    checkpoint, summary = checkpoint_of(tmp_path)
    assert checkpoint.radii is not None and checkpoint.radius is not None
    old = dataclasses.replace(checkpoint, radii=DISTANCE / checkpoint.radius, radii_unit=SMALLEST_RADIUS)
    (path,) = (path for path in tmp_path.glob("*/sweeps/*") if "interpolate" in (path / "sweep.json").read_text())
    stored = StoredSweep.open(latest_sweep(path))
    stored.folder.write_summary(dataclasses.replace(summary, checkpoints=(old,)).to_json())
    reduce_stored(stored)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(
        f"distances in radii changed, tuned from {old.radii:.3g} to {checkpoint.radii:.3g}, because"
    )
    caplog.clear()
    reduce_stored(stored)
    assert not caplog.records
