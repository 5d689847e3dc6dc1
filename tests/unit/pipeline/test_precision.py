"""A plan for a wanted precision is computed from a stored sweep, whatever the size of the sweep that is prepared."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from orchestrator.analysis.components import TARGET
from orchestrator.analysis.reducer import read_results
from orchestrator.pipeline.precision import plan_from_stored
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.grid import Node
from tests.unit.stored import store_sweep

pytestmark = pytest.mark.thorough


def refuses(node: Node, i: int) -> bool:
    """Return whether probe i is refused: up to a distance that differs between probes and between lines."""
    return abs(node.alpha) < 0.12 + 0.02 * (i % 7) + 0.05 * node.line


def prepared(folder: Path, target: float, **other: Any) -> Any:
    """Return what `plan_from_stored` reads of a prepared sweep, here that of a stored one."""
    stored = StoredSweep.open(SweepFolder(Study.open(folder.parents[1]), folder))
    grid = types.SimpleNamespace(to_json=lambda: stored.sweep.grid.to_json() | other)
    return types.SimpleNamespace(
        stored=stored,
        sweep=types.SimpleNamespace(grid=grid, judges=stored.sweep.judges),
        prompt_sets=stored.prompt_sets,
        config=types.SimpleNamespace(report=types.SimpleNamespace(target=target)),
    )


def test_the_plan_is_that_of_the_summary_at_its_target(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path, refuses, "one")
    stored = prepared(folder, TARGET)
    _, summary = read_results(stored.stored.folder)
    plan = plan_from_stored(stored)
    assert plan is not None and plan == summary.visage.enough.plan
    assert plan.directions > 3 and plan.probes > 20 and plan.half_width <= TARGET
    coarse = plan_from_stored(prepared(folder, 8.0))
    assert coarse is not None and coarse.responses < plan.responses
    assert plan_from_stored(prepared(folder, TARGET, directions=12)) == plan, "another number of directions"


def test_the_largest_of_several_sweeps_tells(tmp_path: Path) -> None:
    store_sweep(tmp_path, refuses, "one", directions=2)
    folder = store_sweep(tmp_path, refuses, "one", directions=5)
    _, summary = read_results(prepared(folder, TARGET).stored.folder)
    assert summary.visage.enough.components.lines == 5
    small = next(path for path in folder.parent.iterdir() if path != folder)
    assert plan_from_stored(prepared(small, TARGET)) == summary.visage.enough.plan


@pytest.mark.parametrize("other", [{"norm": "filter"}, {"kind": "random_2d"}])
def test_sweeps_of_other_directions_tell_nothing(other: dict[str, str], tmp_path: Path) -> None:
    folder = store_sweep(tmp_path, refuses, "one")
    assert plan_from_stored(prepared(folder, TARGET, **other)) is None


def test_one_direction_gives_the_reason(tmp_path: Path) -> None:
    plan = plan_from_stored(prepared(store_sweep(tmp_path, refuses, "one", directions=1), TARGET))
    assert plan is not None and plan.directions is None and "one direction" in str(plan.reason)
