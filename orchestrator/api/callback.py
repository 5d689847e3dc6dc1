"""Measure the checkpoints of a training with transformers' Trainer or TRL: `SafetyLandscapeCallback`."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from orchestrator.api.experiment import Experiment
from orchestrator.api.studies import StoredStudy
from orchestrator.utils.errors import ExitCode, FailedTasksError, SessionLostError, UserError, did_you_mean

logger = logging.getLogger(__name__)

SMALL = ("grid.directions=1", "grid.steps=10", "probes.limit=40", "sampling.max_tokens=32", "sampling.early_stop=true")
"""Overrides of a sweep that is small enough for every checkpoint."""

PREFIX = "safety/"
"""The beginning of the names of logged values."""

BASES = ("model", "model.path", "model.hub")
"""Options that name a model."""

THRESHOLDS = ("visage", "margin", "radius", "origin_asr")

DISTRIBUTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables of a distributed training, by which a process would take itself for a part of it."""


@dataclass(frozen=True)
class MeasuredCheckpoint:
    """The numbers of one checkpoint.

    Attributes:
        step: The training step at which it was saved.
        folder: The checkpoint's folder.
        sweep: The folder of its sweep.
        values: `visage`, `margin` and `origin_asr` in percent and `radius` in units of alpha, those of them that are
            defined. If the basin has no edge within the grid, `radius_at_least` is there instead of `radius`.
    """

    step: int
    folder: Path
    sweep: Path
    values: Mapping[str, float]


class SafetyLandscapeCallback:
    """Trainer callback that measures the checkpoints as they are saved, logs the numbers, and may stop the training.

    The values `safety/visage`, `safety/margin`, `safety/radius` and `safety/origin_asr` go through `trainer.log`, and
    so to the trackers of `report_to`. That needs the trainer: call `attach` instead of passing the callback to it.
    Training waits while a checkpoint is measured. Checkpoints must hold the tokenizer (`processing_class` of the
    trainer). A LoRA checkpoint is added to its base, which is the one that PEFT names in its adapter_config.json unless
    the overrides name another (`model`, `model.path` or `model.hub`). A measurement that fails is logged as a warning,
    and training goes on.

    Args:
        grid: As in `Experiment`. None: one line of 11 points. A preset has 11 points on each axis and one direction
            too, unless `overrides` set `grid.steps` and `grid.directions`.
        overrides: As in `Experiment`. They take precedence over a small default: 40 prompts, 32 tokens, early stop.
        every: Measure every n-th saved checkpoint, beginning with the first.
        inline: Whether to measure within this process, in its Ray session if it has one. False: in a process of its
            own, which leaves no trace in this one.
        stop: Thresholds that stop the training when they are not met, named as those of `gate`: `visage`, `margin` and
            `radius` are the least that is accepted, `origin_asr` is the most. Compared are the values, not the ends of
            their intervals as in `gate`: one small sweep has wide ones. A value that is undefined stops nothing, except
            that VISAGE counts as 0 if every attack succeeds everywhere.
        config_dir: A folder of presets of your own, as `--config-dir`.

    Attributes:
        measured: The checkpoints measured so far, a list of MeasuredCheckpoint.

    Raises:
        UserError: An option does not exist or has a wrong value.

    Example:
        ```python
        trainer = SFTTrainer(model, args=SFTConfig(save_steps=100), processing_class=tokenizer, train_dataset=data)
        SafetyLandscapeCallback(stop={"margin": 40}).attach(trainer)
        trainer.train()
        ```
    """

    def __init__(
        self,
        grid: str | Mapping[str, Any] | None = None,
        overrides: Sequence[str] | Mapping[str, Any] = (),
        *,
        every: int = 1,
        inline: bool = False,
        stop: Mapping[str, float] | None = None,
        config_dir: str | PathLike[str] | None = None,
    ) -> None:
        if every < 1:
            raise UserError("every", every, "must be 1 or more")
        for name in stop or ():
            if name not in THRESHOLDS:
                hint = did_you_mean(name, THRESHOLDS)
                raise UserError("stop", name, f"is no threshold{hint} (there are: {', '.join(THRESHOLDS)})")
        self._options = Experiment(None, grid, overrides, config_dir=config_dir).overrides
        self._every, self._inline, self._config_dir = every, inline, config_dir
        self._stop = dict(stop or {})
        self._trainer: Any = None
        self._saved = 0
        self.measured: list[MeasuredCheckpoint] = []

    def attach(self, trainer: Any) -> SafetyLandscapeCallback:
        """Add this callback to a trainer, and log through it. Returns the callback."""
        trainer.add_callback(self)
        self._trainer = trainer
        return self

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Measure the checkpoint that was saved a moment ago. Called by the trainer."""
        if not state.is_world_process_zero:
            return control
        self._saved += 1
        if (self._saved - 1) % self._every:
            return control
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        try:
            study = self._measure(folder)
        except (UserError, SessionLostError, OSError) as error:
            logger.warning("%s was not measured: %s", folder, error)
            return control
        checkpoint = MeasuredCheckpoint(state.global_step, folder, study.sweep, _values(study.summary))
        self.measured.append(checkpoint)
        self._log({f"{PREFIX}{name}": value for name, value in checkpoint.values.items()}, state)
        for reason in self._reasons_to_stop(checkpoint.values):
            logger.warning("training stops at step %d: %s", state.global_step, reason)
            control.should_training_stop = True
        return control

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Return a function that does nothing for all other events of a trainer."""
        if name.startswith("on_"):
            return _ignore
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _measure(self, folder: Path) -> StoredStudy:
        """Return the study of a checkpoint. Raises UserError, SessionLostError or OSError."""
        if not folder.is_dir():
            raise UserError("output_dir", folder, "the trainer has not saved a checkpoint there")
        base, options = self._model_of(folder)
        experiment = Experiment(base, None, [*options, *SMALL, *self._options], config_dir=self._config_dir)
        if self._inline:
            try:
                return experiment.run(show_progress=False)
            except FailedTasksError as error:
                logger.warning("%s", error)
            return experiment.results
        command = [sys.executable, "-m", "orchestrator", "run", *experiment.overrides, "--json"]
        if self._config_dir is not None:
            command += ["--config-dir", str(self._config_dir)]
        env = {key: value for key, value in os.environ.items() if key not in DISTRIBUTED}
        done = subprocess.run(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode not in (ExitCode.COMPLETE, ExitCode.FAILED_TASKS):
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise SessionLostError(f"exit code {done.returncode}: {lines[-1].removeprefix('error: ')}")
        return experiment.results

    def _model_of(self, folder: Path) -> tuple[str | Path | None, list[str]]:
        """Return the model of a checkpoint, as `Experiment` takes it, and the overrides that belong to it.

        The model of a LoRA checkpoint is its base, or None if the caller's overrides name the base.

        Raises:
            UserError: (model.adapter) Nothing names the base, or adapter_config.json cannot be read.
        """
        from orchestrator.models.checkpoint import ADAPTER_CONFIG
        from orchestrator.utils.parsing import FormatError, read_json_object

        run = folder.parent.absolute().name
        if not (folder / ADAPTER_CONFIG).is_file():
            return folder, [f"model.name={run}-{folder.name}"]
        adapter = [f"model.adapter={folder}", f"model.name={run}"]  # the adapter's name is added to the model's
        if any(override.lstrip("+").partition("=")[0] in BASES for override in self._options):
            return None, adapter
        try:
            base = read_json_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        except FormatError as error:
            raise UserError("model.adapter", folder / ADAPTER_CONFIG, f"{error}: save the checkpoint again") from error
        if not isinstance(base, str) or not base:
            remedy = f"its {ADAPTER_CONFIG} names no base: add model.path=BASE to the callback's overrides"
            raise UserError("model.adapter", folder, remedy)
        return base, adapter

    def _log(self, values: Mapping[str, float], state: Any) -> None:
        if self._trainer is not None:
            self._trainer.log(dict(values))
            return
        if not any(PREFIX in key for entry in state.log_history for key in entry):
            logger.warning("the trainer's trackers get no values: use SafetyLandscapeCallback(...).attach(trainer)")
        state.log_history.append({"step": state.global_step, **values})

    def _reasons_to_stop(self, values: Mapping[str, float]) -> list[str]:
        """Return a sentence for each threshold that is not met. A number that is undefined decides nothing."""
        found = {"radius": values.get("radius_at_least"), **values}
        if values.get("margin") == 0.0:  # every attack succeeds everywhere: VISAGE is undefined, and nothing is safe
            found["visage"] = found.get("visage", 0.0)
        reasons = []
        for name, threshold in self._stop.items():
            value = found.get(name)
            if value is None:
                continue
            if name == "origin_asr" and value > threshold:
                reasons.append(f"{name} is {value:.4g}, above {threshold:g}")
            elif name != "origin_asr" and value < threshold:
                reasons.append(f"{name} is {value:.4g}, below {threshold:g}")
        return reasons


def _ignore(*_: Any, **__: Any) -> None:
    """Do nothing in an event of a trainer."""


def _values(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a summary that are logged, without those that are undefined."""
    values = {
        "visage": summary["visage"]["paper"],
        "margin": (summary.get("margin") or {}).get("value"),
        "radius": summary["basin"]["radius"],
        "radius_at_least": summary["basin"]["censored_at"],
        "origin_asr": summary["origin_asr"],
    }
    return {name: float(value) for name, value in values.items() if value is not None}
