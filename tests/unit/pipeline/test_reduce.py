"""Reducing a sweep of an earlier version says once what a new version of a rule changed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from orchestrator.analysis.landscape import to_table
from orchestrator.analysis.reducer import reduce_landscape
from orchestrator.pipeline.reduce import reduce_stored
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.tasks import Prompt
from tests.unit.stored import store_sweep

QUESTIONS = [Prompt(f"How many dollars in {i} days?", "capability", target="18") for i in range(4)]


def test_reduce_says_once_that_right_answers_are_read_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("orchestrator.pipeline.reduce.draw_figures", lambda *_: None)
    words = ("18. That is 18 dollars in 2 days", "18", "17", "")  # version 1 read the 2 of the first response
    path = store_sweep(tmp_path, lambda *_: False, respond=lambda _, i: words[i], attacks=QUESTIONS, directions=1)
    stored = StoredSweep.open(SweepFolder(Study.open(path.parents[1]), path))
    frame = reduce_landscape(stored)
    assert (frame["n_correct"] == 2).all()
    stored.folder.write_landscape(to_table(frame.assign(n_correct=frame["n_correct"].where(frame["alpha"] == 0, 1))))
    with caplog.at_level(logging.INFO):
        reduce_stored(stored)
        assert [record.getMessage() for record in caplog.records] == [
            "ours under default: right answers changed at 10 of 11 points, by up to +25.0 percentage points, because "
            "they are read by version 2 of their scoring (docs/capability.md)"
        ]
        caplog.clear()
        reduce_stored(stored)
        assert not caplog.records


def test_new_responses_are_no_change_of_a_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("orchestrator.pipeline.reduce.draw_figures", lambda *_: None)
    path = store_sweep(tmp_path, lambda *_: False, respond=lambda *_: "18", attacks=QUESTIONS, directions=1)
    stored = StoredSweep.open(SweepFolder(Study.open(path.parents[1]), path))
    frame = reduce_landscape(stored)
    empty = frame.assign(n=0, n_correct=frame["n_correct"].where(frame["alpha"] > 0))
    stored.folder.write_landscape(to_table(empty))
    reduce_stored(stored)
    assert not caplog.records
