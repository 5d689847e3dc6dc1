"""Data sent to a tracker: live points, what is missing at the end, results once, and nothing twice."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store.signatures import _hashes
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.tracking import registry
from orchestrator.tracking.base import TrackedRun, Tracker, UnreachableError
from orchestrator.tracking.tracking import Tracking
from orchestrator.utils.errors import UserError
from tests.unit.stored import basin, store_sweep

PROBES = tuple("abcd")


class Recorder(Tracker):
    """Keeps what it receives; fails while `down`."""

    name, library = "recorder", "json"

    def __init__(self, place: str = "here", down: bool = False) -> None:
        self.place, self.down = place, down
        self.opened: list[TrackedRun] = []
        self.points: list[tuple[int, dict[str, float]]] = []
        self.results: list[dict[str, float]] = []
        self.files: set[str] = set()
        self.closed = 0

    def destination(self) -> str:
        return self.place

    def check(self) -> None:
        self._raise_if_down()

    def open(self, run: TrackedRun) -> None:
        self._raise_if_down()
        self.opened.append(run)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._raise_if_down()
        self.points.append((step, dict(values)))

    def finish(self, step: int, results: Mapping[str, float], files: Mapping[str, Path]) -> None:
        self.results.append(dict(results))
        self.files |= set(files)

    def close(self) -> None:
        self.closed += 1

    def _raise_if_down(self) -> None:
        if self.down:
            raise UnreachableError("http://me:secret@host: connection refused")


@pytest.fixture
def stored(tmp_path: Path) -> StoredSweep:
    folder = store_sweep(tmp_path, basin(0.25), probes=PROBES, directions=1)
    return StoredSweep.open(SweepFolder(Study.open(folder.parents[1]), folder))


def visit_event(stored: StoredSweep, point_id: str | None = None) -> dict[str, Any]:
    """Return the fields of the event `visit_done`; the one stored part stands for the visit."""
    (part,) = {part.path.stem for part in stored.generations.values()}
    point = point_id or stored.sweep.grid.points()[0].id
    return {"slot": 0, "visit": part, "point_id": point, "tokens": 40, "seconds": 2.0}


def test_points_are_sent_when_measured_and_the_rest_at_the_end(stored: StoredSweep) -> None:
    tracker = Recorder()
    with Tracking(stored, [tracker]) as tracking:
        tracking.observe("visit_given", slot=0)
        tracking.observe("visit_done", **visit_event(stored))
        tracking.finish()
    (step, first), *rest = tracker.points
    assert (step, first["alpha"], first["asr/ours"], first["tokens_per_second"]) == (0, 0.0, 0.0, 20.0)
    summary = stored.folder.read_summary()
    assert first["visage_so_far"] == pytest.approx(summary["visage"]["paper"])
    assert first["radius_so_far"] == pytest.approx(summary["basin"]["radius"])
    assert [step for step, _ in rest] == list(range(1, 11)) and all("visage_so_far" not in v for _, v in rest)
    landscape, _ = stored.folder.read_landscape()
    sent = {values["alpha"]: values["asr/ours"] for _, values in tracker.points}
    assert sent == landscape.set_index("alpha")["asr"].to_dict()
    (results,) = tracker.results
    assert (results["visage"], results["radius"]) == (summary["visage"]["paper"], summary["basin"]["radius"])
    assert "visage_low" not in results, "what is undefined is not sent"
    assert tracker.files == {"landscape", "summary"} and tracker.closed == 1
    (run,) = tracker.opened
    assert (run.id, run.name) == (stored.sweep.id, stored.folder.path.name) and run.settings["model"] == "tiny"


def test_nothing_is_sent_twice_to_one_place(stored: StoredSweep) -> None:
    def send(tracker: Recorder) -> Recorder:
        with Tracking(stored, [tracker]) as tracking:
            tracking.finish()
        return tracker

    assert len(send(Recorder()).points) == 11
    log = stored.folder.tracking_path("recorder.jsonl")
    again = send(Recorder())
    assert (again.points, again.results, again.opened, again.closed) == ([], [], [], 0)
    assert "here" not in log.read_text(), "a place may contain a password"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:4]) + lines[4][:20] + "\nno JSON\n")  # as after a crash
    resumed = send(Recorder())
    assert [step for step, _ in resumed.points] == list(range(4, 11)) and len(resumed.results) == 1
    assert len(send(Recorder("there")).points) == 11
    assert not any("tracking" in name for name in _hashes(stored.study.root)), "no signature covers it"


def test_a_tracker_that_is_down_warns_once_and_gets_all_later(
    stored: StoredSweep, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Recorder(down=True)
    with caplog.at_level(logging.WARNING), Tracking(stored, [tracker, other := Recorder("there")]) as tracking:
        tracking.observe("visit_done", **visit_event(stored))
        tracking.observe("visit_done", **visit_event(stored))
        tracking.finish()
    assert [message for message in caplog.messages if "recorder" in message] == [
        "recorder cannot be reached (http://host: connection refused): the sweep goes on, and what is "
        "missing there is sent at its end or by the next run"
    ]
    assert tracker.points == [] and len(other.points) == 11
    tracker.down = False
    with Tracking(stored, [tracker]) as tracking:
        tracking.finish()
    assert len(tracker.points) == 11 and len(tracker.results) == 1


def test_it_is_tried_again_at_the_end(stored: StoredSweep) -> None:
    tracker, tried = Recorder(down=True), threading.Event()

    def check_and_fail() -> None:
        tried.set()
        raise UnreachableError("connection refused")

    tracker._raise_if_down = check_and_fail  # type: ignore[method-assign]
    with Tracking(stored, [tracker]) as tracking:
        tracking.observe("visit_done", **visit_event(stored))
        assert tried.wait(60)
        del tracker._raise_if_down
        tracker.down = False
        tracking.finish()
    assert len(tracker.points) == 11


def test_a_part_of_a_sweep_sends_nothing_before_the_end(stored: StoredSweep) -> None:
    """Several processes work on the parts of a sweep, and must not write to one run at the same time."""
    tracker = Recorder()
    with Tracking(stored, [tracker], live=False) as tracking:
        tracking.observe("visit_done", **visit_event(stored))
    assert tracker.points == tracker.opened == []


def test_files_are_not_written_through_a_link(
    stored: StoredSweep, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored.folder.tracking_path("").symlink_to(tmp_path)
    tracker = Recorder()
    with Tracking(stored, [tracker]) as tracking:
        tracking.finish()
    assert tracker.opened == [] and "leads out of the study by a link" in caplog.text


def test_wrong_names_and_credentials_are_refused_before_the_sweep(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert registry.names() == ["mlflow", "tensorboard", "trackio", "wandb"]
    with pytest.raises(UserError, match="there is no such tracker, did you mean 'mlflow'"):
        registry.checked(["mlflo"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'is not installed: pip install "safety-landscape\[wandb\]"'):
        registry.checked(["wandb"])
    monkeypatch.undo()

    def wrong(self: Recorder) -> None:
        raise UserError("track", "recorder", "does not accept the key")

    recorder = Recorder(down=True)
    monkeypatch.setattr(registry, "get", lambda name: recorder)
    assert registry.checked(["recorder", "recorder"]) == [recorder] and caplog.text.count("cannot be reached") == 1
    monkeypatch.setattr(Recorder, "check", wrong)
    with pytest.raises(UserError, match="does not accept the key"):
        registry.checked(["recorder"])
