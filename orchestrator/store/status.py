"""How a sweep stands, from disk alone: while it runs, after it ended, after it died."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.analysis import reducer as answers
from orchestrator.store.lease import holders
from orchestrator.store.runs import Tally, totals
from orchestrator.store.study import Study
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


PassOver = Callable[[UserError], object]  # hears why one of several studies cannot be opened


def refuse(error: UserError) -> None:
    """Pass over nothing."""
    raise error


def sweeps_under(path: Path, pass_over: PassOver = lambda error: None) -> Iterator[tuple[Study, Path]]:
    """Every sweep below a root of studies, a study's or a sweep's folder. Raises UserError where there is none."""
    found = 0
    for study in _opened(_roots(path), pass_over):
        for folder in study.sweep_folders():
            if path.absolute() in (folder.absolute(), *folder.absolute().parents):
                found += 1
                yield study, folder
    if not found:
        raise UserError("path", path, "there is no sweep in that folder: name a sweep, a study, or the root of studies")


def studies_under(path: Path, pass_over: PassOver = refuse) -> list[Study]:
    """The study that a folder is in, or every study below it. Raises UserError where there is none."""
    return _opened(roots_under(path), pass_over)


def roots_under(path: Path) -> list[Path]:
    """The folders of these studies, whether they can be opened or not. Raises UserError where there is none."""
    found = _roots(path)
    if not found:
        raise UserError("path", path, "there is no study in that folder: name a study, or the root of studies")
    return found


def _roots(path: Path) -> list[Path]:
    inside = [each for each in (path, *list(path.absolute().parents)[:2]) if Study.at(each)]
    return inside[:1] or Study.roots_under(path)


def _opened(roots: Sequence[Path], pass_over: PassOver) -> list[Study]:
    found = []
    for root in roots:
        try:
            found.append(Study.open(root))
        except UserError as error:
            if len(roots) == 1:
                raise  # there is no other to go on with
            pass_over(error)
    return found


def latest(path: Path) -> tuple[Study, Path]:
    """The sweep that was used last; it may be in any study below `path`, so that each must open."""
    return max(sweeps_under(path, refuse), key=lambda pair: pair[0].last_used(pair[1]))


def load(study: Study, folder: Path) -> tuple[Sweep, dict[str, Any]]:
    """A stored sweep and its record. Raises UserError where the record is unreadable."""
    record = study.read_sweep(folder)
    try:
        return Sweep.from_json(record["request"], record["name"], record.get("labels")), record
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("sweep", folder, f"its sweep.json cannot be read ({error}): run it again") from error


def examine(study: Study, folder: Path) -> Status:
    """How the sweep in `folder` stands."""
    sweep, record = load(study, folder)
    tasks = sweep.tasks()
    stored = study.stored_of(tasks)
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
        model=str(study.info["model"]),
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
