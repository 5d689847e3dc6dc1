"""A run of a sweep as it is recorded: what was begun, what it took, how it ended.

One file for each run, so that drivers of several parts do not overwrite each other's. What a driver that died could not
tell any more is in its events.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder


class RunRecord:
    """The record of a run under way: written as it begins, when an actor of another kind is taken on, and at its end.

    `outcome` in it: running (or died), complete, interrupted, refused (the user has to mend something), broken.
    """

    def __init__(self, study: Study, folder: Path, tasks: int, part: str | None = None) -> None:
        self._study, self._folder = study, folder
        self._entry: dict[str, Any] = {
            "run": f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}",
            "part": part,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": time.time(),
            "outcome": "running",
            "tasks": tasks,
        }
        self._write()

    @property
    def run(self) -> str:
        """Its name, which its events have too."""
        return str(self._entry["run"])

    @property
    def seconds(self) -> float:
        """Since it began."""
        return round(time.time() - float(self._entry["started_at"]), 1)

    def admitted(self, described: Mapping[str, Any]) -> None:
        """An actor was taken on: what it says of its engine, versions and machine."""
        engines = self._entry.setdefault("engines", {})
        machines = self._entry.setdefault("machines", {})
        known = described["engine_id"] in engines and described["host"] in machines
        machines[described["host"]] = described["machine"]
        engines[described["engine_id"]] = described["engine"]
        self._entry["versions"] = described["versions"]
        if not known:
            self._write()

    def ended(self, outcome: str, totals: Mapping[str, Any]) -> None:
        """The run is over. `totals`: what dispatch counted until then."""
        self._entry |= {"outcome": outcome, "seconds": self.seconds, **totals}
        self._write()

    def _write(self) -> None:
        SweepFolder(self._study, self._folder).write_run(self._entry)


def totals(study: Study, runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A sweep's runs; those under way, and those that died before they could tell, with what their events add up to."""
    return [{**run, **(vars(Tally.of(study, run["run"])) if run.get("outcome") == "running" else {})} for run in runs]


@dataclass
class Tally:
    """What a run's events add up to, as far as they go.

    `visits`, `given`: done and under way; `seconds`: from the first event to the last; `busy`: of these, since an actor
    was ready. The others as dispatch's Outcome has them.
    """

    visits: int = 0
    given: int = 0
    responses: int = 0
    tokens: int = 0
    restarts: int = 0
    actors: int = 0
    gpu_seconds: float = 0.0
    visit_seconds: float = 0.0
    seconds: float = 0.0
    busy: float = 0.0

    @property
    def rate(self) -> float:
        """Visits a second; 0 while nothing is known."""
        return self.visits / self.busy if self.busy > 0 else 0.0

    @classmethod
    def of(cls, study: Study, run: str) -> Tally:
        tally, began, first, last = cls(), None, None, None
        given: set[str] = set()
        held: dict[int, tuple[float, float]] = {}  # since when each slot's actor holds how many GPUs
        for event in study.events(run).read():
            at = float(event["at"])
            began, last = began or at, at
            match event["event"]:
                case "actor_ready":
                    first = first or at
                    tally.actors += 1
                    held[event["slot"]] = at - event["load_seconds"], event["gpus"]
                case "visit_given":
                    given.add(event["visit"])
                case "visit_done":
                    given.discard(event["visit"])
                    tally.visits += 1
                    tally.responses += event["responses"]
                    tally.tokens += event["tokens"]
                    tally.visit_seconds += event["seconds"]
                case "visit_failed" | "visit_quarantined":
                    given.discard(event["visit"])
                case "actor_died":
                    tally.restarts += 1
                    since, gpus = held.pop(event["slot"], (at, 0.0))
                    tally.gpu_seconds += gpus * (at - since)
        if last is not None:
            tally.gpu_seconds += sum(gpus * (last - since) for since, gpus in held.values())
        if began is not None and last is not None:
            tally.seconds = last - began
            tally.busy = last - (first or began)
        tally.given = len(given)
        return tally
