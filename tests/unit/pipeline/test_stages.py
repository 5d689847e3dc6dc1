"""Each stage scans the store once."""

from __future__ import annotations

import collections
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator import judges
from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config, EngineConfig
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.pipeline import execute as execute_stage
from orchestrator.pipeline.execute import execute, open_sweep
from orchestrator.pipeline.growth import GrowingSweep
from orchestrator.pipeline.judge import judge_sweep
from orchestrator.pipeline.prepare import prepare
from orchestrator.pipeline.reduce import reduce_stored
from orchestrator.store.observations import Generations, PartFolder
from orchestrator.store.parts import TaskKey
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.tasks import Task
from orchestrator.utils.errors import ExitCode
from tests.unit.stored import basin, store_sweep

KEYWORD = judges.get("keyword").id
CONSOLE = Console(file=io.StringIO())


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> collections.Counter[str]:
    """Count the scans of each folder of parts."""
    counter: collections.Counter[str] = collections.Counter()
    scan_parts = PartFolder.parts

    def count_scan(self: PartFolder) -> Any:
        counter[self.path.name] += 1
        return scan_parts(self)

    monkeypatch.setattr(PartFolder, "parts", count_scan)
    return counter


def open_stored(tmp_path: Path) -> StoredSweep:
    path = store_sweep(tmp_path, basin(0.25), directions=1)
    return StoredSweep.open(SweepFolder(Study.open(path.parents[1]), path))


def test_reducing_and_reporting_scan_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scans: collections.Counter[str]
) -> None:
    stored = open_stored(tmp_path)
    monkeypatch.setattr("orchestrator.pipeline.reduce.draw_figures", lambda *_: None)
    scans.clear()
    reduce_stored(stored)
    assert scans == {"generations": 1, KEYWORD: 1, DEGENERATE.id: 1}
    assert (stored.folder.path / "report.html").exists()


def test_judging_scans_once_and_reducing_scans_only_new_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scans: collections.Counter[str]
) -> None:
    stored = open_stored(tmp_path)
    for path in stored.study.root.glob(f"judgements/{KEYWORD}/*"):
        path.unlink()
    monkeypatch.setattr("orchestrator.pipeline.reduce.draw_figures", lambda *_: None)
    scans.clear()
    assert judge_sweep(Config(engine=EngineConfig(kind="dummy")), stored, CONSOLE) == ExitCode.COMPLETE
    assert scans == {"generations": 1, KEYWORD: 1, DEGENERATE.id: 1}
    reduce_stored(stored)
    assert scans == {"generations": 1, KEYWORD: 2, DEGENERATE.id: 1}


@pytest.mark.parametrize("part", [None, "1/1"])
def test_running_scans_once_before_and_once_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scans: collections.Counter[str], part: str | None
) -> None:
    overrides = ["engine=dummy", f"out={tmp_path}", "grid.steps=2", "grid.directions=1", "probes.limit=2"]
    if part is not None:
        overrides.append(f"cluster.part={part}")
    prepared = prepare(compose(overrides), Presets())
    executed: list[int] = []

    def run_tasks(growing: GrowingSweep, missing: Any, *_: Any) -> ExitCode:
        executed.append(len(missing.tasks))
        growing.refresh()
        return ExitCode.COMPLETE

    monkeypatch.setattr(execute_stage, "_run_tasks", run_tasks)
    with open_sweep(prepared, overrides) as stored:
        execution = execute(prepared, stored, CONSOLE)
    assert executed == [3] and len(execution.missing.tasks) == 3
    assert scans == {"generations": 2}


def test_a_run_with_nothing_to_do_scans_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scans: collections.Counter[str]
) -> None:
    overrides = ["engine=dummy", f"out={tmp_path}", "grid.steps=2", "grid.directions=1", "probes.limit=2"]
    prepared = prepare(compose(overrides), Presets())

    def stored_of(self: Generations, tasks: Iterable[Task], stored: object = None) -> dict[TaskKey, Any]:
        self.parts()
        return {task.key: None for task in tasks}

    monkeypatch.setattr(Generations, "stored_of", stored_of)
    with open_sweep(prepared, overrides) as stored:
        execution = execute(prepared, stored, CONSOLE)
    assert execution.code == ExitCode.COMPLETE and not execution.missing.tasks
    assert scans == {"generations": 1}
