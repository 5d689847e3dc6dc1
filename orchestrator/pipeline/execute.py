"""The stage that runs the missing tasks of a sweep on a cluster and records the run."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestrator.analysis.adapter_versions import older_sweeps
from orchestrator.execution.events import Observer, all_of, ignore_event
from orchestrator.execution.live_curve import LiveCurve
from orchestrator.execution.progress import ProgressDisplay, redirect_output
from orchestrator.execution.resources import dispatch_policy, engine_spec
from orchestrator.models.resolve import ensure_on_this_machine
from orchestrator.pipeline.admission import Admission
from orchestrator.pipeline.budgets import Budgets, earlier_runs
from orchestrator.pipeline.estimate import check_machine
from orchestrator.pipeline.growth import GrowingSweep
from orchestrator.pipeline.log_probability import measure_after, unmeasured
from orchestrator.pipeline.prepare import MissingTasks, PreparedSweep, find_missing
from orchestrator.pipeline.smaller_sweep import log_cost
from orchestrator.pipeline.work import SweepWork, levels_of
from orchestrator.store.events import EventLog
from orchestrator.store.files import DamagedFileError
from orchestrator.store.lease import Lease, release
from orchestrator.store.parts import TaskKey
from orchestrator.store.records import FailedVisit, SweepRecord
from orchestrator.store.runs import RunRecorder, engines_of
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.store.temporary import remove_stale_files
from orchestrator.store.uploads import LogUploads
from orchestrator.store.working_copy import pull
from orchestrator.sweep.continuations import ContinuationBatch
from orchestrator.sweep.grid import Sweep
from orchestrator.sweep.tasks import assign_parts, parse_part, visits
from orchestrator.sweep.until import UntilOutcome
from orchestrator.utils.choices import ClusterKind, LogProbabilityChoice
from orchestrator.utils.errors import ExitCode, SessionLostError, UserError

if TYPE_CHECKING:
    from orchestrator.execution.dispatch import Dispatcher

logger = logging.getLogger(__name__)

MAX_SESSIONS = 3
"""Number of local Ray sessions that may end under one run before it is interrupted."""

RUN_ONLY_OVERRIDES = ("cluster.part=", "judging.log_probability=", "track=", "until.")
"""Overrides of a single run, which the sweep's record leaves out."""


@dataclass(frozen=True)
class Execution:
    """The result of this stage.

    Attributes:
        code: COMPLETE, FAILED_TASKS or INTERRUPTED.
        missing: The tasks of the whole sweep that are still missing.
        grown: The sweep with the grid that it has grown to (`until`): the requested one without goals, and as long as
            the requested grid is not whole.
    """

    code: ExitCode
    missing: MissingTasks
    grown: Sweep


@contextlib.contextmanager
def open_sweep(prepared: PreparedSweep, overrides: Sequence[str]) -> Iterator[StoredSweep]:
    """Create or open the sweep for writing, and hold its lease inside the `with` block.

    Raises:
        UserError: The machine cannot run a new study, the study cannot be written, or another driver is at work.
    """
    part = prepared.config.cluster.part
    if not prepared.stored.study.exists:  # otherwise `execute` checks it for the missing tasks
        check_machine(prepared, find_missing(prepared, prepared.stored, part).possible, prepared.stored)
    study = Study.create(prepared.out, prepared.info, prepared.config.study.mode)
    for prompts in prepared.all_prompt_sets:
        study.prompt_sets.write(prompts)
    stored = StoredSweep(SweepFolder.of(study, prepared.sweep), prepared.sweep)
    with Lease(prepared.out, stored.folder.lease_path(part), part), LogUploads(stored.folder):
        pull(study.root)  # what another driver has stored until it released the lease
        remove_stale_files(study.out)
        try:
            stored.folder.read_record()
        except DamagedFileError:
            _log_older_sweeps(prepared, study)
            stored.folder.write_record(_new_record(prepared, overrides))
        yield stored


def _log_older_sweeps(prepared: PreparedSweep, study: Study) -> None:
    """Log that a new sweep measures adapters anew that the study has measured under adapter version 1."""
    former = {target.former: target.label for target in prepared.targets if target.former}
    if older := older_sweeps(study, former):
        logger.warning(
            "Sweeps of adapter version 1 stay as they are and are not added to (%s): this is a new sweep, because "
            "adapter version 2 no longer rounds an adapter's weights before it moves toward them.",
            ", ".join(older),
        )


def _new_record(prepared: PreparedSweep, overrides: Sequence[str]) -> SweepRecord:
    return SweepRecord(
        sweep_id=prepared.sweep.id,
        name=prepared.sweep.name,
        request=prepared.sweep.to_json(),
        overrides=tuple(text for text in overrides if not text.startswith(RUN_ONLY_OVERRIDES)),
        labels={target.fingerprint: target.label for target in prepared.targets},
        target_geometry=prepared.target_geometry,
    )


def execute(
    prepared: PreparedSweep, stored: StoredSweep, console: Console, observe: Observer = ignore_event
) -> Execution:
    """Run the missing tasks of the sweep, or of its part `cluster.part`.

    Args:
        prepared: The sweep.
        stored: The same sweep in its study's folder.
        console: Where progress is shown.
        observe: Called with `run_started` for each Ray session and then with each event of the dispatcher.

    Raises:
        UserError: The machine or an actor cannot run them.
    """
    part, growing = prepared.config.cluster.part, GrowingSweep(prepared, stored)
    todo = growing.advance()
    _log_missing(todo, part)
    _log_damage(stored.study)
    if not todo.tasks:
        chosen = prepared.config.judging.log_probability
        unread = (
            [] if chosen == LogProbabilityChoice.none else unmeasured(stored, chosen, _keys_of_part(prepared, part))
        )
        if not unread:
            _record_goals(growing)
            missing = todo if part is None else find_missing(prepared, stored)
            return Execution(ExitCode.COMPLETE, missing, growing.whole or prepared.sweep)
        logger.info("%d different responses have no log-probability yet: they are read at the origin.", len(unread))
    Budgets(prepared.config.until, earlier_runs(stored)).check_unspent()
    log_cost(check_machine(growing.prepared, todo.possible, growing.stored))
    code = _run_tasks(growing, todo, console, observe)
    stored.refresh()
    missing = find_missing(prepared, stored)
    if _is_stopped(stored):
        logger.info("A budget is spent before everything was measured; what is stored stays.")
    elif code == ExitCode.COMPLETE and missing.tasks and not missing.is_final:
        # A level of an adaptive grid waits for a visit that could not be read at once.
        code = _run_tasks(growing, growing.advance(), console, observe)
        stored.refresh()
        missing = find_missing(prepared, stored)
    return Execution(code, missing, growing.whole or prepared.sweep)


def _record_goals(growing: GrowingSweep) -> None:
    """Record how far the goals are met although nothing is to be run, unless the last run has recorded the same."""
    outcome, stored = growing.outcome(), growing.requested
    if outcome is None:
        return
    last = stored.record.runs[-1].until if stored.record.runs else None
    if last is None or last.goals != outcome.goals:
        budgets = Budgets(growing.prepared.config.until, earlier_runs(stored))
        RunRecorder(stored.folder, 0).end("complete", until=budgets.outcome(False, outcome))
        stored.refresh()


def _is_stopped(stored: StoredSweep) -> bool:
    """Return whether a budget ended the last run of a sweep while work was left."""
    runs = stored.record.runs
    return bool(runs) and runs[-1].until is not None and runs[-1].until.stopped_by is not None


def _keys_of_part(prepared: PreparedSweep, part: str | None) -> set[TaskKey] | None:
    """Return the keys of the tasks of a part `i/n`; None for the whole sweep."""
    if part is None:
        return None
    i, n = parse_part(part)
    tasks = prepared.sweep.tasks()
    part_of_point = assign_parts(tasks, n)
    return {task.key for task in tasks if part_of_point[task.point] == i}


def execute_again(
    prepared: PreparedSweep, stored: StoredSweep, console: Console, observe: Observer = ignore_event
) -> ExitCode:
    """Run the tasks again whose files did not verify and were moved aside."""
    _log_damage(stored.study)
    todo = find_missing(prepared, stored)
    if not todo.tasks or Budgets(prepared.config.until, earlier_runs(stored)).spent:
        return ExitCode.COMPLETE
    _log_missing(todo)
    return _run_tasks(GrowingSweep(prepared, stored), todo, console, observe)


def _run_tasks(
    growing: GrowingSweep,
    todo: MissingTasks,
    console: Console,
    observe: Observer = ignore_event,
) -> ExitCode:
    """Run these tasks on a cluster. If a local Ray session ends under them, run the rest in another one.

    Returns:
        COMPLETE, FAILED_TASKS or INTERRUPTED; the last also if MAX_SESSIONS sessions or a joined cluster have
        ended.
    """
    from orchestrator.execution import cluster

    is_own_session = growing.prepared.config.cluster.kind == ClusterKind.local and not cluster.is_connected()
    for number in range(1, MAX_SESSIONS + 1):
        try:
            return _run_in_session(growing, todo, console, observe)
        except SessionLostError as error:
            if not is_own_session:
                logger.warning("%s in the cluster that was joined.", error)
                return ExitCode.INTERRUPTED
            todo = growing.advance()
            if number < MAX_SESSIONS:
                logger.warning(
                    "%s; stored results are kept. Starting Ray again for %d tasks: session %d of %d.",
                    error,
                    len(todo.tasks),
                    number + 1,
                    MAX_SESSIONS,
                )
    logger.warning(
        "Ray has ended in %d sessions, and %d tasks are left. If memory ran out, `dmesg` shows it.",
        MAX_SESSIONS,
        len(todo.tasks),
    )
    return ExitCode.INTERRUPTED


def _run_in_session(growing: GrowingSweep, missing: MissingTasks, console: Console, observe: Observer) -> ExitCode:
    """Run these tasks in one session of a cluster and record the run. Raises SessionLostError if the session ends."""
    from orchestrator.execution import cluster
    from orchestrator.execution.dispatch import Dispatcher
    from orchestrator.execution.gauges import RunGauges
    from orchestrator.execution.session_watch import watched
    from orchestrator.execution.setup import DispatchSetup

    prepared, stored = growing.prepared, growing.stored
    config, todo, study = prepared.config, visits(missing.tasks), stored.study
    budgets = Budgets(config.until, earlier_runs(stored))
    recorder = RunRecorder(stored.folder, len(missing.tasks), config.cluster.part, growing.outcome())
    work = _work(growing, missing, budgets, recorder)
    events = study.events(recorder.run)
    started = {"sweep_id": stored.sweep.id, "tasks": len(missing.tasks), "visits": len(todo), "pid": os.getpid()}
    events.write("run_started", **started)
    observe("run_started", **started)
    dispatcher: Dispatcher | None = None
    ending, lease = "broken", stored.folder.lease_path(config.cluster.part)
    try:
        log, actor_logs = stored.folder.log_path(recorder.run), stored.folder.ray_logs_path(recorder.run)
        cluster_spec, is_joined = cluster.ClusterSpec.from_config(config.cluster), cluster.is_connected()
        with (
            redirect_output(console, log) as terminal,
            ProgressDisplay(len(todo), terminal, work.picture or LiveCurve(stored)) as display,
            cluster.session(cluster_spec, actor_logs, display.print_line),
            watched(terminal, lambda: _close_broken(recorder, events, dispatcher, lease)),
        ):
            # A local session's own folder is removed with it, so its copy is named.
            is_own = cluster_spec.kind == "local" and not is_joined
            display.print_line(f"logs: {log}, {actor_logs if is_own else cluster.log_folder()}")
            if prepared.model is not None:
                cluster.run_on_other_nodes(ensure_on_this_machine, config.model, prepared.model.path)
            engines = engines_of(stored.generations)
            device, sets = cluster.device(), prepared.all_prompt_sets
            spec = engine_spec(config, prepared.model, device, prepared.targets, engines, sets)
            policy = dispatch_policy(config, spec, cluster.gpus(), cluster.cores_of_smallest_node())
            budgets.check_gpus(policy.gpus_per_actor)
            check_actor = Admission(engines, config.engine.mix, recorder)
            gauges = RunGauges(study.info.model, stored.sweep.id, len(todo))
            observer = all_of(events.write, display.observe, gauges.observe, budgets.observe, observe)
            dispatcher = Dispatcher(DispatchSetup(study, spec, policy, check_actor, observer))
            prompt_sets = {prompts.id: prompts for prompts in sets}
            outcome = dispatcher.run(todo, prompt_sets, stored.sweep.grid.directions_used, work)
        ending = "interrupted" if outcome.interrupted else "complete"
    except KeyboardInterrupt:
        ending = "interrupted"
    except UserError:
        ending = "refused"
        raise
    finally:
        _end(recorder, events, dispatcher, ending, budgets.outcome(not work.is_done, growing.outcome()))
        growing.refresh()
    if ending == "interrupted":
        return ExitCode.INTERRUPTED
    if dispatcher is not None and dispatcher.outcome.failures:
        return ExitCode.FAILED_TASKS
    return ExitCode.COMPLETE


def _work(growing: GrowingSweep, missing: MissingTasks, budgets: Budgets, recorder: RunRecorder) -> SweepWork:
    """Return the source of the work that follows from the results of a run that begins with these tasks."""
    config = growing.prepared.config

    def continuations() -> Sequence[ContinuationBatch]:
        part_keys = _keys_of_part(growing.prepared, config.cluster.part)
        return measure_after(growing.stored, config.judging.log_probability, part_keys)()

    return SweepWork(
        continuations, levels_of(growing, missing), visits(missing.tasks), budgets, growing, recorder.record_goals
    )


def _end(
    recorder: RunRecorder,
    events: EventLog,
    dispatcher: Dispatcher | None,
    ending: str,
    until: UntilOutcome | None = None,
) -> None:
    """Record the end of a run."""
    outcome = None if dispatcher is None else dispatcher.outcome
    failures = [
        FailedVisit(
            point_id=failure.visit.point.id,
            prompt_set_ids=failure.visit.prompt_set_ids,
            errors=tuple(failure.errors),
        )
        for failure in (outcome.failures if outcome else ())
    ]
    recorder.end(ending, outcome, failures, until)
    events.write("run_finished", outcome=ending, seconds=recorder.seconds)


def _close_broken(recorder: RunRecorder, events: EventLog, dispatcher: Dispatcher | None, lease: Path) -> None:
    """Close the record and the lease of a run whose main thread no longer answers."""
    _end(recorder, events, dispatcher, "broken")
    release(lease.parents[3], lease)


def _log_missing(todo: MissingTasks, part: str | None = None) -> None:
    given_up, to_run = len(todo.given_up), len(todo.tasks)
    further = "" if todo.is_final else "; verdicts decide on further points"
    points = len({task.point for task in todo.tasks})
    of_part = f" of part {part}" if part else ""
    if given_up:
        logger.info("%d tasks were given up before: retry=failed tries them again.", given_up)
    if to_run == 0:
        logger.info("Nothing to run: %d of %d tasks%s are stored.", todo.total - given_up, todo.total, of_part)
    elif to_run == todo.total:
        logger.info("%d tasks%s at %d points to run%s.", todo.total, of_part, points, further)
    else:
        done = todo.total - to_run
        text = "%d of %d tasks%s are stored; %d at %d points to run%s."
        logger.info(text, done, todo.total, of_part, to_run, points, further)


def _log_damage(study: Study) -> None:
    """Log the files that did not verify and were moved aside, and clear the list of them."""
    for path, why in study.problems.items():
        reason = why.removeprefix(f"{path}: ")
        logger.warning("%s does not verify (%s): moved to damaged/", path.relative_to(study.root), reason)
    study.problems.clear()
