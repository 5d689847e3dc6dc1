"""Measure a safety landscape from Python: `from orchestrator import Experiment`."""

from __future__ import annotations

import functools
import io
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from orchestrator.api.studies import StoredStudy, load_study
from orchestrator.utils.errors import ExitCode, FailedTasksError, SessionLostError, UserError
from orchestrator.utils.paths import expanded
from orchestrator.utils.safe_console import SafeConsole

if TYPE_CHECKING:
    from orchestrator.analysis.live_points import MeasuredPoint
    from orchestrator.config.presets import Presets
    from orchestrator.config.schema import Config
    from orchestrator.execution.events import Observer
    from orchestrator.execution.run_counts import Progress
    from orchestrator.pipeline.prepare import PreparedSweep
    from orchestrator.planning.cost import Plan
    from orchestrator.store.status import Status
    from orchestrator.store.sweep_folder import StoredSweep

logger = logging.getLogger(__name__)

OnPoint = Callable[["MeasuredPoint"], object]
OnProgress = Callable[["Progress"], object]


class Experiment:
    """One sweep: a model, a grid, prompts and judges. The same options as on the command line, and the same results.

    Options are checked at once. Nothing is downloaded, written or started before `run`.

    Args:
        model: Name of a model preset, a folder with weights, or `OWNER/NAME` on the hub. None: the default preset.
        grid: Name of a grid preset, or the options of `grid.*` by name, such as `{"steps": 10, "directions": 2}`.
        overrides: Further options, as texts `"key=value"` like those of the command line, or as a mapping from dotted
            names to values, such as `{"probes.limit": 40, "out": "studies"}`. They take precedence.
        config_dir: A folder of presets of your own, as `--config-dir`.

    Raises:
        UserError: An option does not exist or has a wrong value.

    Example:
        ```python
        experiment = Experiment(model="smollm2_135m", grid={"steps": 10}, overrides=["probes.limit=40"])
        print(experiment.plan().wall_hours)
        study = experiment.run(on_point=lambda point: print(point.positions[0].alpha, point.asr))
        study.summary["visage"]["paper"]
        ```
    """

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        grid: str | Mapping[str, Any] | None = None,
        overrides: Sequence[str] | Mapping[str, Any] = (),
        *,
        config_dir: str | PathLike[str] | None = None,
    ) -> None:
        self._config_dir = None if config_dir is None else str(config_dir)
        self.overrides = (*_model_overrides(model, self._presets), *_grid_overrides(grid), *_texts(overrides))
        self._config  # noqa: B018 - mistakes are reported here, not at the first use

    def __repr__(self) -> str:
        return f"<Experiment {' '.join(self.overrides)}>"

    @property
    def _presets(self) -> Presets:
        from orchestrator.config.presets import Presets

        return Presets(self._config_dir)

    @functools.cached_property
    def _config(self) -> Config:
        from orchestrator.config.compose import compose

        config = compose(self.overrides, self._config_dir)
        if config.cluster.kind == "slurm":
            remedy = "the command line submits jobs; from Python, use cluster=ray inside of a job"
            raise UserError("cluster", "slurm", remedy)
        return config

    def plan(self) -> Plan:
        """Estimate points, tokens, memory and time of what is not stored yet, without loading or writing anything.

        Raises:
            UserError: As the verb `plan`.
        """
        from orchestrator.pipeline.estimate import estimate_sweep

        return estimate_sweep(self._config, self._presets)

    def run(
        self, on_point: OnPoint | None = None, on_progress: OnProgress | None = None, *, show_progress: bool = True
    ) -> StoredStudy:
        """Measure what is not stored yet, then judge, reduce and report. Call it again to resume.

        If this process is connected to Ray already, that session is used and stays; otherwise one is started on this
        machine, or joined (`cluster=ray`), and left at the end. Ctrl-C lets running visits finish and stores them.

        Args:
            on_point: Called with each point when its responses are stored.
            on_progress: Called when points, failures or actors change. Both are called in the thread of this call; an
                exception that one raises ends the run, and what is stored stays.
            show_progress: Whether lines about the progress are written to stderr.

        Returns:
            The tables of this sweep, as `results`.

        Raises:
            UserError: As exit code 2 of the command line: the sweep cannot run as requested.
            FailedTasksError: As exit code 3: all is done except for tasks that failed repeatedly; `results` has the
                rest.
            SessionLostError: As exit code 130: Ray ended under the run, or no actor got the cluster's resources within
                `cluster.wait_limit`. What is stored stays.
            KeyboardInterrupt: As exit code 130, after Ctrl-C. What is stored stays.
        """
        from orchestrator.pipeline.run import run

        stopped: list[KeyboardInterrupt | SessionLostError] = []

        def watch(stored: StoredSweep) -> Observer:
            return _Watcher(stored, on_point, on_progress, stopped).observe

        console = SafeConsole(cast(IO[str], _CurrentStderr()), quiet=not show_progress, plain=True)
        result = run(self._config, self._presets, self.overrides, console, watch)
        if result.code == ExitCode.INTERRUPTED:
            if stopped:
                raise stopped[0]
            raise SessionLostError("Ray ended under the run; stored results are kept, and another call of run resumes")
        if result.waits_for:
            logger.info("parts %s are not done yet: this sweep has no results so far", result.waits_for)
        if result.code == ExitCode.FAILED_TASKS:
            raise FailedTasksError(str(result.stored.folder.path))
        return load_study(result.stored.folder.path)

    def status(self) -> Status:
        """Return the progress of this sweep, read from its folder, also while another process runs it.

        Raises:
            UserError: The sweep has not begun.
        """
        from orchestrator.analysis.requested import requested
        from orchestrator.store.status import examine
        from orchestrator.store.sweep_folder import StoredSweep, SweepFolder

        folder = self._sweep_folder()
        study = load_study(folder)._study
        stored = StoredSweep.open(SweepFolder(study, folder))
        return examine(stored, requested(stored).tasks)

    @property
    def results(self) -> StoredStudy:
        """The tables of this sweep: landscape, summary, points and generations. Loaded anew at each access.

        Raises:
            UserError: The sweep has not begun.
        """
        return load_study(self._sweep_folder())

    @functools.cached_property
    def _prepared(self) -> PreparedSweep:
        from orchestrator.pipeline.prepare import prepare

        return prepare(self._config, self._presets)

    def _sweep_folder(self) -> Path:
        from orchestrator.models.targets import all_on_this_machine
        from orchestrator.store.working_copy import pull

        if all_on_this_machine(self._config, self._presets):  # otherwise `prepare` would download it
            folder = self._prepared.stored.folder.path
            pull(folder)
            if (folder / "sweep.json").exists():
                return folder
        raise UserError("out", self._config.out, "this sweep has not begun there: call run")


class _CurrentStderr(io.TextIOBase):
    """Writes to what `sys.stderr` is now. It has no descriptor, so the process's own output is not redirected."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return sys.stderr.write(text)


class _Watcher:
    """Calls the functions of a caller of `run` with what the dispatcher's events mean to them."""

    def __init__(
        self,
        stored: StoredSweep,
        on_point: OnPoint | None,
        on_progress: OnProgress | None,
        stopped: list[KeyboardInterrupt | SessionLostError],
    ) -> None:
        from orchestrator.analysis.live_points import LivePoints
        from orchestrator.execution.run_counts import RunCounts

        self._points = None if on_point is None else LivePoints(stored)
        self._on_point, self._on_progress, self._stopped = on_point, on_progress, stopped
        self._counts = RunCounts()

    def observe(self, event: str, **fields: Any) -> None:
        if event == "stopping":
            self._stopped.append(KeyboardInterrupt(fields["signal"]))
        if event == "wait_ended":
            self._stopped.append(SessionLostError(fields["why"]))
        if event == "visit_done" and self._on_point is not None and self._points is not None:
            self._on_point(self._points.take(**fields))
        if self._counts.observe(event, **fields) and self._on_progress is not None:
            self._on_progress(self._counts.progress)


def _model_overrides(model: str | PathLike[str] | None, presets: Presets) -> list[str]:
    if model is None:
        return []
    if isinstance(model, str) and (model in presets.options("model") or not expanded(model).is_dir()):
        return [f"model={model}"]
    return [f"model.path={model}"]


def _grid_overrides(grid: str | Mapping[str, Any] | None) -> list[str]:
    if grid is None:
        return []
    return [f"grid={grid}"] if isinstance(grid, str) else _texts({f"grid.{key}": grid[key] for key in grid})


def _texts(overrides: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Return overrides as texts. Raises UserError for one text, whose letters would be taken for overrides."""
    if isinstance(overrides, str):
        raise UserError("overrides", overrides, 'give a list, such as ["grid.steps=10"]')
    if isinstance(overrides, Mapping):
        return [f"{key}={_value(value)}" for key, value in overrides.items()]
    return list(overrides)


def _value(value: Any) -> str:
    """Return a Python value as it is written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Iterable) and not isinstance(value, str | PathLike):
        return f"[{','.join(map(_item, value))}]"
    return str(value)


def _item(value: Any) -> str:
    text = _value(value)
    return f"'{text}'" if set(text) & set(",[]") and "'" not in text else text
