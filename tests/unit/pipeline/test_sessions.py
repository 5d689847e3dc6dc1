"""A run whose Ray session ends goes on in another one, a bounded number of times."""

from __future__ import annotations

import io
import json
import logging
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli import main as command_line
from orchestrator.cli.commands import VERBS
from orchestrator.execution import session_watch
from orchestrator.pipeline import execute
from orchestrator.store.lease import Lease, holders
from orchestrator.store.runs import RunRecorder
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.grid import Grid, Sweep
from orchestrator.utils.choices import ClusterKind
from orchestrator.utils.errors import ExitCode, SessionLostError


def run(
    monkeypatch: pytest.MonkeyPatch, lost: int, kind: ClusterKind = ClusterKind.local
) -> tuple[ExitCode, list[list[str]]]:
    """Run three tasks of which each session stores one, and of which `lost` sessions end early."""
    stored, seen = SimpleNamespace(generations=set[str]()), list[list[str]]()

    def in_session(growing: Any, missing: Any, *_: Any) -> ExitCode:
        seen.append([task.key for task in missing.tasks])
        if len(seen) <= lost:
            stored.generations.add(missing.tasks[0].key)
            raise SessionLostError("Ray's process raylet has ended")
        return ExitCode.COMPLETE

    monkeypatch.setattr(execute, "_run_in_session", in_session)
    tasks: Any = [SimpleNamespace(key=name) for name in "abc"]
    config = SimpleNamespace(cluster=SimpleNamespace(kind=kind, part=None), retry=None)

    def left() -> Any:
        return SimpleNamespace(tasks=[task for task in tasks if task.key not in stored.generations])

    inputs: Any = (SimpleNamespace(prepared=SimpleNamespace(config=config), advance=left), left(), None)
    return execute._run_tasks(*inputs), seen


def test_what_is_stored_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, 2) == (ExitCode.COMPLETE, [["a", "b", "c"], ["b", "c"], ["c"]])


def test_after_the_last_session_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        code, seen = run(monkeypatch, 9)
    assert (code, len(seen)) == (ExitCode.INTERRUPTED, execute.MAX_SESSIONS)
    assert "Ray has ended in 3 sessions" in caplog.messages[-1]


def test_a_cluster_that_was_joined_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert run(monkeypatch, 1, ClusterKind.ray) == (ExitCode.INTERRUPTED, [["a", "b", "c"]])
    assert caplog.messages == ["Ray's process raylet has ended in the cluster that was joined."]


def test_a_session_lost_elsewhere_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(call: Any) -> int:
        raise SessionLostError("Ray's process raylet has ended")

    monkeypatch.setattr(command_line, "VERBS", {**VERBS, "judge": lose})
    assert command_line.main(["judge"]) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err.count("\n") == 1


def test_a_run_that_hangs_on_a_dead_ray_closes_its_record_and_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study.create(tmp_path, StudyInfo("tiny", "fingerprint", "float32", 1))
    folder = SweepFolder.of(study, Sweep(Grid(steps=2), ("prompts",)))
    recorder = RunRecorder(folder, 3)
    codes, exited, terminal = list[int](), threading.Event(), io.StringIO()

    def leave(code: int) -> None:
        codes.append(code)
        exited.set()

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(session_watch, "ended_process", lambda: "raylet")
    monkeypatch.setattr(session_watch, "CHECK_INTERVAL", 0.0)
    monkeypatch.setattr(session_watch, "STUCK_AFTER", 0.0)

    def close() -> None:
        execute._close_broken(recorder, study.events(recorder.run), None, folder.lease_path())

    with Lease(tmp_path, folder.lease_path()):
        with session_watch.watched(Console(file=terminal, width=40), close):
            assert exited.wait(60)
        assert codes == [ExitCode.INTERRUPTED] and holders(folder.path) == []
    runs = [json.loads(path.read_text()) for path in (folder.path / "runs").glob("*.json")]
    assert [run["outcome"] for run in runs] == ["broken"]
    assert "raylet has ended" in terminal.getvalue() and terminal.getvalue().count("\n") == 1
