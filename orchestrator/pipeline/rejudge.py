"""The verb `judge`: judge a stored sweep again, by its own judges or by others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.console import Console

from orchestrator.config.schema import Config
from orchestrator.pipeline.log_probability import measure_stored
from orchestrator.pipeline.reduce import judge_and_reduce
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.store.verification import file_kind, log_damage
from orchestrator.utils.errors import ExitCode


def rejudge(
    config: Config,
    stored: StoredSweep,
    console: Console,
    overrides: Sequence[str] = (),
    config_dir: str | None = None,
) -> ExitCode:
    """Judge a stored sweep by its judges, then reduce and report it. Corrupt files are moved aside.

    Before that, missing log-probabilities are measured, if the sweep's model is on this machine.

    Args:
        config: The call's options.
        stored: The sweep.
        console: Where progress is shown.
        overrides: The call's overrides, from which the sweep's model and engine are composed.
        config_dir: The user's own presets.

    Returns:
        COMPLETE, FAILED_TASKS if a model judge gave no verdict on some responses, INTERRUPTED, or NOT_MET if files
        other than verdicts did not verify.

    Raises:
        UserError: A judge, or its weights, cannot be used.
    """
    study = stored.study
    study.moves_damaged = True
    config = dataclasses.replace(config, judges=list(stored.sweep.judges))
    interrupted = measure_stored(config, stored, console, overrides, config_dir)
    code = judge_and_reduce(config, stored, console, run_models=not interrupted)
    if interrupted:
        return ExitCode.INTERRUPTED
    if not study.problems or code == ExitCode.INTERRUPTED:
        return code
    log_damage(study)  # judge again, once, to replace damaged verdicts that were moved aside
    lost_more = any(file_kind(study, path) not in ("judgements", "log_probabilities") for path in study.problems)
    code = judge_and_reduce(config, stored, console)
    if lost_more and code == ExitCode.COMPLETE:
        return ExitCode.NOT_MET
    return code


def with_judges(stored: StoredSweep, names: tuple[str, ...]) -> StoredSweep:
    """Return and store the sweep with these judges instead of its own. The result is a separate sweep."""
    if names == stored.sweep.judges:
        return stored
    sweep = dataclasses.replace(stored.sweep, judges=names)
    other = StoredSweep(SweepFolder.of(stored.study, sweep), sweep)
    other.folder.write_record(dataclasses.replace(stored.record, sweep_id=sweep.id, request=sweep.to_json()))
    return other
