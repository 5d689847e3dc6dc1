"""The progress of a sweep, from disk alone: while it runs, after it ended, after its driver died."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.store.lease import holders
from orchestrator.store.parts import TaskKey
from orchestrator.store.records import RUNNING, RunRecord
from orchestrator.store.runs import RunProgress, given_up, with_totals
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.tasks import Task
from orchestrator.utils.console import duration

SHOWN_FAILURES = 10  # maximum in the text; the JSON has all


@dataclass(frozen=True)
class Status:
    """One sweep's tasks and totals.

    Attributes:
        folder: The sweep's folder.
        model: The model's name.
        state: running, complete, incomplete (a run ended early, or never began) or failed (tasks were given up). A
            sweep with open goals is not complete.
        died: Whether the sweep is incomplete because the driver of the latest run was killed, or lost its machine.
        tasks: Number of tasks that the sweep asks for. Those of an adaptive grid become more as verdicts arrive.
        done: Number of tasks that are stored.
        running: Number of visits that actors are working on.
        failed: Number of tasks that were given up and are not stored.
        seconds: Duration of all runs together, including runs in progress and runs that died.
        tokens: Number of tokens that these runs generated.
        restarts: Number of actors that these runs replaced.
        gpu_hours: Time for which these runs held GPUs, times the GPUs of an actor.
        points_per_second: Speed of all runs in progress together, otherwise of the latest run. None if unknown.
        eta_seconds: Time until the missing points are done, at that speed. None if unknown.
        driver: The processes that are at work. None if there is none.
        failures: One line for each visit that was given up.
        open_goals: The goals of the latest run that are not met and can still be met, such as `until.visage=2`. The
            grids to which a sweep grows for them are not counted in `tasks`.
    """

    folder: Path
    model: str
    state: str
    died: bool
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
    open_goals: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        lists = {"failures": list(self.failures), "open_goals": list(self.open_goals)}
        return {**vars(self), "folder": str(self.folder), **lists}


def examine(stored: StoredSweep, tasks: Sequence[Task] | None = None) -> Status:
    """Return the status of a stored sweep.

    Args:
        stored: The sweep.
        tasks: The tasks that it asks for, see `analysis.requested`. None: those of its whole grid.
    """
    if tasks is None:
        tasks = stored.sweep.tasks()
    done = sum(task.key in stored.generations for task in tasks)
    runs = with_totals(stored.study, stored.record.runs)
    failed = given_up(runs) - stored.generations.keys()
    drivers = holders(stored.folder.path)
    alive = [run for run in runs if run.outcome == RUNNING and at_work(run, drivers)]
    progress = [RunProgress.from_events(stored.study.events(run.run)) for run in alive or runs[-1:]]
    rate = sum(run.rate for run in progress) or None
    points_left = len({task.point for task in tasks if task.key not in stored.generations and task.key not in failed})
    until = runs[-1].until if runs else None
    open_goals = () if until is None else until.open_goals
    if alive:
        state = "running"
    elif open_goals and not points_left:
        state = "incomplete"
    elif done == len(tasks):
        state = "complete"
    elif failed and not points_left:
        state = "failed"
    else:
        state = "incomplete"
    return Status(
        folder=stored.folder.path,
        model=stored.study.info.model,
        state=state,
        died=state == "incomplete" and bool(runs) and runs[-1].outcome == RUNNING,
        tasks=len(tasks),
        done=done,
        running=sum(run.in_progress for run in progress) if alive else 0,
        failed=len(failed),
        seconds=round(sum(run.seconds for run in runs), 1),
        tokens=sum(run.totals.tokens for run in runs),
        restarts=sum(run.totals.restarts for run in runs),
        gpu_hours=round(sum(run.totals.gpu_seconds for run in runs) / 3600, 3),
        points_per_second=rate,
        eta_seconds=points_left / rate if rate and points_left else None,
        driver=", ".join(f"process {driver['pid']} on {driver['host']}" for driver in drivers) if alive else None,
        failures=tuple(_failure_lines(runs, failed)),
        open_goals=open_goals,
    )


def at_work(run: RunRecord, drivers: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the driver of a run is among those that hold the sweep's lease (`store.lease.holders`)."""
    return any((run.host, run.pid) == (driver["host"], driver["pid"]) for driver in drivers)


def _state_text(status: Status) -> str:
    if status.died:
        return f"{status.state} (its driver was killed; the same command continues it)"
    return f"{status.state} ({status.driver})" if status.driver else status.state


def _failure_lines(runs: Sequence[RunRecord], failed: set[TaskKey]) -> Iterator[str]:
    for run in runs:
        for failure in run.failures:
            if failure.errors and any((failure.point_id, set_id) in failed for set_id in failure.prompt_set_ids):
                yield f"point {failure.point_id}: {failure.errors[-1]}"


def lines(status: Status) -> list[tuple[str, str]]:
    """Return the status as pairs of a name and a text, to be printed."""
    rows = [
        ("sweep", str(status.folder)),
        ("model", status.model),
        ("state", _state_text(status)),
        ("tasks", f"{status.done} of {status.tasks} done, {status.running} under way, {status.failed} failed"),
        ("time", f"{duration(status.seconds)}, {status.tokens:,} tokens, {status.restarts} restarts"),
    ]
    if status.open_goals:
        rows.append(("not met yet", ", ".join(status.open_goals)))
    if status.gpu_hours:
        rows.append(("GPU-hours", f"{status.gpu_hours:.2f}"))
    if status.points_per_second:
        rows.append(("speed", f"{60 * status.points_per_second:.1f} points a minute"))
    if status.eta_seconds:
        rows.append(("time left", duration(status.eta_seconds)))
    rows += [("failed", failure) for failure in status.failures[:SHOWN_FAILURES]]
    if len(status.failures) > SHOWN_FAILURES:
        more = len(status.failures) - SHOWN_FAILURES
        rows.append(("failed", f"and {more} more, in {status.folder / 'runs'}"))
    return rows
