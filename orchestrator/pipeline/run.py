"""The main job: a configuration -> a sweep -> what is missing of it is run -> its answers.

PreparedSweep --measure--> generations --answers--> landscape, summary, figures
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from orchestrator.analysis import reducer as answers
from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config
from orchestrator.execution.live_curve import LiveCurve
from orchestrator.execution.progress import ProgressDisplay, redirect_output
from orchestrator.execution.resources import dispatch_policy, engine_spec
from orchestrator.models.resolve import ensure_on_this_machine
from orchestrator.pipeline import judge as judging
from orchestrator.pipeline.estimate import check_machine
from orchestrator.pipeline.prepare import MissingTasks, PreparedSweep, find_missing, prepare
from orchestrator.store.events import EventLog
from orchestrator.store.lease import Lease
from orchestrator.store.runs import RunRecord
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.temporary import remove_stale_files
from orchestrator.sweep.tasks import Task, parse_part, shares, visits
from orchestrator.utils.errors import ExitCode, UserError
from orchestrator.utils.hashing import content_id


@dataclass(frozen=True)
class Ran:
    """What came of a run. `waits_for`: the parts of the sweep that have to run before it has answers; none of them
    where it has."""

    code: int
    prepared: PreparedSweep
    waits_for: tuple[int, ...] = ()
    points_left: int = 0


def run(config: Config, presets: Presets, overrides: Sequence[str], console: Console) -> Ran:
    """Run what is missing, then judge, reduce and draw; of a part only what is missing of it, the rest where it is the
    last."""
    prepared = prepare(config, presets)
    judging.seats(config)  # before anything is run for hours
    part, folder, again = config.cluster.part, prepared.folder, config.retry == "failed"
    todo = find_missing(prepared, prepared.study, part, again).tasks
    if todo:
        check_machine(prepared, todo)
    study = Study.create(prepared.out, prepared.info)
    for prompts in prepared.prompt_sets:
        study.prompt_sets.write(prompts)
    with Lease(prepared.out, SweepFolder(study, folder).lease_path(part), part):
        remove_stale_files(study.out)
        if not SweepFolder(study, folder).read_record():
            SweepFolder(study, folder).write_record(_request(prepared, overrides))
        found = find_missing(prepared, study, part, again)
        _say_what_is_missing(console, found, part)
        _say_what_was_damaged(console, study)
        code = measure(prepared, study, found.tasks, console) if found.tasks else ExitCode.COMPLETE
        left = find_missing(prepared, study) if found.tasks or part else found
        if part is not None and left.tasks:
            return _part_of(prepared, code, part, left, console)
        code = _answer(prepared, study, console, code)
        if study.problems and code != ExitCode.INTERRUPTED:
            code = _heal(prepared, study, console) or code
        return Ran(code or (ExitCode.FAILED_TASKS if left.given_up else ExitCode.COMPLETE), prepared)


def _heal(prepared: PreparedSweep, study: Study, console: Console) -> int:
    """Some of what was read to answer did not verify and was moved aside: run it again, once, and answer anew."""
    _say_what_was_damaged(console, study)
    found = find_missing(prepared, study)
    code: int = ExitCode.COMPLETE
    if found.tasks:
        _say_what_is_missing(console, found)
        code = measure(prepared, study, found.tasks, console)
    return _answer(prepared, study, console, code)


def _answer(prepared: PreparedSweep, study: Study, console: Console, code: int) -> int:
    """Judge, reduce and draw what is stored; model judges are not asked any more where the run was interrupted."""
    asked = code != ExitCode.INTERRUPTED
    judged = judging.answer(prepared.config, study, prepared.sweep, prepared.folder, console, asked)
    return ExitCode.INTERRUPTED if ExitCode.INTERRUPTED in (code, judged) else code or judged


def _part_of(prepared: PreparedSweep, code: int, part: str, left: MissingTasks, console: Console) -> Ran:
    """The end of a part that is not the last: which others there are still to run, and that there is no answer yet."""
    places = shares(prepared.sweep.tasks(), parse_part(part)[1])
    points = {task.point for task in left.tasks}
    waits_for = tuple(sorted({places[point] for point in points}))
    if code != ExitCode.INTERRUPTED:
        others = ", ".join(f"{i}/{parse_part(part)[1]}" for i in waits_for)
        text = (
            f"Part {part} is done. {len(points)} of {len(places)} points are not stored yet, those of cluster.part="
            f"{others}: the part that ends last judges and reduces the whole. Run again a part that has died, or, "
            "without cluster.part, all that is left."
        )
        console.print(text, highlight=False, soft_wrap=True)
    return Ran(code, prepared, waits_for, len(points))


def _say_what_is_missing(console: Console, found: MissingTasks, part: str | None = None) -> None:
    total, to_run, given_up = found.total, len(found.tasks), len(found.given_up)
    points = len({task.point for task in found.tasks})
    of = f" of part {part}" if part else ""
    if given_up:
        console.print(f"{given_up} tasks were given up before: retry=failed tries them again.", highlight=False)
    if not to_run:
        text = f"Nothing to run: {total - given_up} of {total} tasks{of} are stored."
    elif to_run == total:
        text = f"{total} tasks{of} at {points} points to run."
    else:
        text = f"{total - to_run} of {total} tasks{of} are stored; {to_run} at {points} points to run."
    console.print(text, highlight=False)


def _say_what_was_damaged(console: Console, study: Study) -> None:
    """Name the files that were met and did not verify, and forget them."""
    for path, why in study.problems.items():
        where = path.relative_to(study.root)
        told = why.removeprefix(f"{path}: ")
        console.print(f"{where} does not verify ({told}): moved to damaged/", highlight=False, soft_wrap=True)
    study.problems.clear()


def measure(prepared: PreparedSweep, study: Study, tasks: Sequence[Task], console: Console) -> int:
    """Run these tasks on a cluster and record the run. Returns the exit code."""
    from orchestrator.execution import cluster, dispatch

    config, todo = prepared.config, visits(tasks)
    record = RunRecord(study, prepared.folder, len(tasks), config.cluster.part)
    events = study.events(record.run)
    events.write("run_started", sweep_id=prepared.sweep.id, tasks=len(tasks), visits=len(todo), pid=os.getpid())
    job: dispatch.Dispatcher | None = None
    ending = "broken"
    try:
        log = SweepFolder(study, prepared.folder).log_path(record.run)
        curve = LiveCurve(study, prepared.sweep, prepared.prompt_sets)
        with (
            redirect_output(console, log) as terminal,
            ProgressDisplay(len(todo), terminal, curve) as display,
            cluster.session(cluster.ClusterSpec.from_config(config.cluster)),
        ):
            display.print_line(f"logs: {log}, {cluster.log_folder()}")
            if prepared.model is not None:
                cluster.run_on_other_nodes(ensure_on_this_machine, config.model, prepared.model.path)
            stored = answers.engines(study.generations.stored_of(prepared.sweep.tasks()))
            engine = engine_spec(config, prepared.model, cluster.device(), prepared.targets, stored)
            policy = dispatch_policy(config, engine, cluster.gpus(), cluster.cores_of_smallest_node())
            job = dispatch.Dispatcher(
                study, engine, policy, _admission(prepared, stored, record), _observer(events, display)
            )
            sets = {p.id: p for p in prepared.prompt_sets}
            outcome = job.run(todo, sets, prepared.sweep.grid.directions_used)
        ending = "interrupted" if outcome.interrupted else "complete"
    except KeyboardInterrupt:
        ending = "interrupted"
    except UserError:
        ending = "refused"
        raise
    finally:
        record.ended(ending, job.outcome.to_json() if job else {})
        events.write("run_finished", outcome=ending, seconds=record.seconds)
    if ending == "interrupted":
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED_TASKS if job and job.outcome.failures else ExitCode.COMPLETE


def _admission(
    prepared: PreparedSweep, stored: Sequence[Mapping[str, Any]], record: RunRecord
) -> Callable[[Mapping[str, Any]], None]:
    """Refuses an actor whose engine differs from the one that made the sweep's stored rows."""
    known = {content_id(e): e for e in stored}

    def admit(described: Mapping[str, Any]) -> None:
        record.admitted(described)
        other = next((engine for id_, engine in known.items() if id_ != described["engine_id"]), None)
        if other is not None and not prepared.config.engine.mix:
            ours = described["engine"]
            names = sorted(k for k in {*ours, *other} if ours.get(k) != other.get(k))
            differing = ", ".join(f"{k} {other.get(k)} before and {ours.get(k)} now" for k in names)
            remedy = f"stored rows of this sweep come from another engine ({differing}): ask for that one, or mix them"
            raise UserError("engine.mix", "false", f"{remedy} with engine.mix=true")
        known.setdefault(described["engine_id"], described["engine"])

    return admit


def _observer(events: EventLog, display: ProgressDisplay) -> Callable[..., None]:
    def observe(event: str, **fields: Any) -> None:
        events.write(event, **fields)
        display.observe(event, **fields)

    return observe


def _request(prepared: PreparedSweep, overrides: Sequence[str]) -> dict[str, Any]:
    """sweep.json: the request, and how to ask for it again."""
    return {
        "schema": "sweep/1",
        "sweep_id": prepared.sweep.id,
        "name": prepared.sweep.name,
        "request": prepared.sweep.to_json(),
        "overrides": [text for text in overrides if not text.startswith("cluster.part=")],
        "labels": {target.fingerprint: target.label for target in prepared.targets},
        "around": prepared.target_geometry.to_json() if prepared.target_geometry else {},
    }


def how_to_go_on(overrides: Sequence[str]) -> str:
    """What to type after an interruption."""
    command = shlex.join(["python", "-m", "orchestrator", "run", *overrides])
    return f"Interrupted; what is stored stays. Go on with: {command}"
