"""Send a sweep's points to trackers while they are measured, and what is missing, results and files at the end.

Everything happens in one thread, so that a slow tracker does not slow the sweep down.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from orchestrator.analysis.live_points import LivePoints, MeasuredPoint, Position, point_names
from orchestrator.analysis.reducer import read_results
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.store.events import read_all_events
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.store.tracking_log import TrackingLog
from orchestrator.tracking.base import TrackedRun, Tracker, UnreachableError
from orchestrator.tracking.registry import warn_unreachable
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id
from orchestrator.utils.private import make_folder

logger = logging.getLogger(__name__)

LONGEST_FINISH = 300.0
"""Seconds that the end of a run waits for its trackers."""


class Tracking:
    """Context manager: sends the points of a sweep to trackers. Without trackers it does nothing.

    Args:
        stored: The sweep.
        trackers: The trackers.
        live: Whether points are sent as they are measured. False if another driver measures other parts of the sweep:
            no two processes may write to one run. Then `finish` sends them.
    """

    def __init__(self, stored: StoredSweep, trackers: Sequence[Tracker], live: bool = True) -> None:
        self._stored, self._live = stored, live
        self._deliveries = [_Delivery(tracker, stored) for tracker in trackers]
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._points: LivePoints | None = None

    def __enter__(self) -> Tracking:
        if self._deliveries:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._deliveries:
            return
        for delivery in self._deliveries:
            self._jobs.put(delivery.close)
        self._jobs.put(None)
        self._thread.join(LONGEST_FINISH)
        if self._thread.is_alive():
            logger.warning("trackers did not take everything in %.0f s: the next run sends the rest", LONGEST_FINISH)

    def observe(self, event: str, **fields: Any) -> None:
        """Take one event of the dispatcher, as an observer of a run."""
        if self._deliveries and self._live and event == "visit_done":
            self._jobs.put(lambda: self._send_visit(fields))

    def finish(self) -> None:
        """Send what is missing of the stored landscape, then the results and files."""
        if self._deliveries:
            self._jobs.put(self._send_rest)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except UserError as error:  # such as a disk that cannot be read: the sweep itself reports it
                logger.debug("%s", error)
            except Exception:  # a mistake in this program: the thread goes on, and the sweep too
                logger.exception("trackers: something was not sent")

    def _send_visit(self, fields: Mapping[str, Any]) -> None:
        if self._points is None:
            # A view of its own, because the sweep's lists of parts are used and cleared by the main thread.
            folder = SweepFolder(Study.open(self._stored.study.root), self._stored.folder.path)
            self._points = LivePoints(StoredSweep(folder, self._stored.sweep))
        point = self._points.take(**fields)
        if point.asr:
            for delivery in self._deliveries:
                delivery.send_point(point.point_id, _point_values(point))

    def _send_rest(self) -> None:
        frame, summary = read_results(self._stored.folder)
        points = _stored_points(self._stored, frame, summary)
        paths = self._stored.folder.result_paths()
        files = {key: path for key, path in paths.items() if key != "folder" and path.is_file()}
        for delivery in self._deliveries:
            delivery.send_rest(points, result_values(summary), files, content_id(summary.to_json()))


class _Delivery:
    """Sends to one tracker what it has not received. After a failure it waits for `send_rest`, and warns once."""

    def __init__(self, tracker: Tracker, stored: StoredSweep) -> None:
        self._tracker, self._stored = tracker, stored
        self._log_of_destination: TrackingLog | None = None
        self._open = self._failed = False

    def send_point(self, point_id: str, values: Mapping[str, float]) -> None:
        if not self._failed:
            self._guarded(lambda: self._send(point_id, values))

    def send_rest(
        self,
        points: Mapping[str, Mapping[str, float]],
        results: Mapping[str, float],
        files: Mapping[str, Path],
        version: str,
    ) -> None:
        """Send what is missing of the points, and results and files unless those of this `version` were sent last."""

        def send() -> None:
            for point_id, values in points.items():
                self._send(point_id, values)
            if version != self._log.results:
                self._connect()
                self._tracker.finish(self._log.points, results, files)
                self._log.add_results(version)

        self._guarded(send)

    def close(self) -> None:
        if self._open:
            self._guarded(self._tracker.close)
            self._open = False

    @property
    def _log(self) -> TrackingLog:
        if self._log_of_destination is None:
            path = self._stored.folder.tracking_path(f"{self._tracker.name}.jsonl")
            self._log_of_destination = TrackingLog(path, self._tracker.destination())
        return self._log_of_destination

    def _send(self, point_id: str, values: Mapping[str, float]) -> None:
        missing = self._log.missing(point_id, values)
        if missing:
            self._connect()
            self._tracker.log(self._log.step(point_id), {name: values[name] for name in missing})
            self._log.add_point(point_id, missing)

    def _connect(self) -> None:
        if not self._open:
            self._tracker.open(tracked_run(self._stored, self._tracker.name))
            self._open = True

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # libraries of trackers raise all kinds; none may end the sweep
            self._failed = True
            warn_unreachable(self._tracker, error)


def tracked_run(stored: StoredSweep, tracker: str) -> TrackedRun:
    """Return the run of a tracker that belongs to a sweep, and create its folder.

    Raises:
        UnreachableError: The folder would be outside of the study, behind a link.
    """
    grid = stored.sweep.grid
    settings: dict[str, str | int | float] = {
        "model": stored.study.info.model,
        "dtype": str(stored.study.info.dtype),
        "study_id": stored.study.id,
        "sweep_id": stored.sweep.id,
        "grid": str(grid.kind),
        "steps": grid.steps,
        "directions": grid.lines,
        "range_low": grid.range[0],
        "range_high": grid.range[1],
        "judge": stored.sweep.judges[0],
        "probe_sets": ", ".join(dict.fromkeys(prompts.probe_set for prompts in stored.prompt_sets)),
        "system_prompts": ", ".join(dict.fromkeys(prompts.system_prompt for prompts in stored.prompt_sets)),
    }
    folder = stored.folder.tracking_path(tracker)
    if folder.resolve() != stored.folder.path.resolve() / folder.relative_to(stored.folder.path):
        raise UnreachableError(f"{folder} leads out of the study by a link")
    make_folder(folder)
    return TrackedRun(stored.sweep.id, stored.folder.path.name, settings, folder)


def _point_values(point: MeasuredPoint) -> dict[str, float]:
    """Return the values of a point that was measured a moment ago."""
    values = _place(point.positions) | {f"asr/{name}": asr for name, asr in point.asr.items()}
    if point.seconds > 0:
        values["tokens_per_second"] = point.tokens / point.seconds
    so_far = {"visage_so_far": point.visage_so_far, "radius_so_far": point.radius_so_far}
    return values | {name: value for name, value in so_far.items() if value is not None}


def _place(positions: Sequence[Position]) -> dict[str, float]:
    if not positions:
        return {}
    place = dataclasses.asdict(positions[0])
    return {name: float(value) for name, value in place.items() if value is not None}


def _stored_points(stored: StoredSweep, frame: pd.DataFrame, summary: SweepSummary) -> dict[str, dict[str, float]]:
    """Return the values of every measured point, by point id, from the landscape and the event logs."""
    speeds = {
        event["point_id"]: event["tokens"] / event["seconds"]
        for event in read_all_events(stored.study.root)
        if event["event"] == "visit_done" and event.get("seconds")
    }
    names = point_names(stored.prompt_sets)
    points: dict[str, dict[str, float]] = {}
    rows = frame[(frame["judge"] == summary.primary.judge) & (frame["n"] > 0)]
    for row in rows.to_dict("records"):
        beta = row["beta"] if math.isfinite(row["beta"]) else None
        if row["point_id"] not in points:
            points[row["point_id"]] = _place([Position(row["line"], row["alpha"], beta)])
            if row["point_id"] in speeds:
                points[row["point_id"]]["tokens_per_second"] = speeds[row["point_id"]]
        points[row["point_id"]][f"asr/{names[row['probe_set'], row['system_prompt']]}"] = row["asr"]
    return points


def result_values(summary: SweepSummary) -> dict[str, float]:
    """Return the numbers of a sweep that trackers get as its results: those of its first result that are defined."""
    values = {
        **summary.headline(),
        "points_done": summary.points_done,
        "tasks_failed": summary.tasks_failed,
        "tokens": summary.tokens,
        "seconds": summary.seconds,
        "restarts": summary.restarts,
    }
    return {name: float(value) for name, value in values.items() if value is not None}
