"""The main job: run the missing tasks of a sweep, then judge, reduce and report it.

prepare -> execute -> judge -> reduce -> report
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config
from orchestrator.execution.events import Observer, all_of, ignore_event
from orchestrator.pipeline.checks import check_platform
from orchestrator.pipeline.execute import Execution, execute, execute_again, open_sweep
from orchestrator.pipeline.growth import check_goals, overrides_of
from orchestrator.pipeline.judge import resolve_model_judges
from orchestrator.pipeline.prepare import PreparedSweep, find_missing, prepare
from orchestrator.pipeline.prompt_sets import log_rendering
from orchestrator.pipeline.reduce import judge_and_reduce
from orchestrator.store.records import DAMAGED
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.store.working_copy import check_bucket, open_root
from orchestrator.sweep.tasks import assign_parts, parse_part
from orchestrator.tracking.registry import checked
from orchestrator.tracking.tracking import Tracking
from orchestrator.utils.command_line import command_line
from orchestrator.utils.errors import ExitCode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        code: The exit code.
        stored: The sweep.
        waits_for: Numbers of the parts that have to be run before the sweep has results. Empty if it has results.
        points_left: Number of points with missing tasks, if the sweep waits for other parts; otherwise 0.
    """

    code: int
    stored: StoredSweep
    waits_for: tuple[int, ...] = ()
    points_left: int = 0


def _watch_nothing(stored: StoredSweep) -> Observer:
    return ignore_event


def run(
    config: Config,
    presets: Presets,
    overrides: Sequence[str],
    console: Console,
    watch: Callable[[StoredSweep], Observer] = _watch_nothing,
) -> RunResult:
    """Run the missing tasks of a sweep, then judge, reduce and report it.

    With `cluster.part`, only the missing tasks of that part are run. Judging, reducing and reporting follow only if no
    other part has missing tasks.

    Args:
        config: The validated configuration.
        presets: The presets that it may name.
        overrides: The overrides that gave it, for the sweep's record.
        console: Where progress is shown.
        watch: Called once with the sweep before anything runs; returns an observer of its events.

    Raises:
        UserError: The sweep cannot run as requested, or no actor can; the message says what to change.
    """
    check_platform(config)
    check_bucket(open_root(config.out))
    prepared = prepare(config, presets)
    check_goals(prepared)
    log_rendering(prepared.prompt_sets, prepared.sweep.thought)
    resolve_model_judges(config)  # early, so that a mistake is reported before anything runs for hours
    trackers, live = checked(config.track), config.cluster.part is None
    with open_sweep(prepared, overrides) as stored, Tracking(stored, trackers, live) as tracking:
        observe = all_of(tracking.observe, watch(stored))
        execution = execute(prepared, stored, console, observe)
        if config.cluster.part is not None and execution.missing.tasks:
            return _wait_for_other_parts(stored, execution, config.cluster.part)
        code = _judge_and_reduce(config, stored, console, execution.code)
        if stored.study.problems and code != ExitCode.INTERRUPTED:
            # Some files did not verify and were moved aside: run their tasks again, once.
            repaired = execute_again(prepared, stored, console, observe)
            code = _judge_and_reduce(config, stored, console, repaired) or code
        if code == ExitCode.COMPLETE and execution.missing.given_up:
            code = ExitCode.FAILED_TASKS
        tracking.finish()
        if execution.grown != prepared.sweep and code != ExitCode.INTERRUPTED:
            grown = prepared.grown_to(execution.grown.grid, prepared.blocks_of(execution.grown))
            return _reduce_grown(grown, stored, overrides_of(prepared, grown.sweep, overrides), console)
        return RunResult(code, stored)


def _reduce_grown(
    grown: PreparedSweep, requested: StoredSweep, overrides: Sequence[str], console: Console
) -> RunResult:
    """Judge, reduce, report and track the sweep to which a sweep with goals has grown. Its runs are those of both."""
    trackers = checked(grown.config.track)
    with open_sweep(grown, overrides) as stored, Tracking(stored, trackers, False) as tracking:
        for record in requested.record.runs:
            if record.outcome != DAMAGED:
                stored.folder.write_run(record)
        stored.refresh()
        code = _judge_and_reduce(grown.config, stored, console, ExitCode.COMPLETE)
        if code == ExitCode.COMPLETE and find_missing(grown, stored).given_up:
            code = ExitCode.FAILED_TASKS
        tracking.finish()
        return RunResult(code, stored)


def _judge_and_reduce(config: Config, stored: StoredSweep, console: Console, executed: ExitCode) -> ExitCode:
    """Judge, reduce and report what is stored. Model judges are not run if the execution was interrupted."""
    judged = judge_and_reduce(config, stored, console, run_models=executed != ExitCode.INTERRUPTED)
    if ExitCode.INTERRUPTED in (executed, judged):
        return ExitCode.INTERRUPTED
    return judged if executed == ExitCode.COMPLETE else executed


def _wait_for_other_parts(stored: StoredSweep, execution: Execution, part: str) -> RunResult:
    """Return the result of a part that ended while other parts still have missing tasks."""
    _, parts = parse_part(part)
    part_of = assign_parts(stored.sweep.tasks(), parts)
    points = {task.point for task in execution.missing.tasks}
    waits_for = tuple(sorted({part_of[point] for point in points}))
    if execution.code != ExitCode.INTERRUPTED:
        others = ", ".join(f"{i}/{parts}" for i in waits_for)
        logger.info(
            "Part %s is done. %d of %d points are not stored yet, those of cluster.part=%s: the part that ends last "
            "judges and reduces the whole. Run again a part that has died, or, without cluster.part, all that is left.",
            part,
            len(points),
            len(part_of),
            others,
        )
    return RunResult(execution.code, stored, waits_for, len(points))


def resume_hint(overrides: Sequence[str], config_dir: str | None = None) -> str:
    """Return the message after an interruption, with the command that resumes the run.

    Args:
        overrides: The run's overrides.
        config_dir: The user's own folder of presets, or None.
    """
    folder = [] if config_dir is None else ["--config-dir", config_dir]
    return f"Interrupted; what is stored stays. Continue with: {command_line('run', *overrides, *folder)}"
