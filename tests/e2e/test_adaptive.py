"""An adaptive sweep from the command line: killed and resumed, it measures what the rule asks for and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.analysis.requested import requested
from orchestrator.store.discovery import latest_sweep
from orchestrator.store.sweep_folder import StoredSweep
from tests.e2e.conftest import Driver, assert_refused, call, parts, wait_for

pytestmark = pytest.mark.cluster

SWEEP = ("run", "engine=dummy", "grid=random_2d", "grid.steps=8", "grid.adaptive=true", "probes.limit=20")


def test_a_killed_adaptive_plane_resumes_and_is_reported(tmp_path: Path, start: Callable[..., Driver]) -> None:
    out = f"out={tmp_path}"
    driver = start(*SWEEP, "engine.seconds=0.1", out)
    wait_for(lambda: len(parts(tmp_path)) >= 12 or driver.process.poll() is not None)
    driver.kill()
    assert 12 <= len(parts(tmp_path)) < 81
    result = call(*SWEEP, out)
    assert result.code == 0, result.err
    stored = StoredSweep.open(latest_sweep(tmp_path))
    chosen = {task.point.id for task in requested(stored).tasks}
    assert {point for point, _ in stored.generations} == chosen and requested(stored).is_final
    summary = json.loads((stored.folder.path / "summary.json").read_text())["adaptive"]
    assert summary["measured"] == len(chosen) < summary["points"] == 81
    assert f"measured {len(chosen)} of 81 points, {81 - len(chosen)} inferred" in result.out
    status = json.loads(call("status", str(tmp_path), "--json").out)
    assert [(each["state"], each["done"], each["tasks"]) for each in status] == [("complete", len(chosen), len(chosen))]
    assert call("verify", str(tmp_path)).code == 0


@pytest.mark.slow
@pytest.mark.engine
def test_the_embedded_models_line_is_as_a_full_sweep_finds_it(tmp_path: Path) -> None:
    line = ("run", "grid.directions=1", "grid.steps=40", "probes.limit=12", "sampling.max_tokens=48", f"out={tmp_path}")
    adaptive = call(*line, "grid.adaptive=true", "--json")
    assert adaptive.code == 0, adaptive.err
    stored = StoredSweep.open(latest_sweep(tmp_path))
    chosen = len(stored.generations)
    first = json.loads((stored.folder.path / "summary.json").read_text())
    assert first["adaptive"]["complete"] and first["adaptive"]["measured"] == chosen <= 41
    full = call(*line)
    assert full.code == 0, full.err
    stored = StoredSweep.open(latest_sweep(tmp_path))
    second = json.loads((stored.folder.path / "summary.json").read_text())
    assert stored.record.runs[-1].totals.visits == 41 - chosen, "a full sweep measures the rest"
    assert abs(first["margin"]["value"] - second["margin"]["value"]) < 2.0
    assert abs(first["basin"]["radius"] - second["basin"]["radius"]) <= 0.025
    again = call(*line, "grid.adaptive=true")
    assert again.code == 0 and "Nothing to run" in again.err, again.err


def test_what_an_adaptive_grid_cannot_do_is_refused(tmp_path: Path) -> None:
    out = f"out={tmp_path}"
    assert_refused(call(*SWEEP, "cluster.part=1/2", out), "cluster.part=1/2", "grid.adaptive=true")
    assert_refused(call(*SWEEP, "judge=wildguard", out), "grid.adaptive=true", "add keyword to judges")
    assert_refused(call(*SWEEP, "probes=capability_choice", out), "grid.adaptive=true", "keyword judges")
    assert not any(tmp_path.iterdir())
