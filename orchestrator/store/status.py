"""How a sweep stands, from disk alone: while it runs, after it ended, after it died."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.analysis import reducer as answers
from orchestrator.store.lease import holders
from orchestrator.store.runs import Tally, totals
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.grid import Sweep
from orchestrator.utils.console import duration
from orchestrator.utils.errors import UserError


@dataclass(frozen=True)
class Status:
    """One sweep's tasks and totals.

    `state`: running, complete, incomplete (a run ended before its time, or never began), failed (tasks were given up).
    `seconds`, `tokens`, `restarts`, `gpu_hours`: over all runs, those under way and those that died included.
    `points_per_second` and `eta_seconds`: of the runs under way together, else of the latest; None where unknown.
    """

    folder: Path
    model: str
    state: str
    tasks: int
    done: int
    running: int
    failed: int
    seconds: float
    tokens: int
    restarts: int
    gpu_hours: float
    points_per_second: float | None
    eta_seconds: float | None
    driver: str | None
    failures: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "folder": str(self.folder), "failures": list(self.failures)}


def load(study: Study, folder: Path) -> tuple[Sweep, dict[str, Any]]:
    """A stored sweep and its record. Raises UserError where the record is unreadable."""
    record = SweepFolder(study, folder).read_record()
    try:
        return Sweep.from_json(record["request"], record["name"], record.get("labels")), record
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("sweep", folder, f"its sweep.json cannot be read ({error}): run it again") from error


def examine(study: Study, folder: Path) -> Status:
    """How the sweep in `folder` stands."""
    sweep, record = load(study, folder)
    tasks = sweep.tasks()
    stored = study.generations.stored_of(tasks)
    failed = answers.given_up(record) - stored.keys()
    runs = totals(study, record.get("runs", []))
    drivers = holders(folder)
    working = {(held["host"], held["pid"]) for held in drivers}
    alive = [run for run in runs if run["outcome"] == "running" and (run.get("host"), run.get("pid")) in working]
    rate = sum(Tally.of(study, run["run"]).rate for run in alive or runs[-1:]) or None
    left = len({task.point for task in tasks if task.key not in stored and task.key not in failed})
    complete = len(stored) == len(tasks)
    return Status(
        folder=folder,
        model=study.info.model,
        state="running" if alive else "complete" if complete else "failed" if failed and not left else "incomplete",
        tasks=len(tasks),
        done=len(stored),
        running=sum(run["given"] for run in alive),
        failed=len(failed),
        seconds=round(sum(run.get("seconds", 0.0) for run in runs), 1),
        tokens=sum(run.get("tokens", 0) for run in runs),
        restarts=sum(run.get("restarts", 0) for run in runs),
        gpu_hours=round(sum(run.get("gpu_seconds", 0.0) for run in runs) / 3600, 3),
        points_per_second=rate,
        eta_seconds=left / rate if rate and left else None,
        driver=", ".join(f"process {held['pid']} on {held['host']}" for held in drivers) if alive else None,
        failures=tuple(
            f"point {f['point_id']}: {f['story'][-1]}"
            for run in runs
            for f in run.get("failures", [])
            if f["story"] and any((f["point_id"], set_id) in failed for set_id in f["prompt_set_ids"])
        ),
    )


def lines(status: Status) -> list[tuple[str, str]]:
    """For people: what, and how much of it."""
    rows = [
        ("sweep", str(status.folder)),
        ("model", status.model),
        ("state", status.state + (f" ({status.driver})" if status.driver else "")),
        ("tasks", f"{status.done} of {status.tasks} done, {status.running} under way, {status.failed} failed"),
        ("time", f"{duration(status.seconds)}, {status.tokens:,} tokens, {status.restarts} restarts"),
    ]
    if status.gpu_hours:
        rows.append(("GPU-hours", f"{status.gpu_hours:.2f}"))
    if status.points_per_second:
        rows.append(("speed", f"{60 * status.points_per_second:.1f} points a minute"))
    if status.eta_seconds:
        rows.append(("time left", duration(status.eta_seconds)))
    rows += [("failed", failure) for failure in status.failures[:10]]
    if len(status.failures) > 10:
        rows.append(("failed", f"and {len(status.failures) - 10} more, in {status.folder / 'runs'}"))
    return rows
