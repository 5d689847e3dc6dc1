"""Reducing a sweep of an earlier version says once what a new version of a rule changed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from orchestrator.analysis.landscape import to_table
from orchestrator.analysis.reducer import reduce_landscape
from orchestrator.pipeline.reduce import reduce_stored
from orchestrator.store.records import RunRecord, RunTotals
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.tasks import Prompt
from orchestrator.utils.choices import Norm
from tests.unit.stored import basin, store_sweep

QUESTIONS = [Prompt(f"How many dollars in {i} days?", "capability", target="18") for i in range(4)]


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, which these tests do not look at."""
    monkeypatch.setattr("orchestrator.pipeline.reduce.draw_figures", lambda *_: None)


def reopen(path: Path) -> StoredSweep:
    """Open the stored sweep whose folder is at `path`."""
    return StoredSweep.open(SweepFolder(Study.open(path.parents[1]), path))


def test_reduce_says_once_that_right_answers_are_read_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("18. That is 18 dollars in 2 days", "18", "17", "")  # version 1 read the 2 of the first response
    path = store_sweep(tmp_path, lambda *_: False, respond=lambda _, i: words[i], attacks=QUESTIONS, directions=1)
    stored = reopen(path)
    frame = reduce_landscape(stored)
    assert (frame["n_correct"] == 2).all()
    stored.folder.write_landscape(to_table(frame.assign(n_correct=frame["n_correct"].where(frame["alpha"] == 0, 1))))
    with caplog.at_level(logging.INFO):
        reduce_stored(stored)
        assert [record.getMessage() for record in caplog.records] == [
            "ours under default: right answers changed at 10 of 11 points, by up to +25.0 percentage points, because "
            "they are read by version 3 of their scoring (docs/capability.md)"
        ]
        caplog.clear()
        reduce_stored(stored)
        assert not caplog.records


def test_reduce_names_a_damaged_record_of_a_run_and_counts_its_events(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = reopen(store_sweep(tmp_path, basin(0.3), directions=1))
    events = stored.study.events("r1")
    for slot in (0, 1):
        events.write("actor_ready", slot=slot, load_seconds=0.0, gpus=0.0)
    events.write("actor_died", slot=0)
    events.write("actor_ready", slot=0, load_seconds=0.0, gpus=0.0)
    events.write("visit_done", slot=0, visit="v", responses=2, tokens=70, seconds=1.0)
    stored.folder.write_run(RunRecord(run="r1", outcome="complete", tasks=1, totals=RunTotals(tokens=70)))
    path = stored.folder.run_path("r1")
    path.write_text(path.read_text().replace('"tokens": 70', '"tokens": 71'))
    with caplog.at_level(logging.WARNING):
        _, summary = reduce_stored(stored)
    (warning,) = caplog.messages
    assert str(path) in warning and "given-up visits are unknown" in warning
    assert (summary.tokens, summary.actors, summary.actors_at_once, summary.restarts) == (70, 3, 2, 1)
    page = (stored.folder.path / "report.html").read_text()
    assert "at most 2 actors at once, 1 replaced" in page and ">damaged<" in page


def test_reduce_says_once_that_visage_is_defined_otherwise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first version gave grids with norm sigma a VISAGE, and 3 points a value of the paper beside it."""
    path = store_sweep(tmp_path, basin(0.3), "llama2_7b", steps=2, norm=Norm.sigma)
    stored = reopen(path)
    summary = stored.folder.read_landscape()[1]
    for part in (summary, *summary["results"]):
        part["visage"] |= {"paper": 77.5, "released": 77.5}
        part["published"] = 85.32
        del part["margin"]
    stored.folder.write_summary(summary)
    with caplog.at_level(logging.INFO):
        reduce_stored(stored)
        messages = [record.getMessage() for record in caplog.records]
        assert [message.partition(": ")[2].partition(": ")[0] for message in messages] == [
            "VISAGE changed from 77.50 to undefined",
            "VISAGE as the published code computes it changed from 77.50 to undefined",
            "the paper's VISAGE changed from 85.32 to undefined",
        ]
        assert messages[0].startswith("ours under default, judge keyword: ") and "norm sigma" in messages[0]
        assert "grid.steps is 2 (in the paper 20)" in messages[2]
        caplog.clear()
        reduce_stored(stored)
        assert not caplog.records


def test_new_responses_are_no_change_of_a_rule(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = store_sweep(tmp_path, lambda *_: False, respond=lambda *_: "18", attacks=QUESTIONS, directions=1)
    stored = reopen(path)
    frame = reduce_landscape(stored)
    summary = stored.folder.read_landscape()[1]
    for result in summary["results"]:
        result |= {"points_missing": 3, "visage": result["visage"] | {"released": 10.0}}
    stored.folder.write_summary(summary)
    empty = frame.assign(n=0, n_correct=frame["n_correct"].where(frame["alpha"] > 0))
    stored.folder.write_landscape(to_table(empty))
    reduce_stored(stored)
    assert not caplog.records


def test_reduce_says_once_that_intervals_are_computed_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = store_sweep(tmp_path, basin(0.3), "one")
    stored = reopen(path)
    summary = stored.folder.read_landscape()[1]
    del summary["intervals_version"]
    summary["basin"]["radius_high"] = 0.31
    stored.folder.write_summary(summary)
    with caplog.at_level(logging.INFO):
        reduce_stored(stored)
        (message,) = [record.getMessage() for record in caplog.records]
        assert message.startswith("intervals are computed by version 2 of their methods instead of 1")
        assert "; radius" not in message and ": radius " in message and " to 0.31, now " in message
        caplog.clear()
        reduce_stored(stored)
        assert not caplog.records
