"""The stage that measures the log-probabilities of stored responses under the unperturbed model (at the origin).

`run` does it with the actors of the sweep after the last visit, `judge` with actors of its own. Every batch is stored
when it is done, so that a later call measures only what is missing. Nothing that was measured before changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rich.console import Console

from orchestrator.config.compose import compose
from orchestrator.config.schema import Config
from orchestrator.execution.progress import ProgressDisplay, redirect_output
from orchestrator.execution.resources import dispatch_policy, engine_spec
from orchestrator.models.resolve import ResolvedModel, ensure_on_this_machine, locate_model, resolve_model
from orchestrator.pipeline.work import SweepWork
from orchestrator.scoring.log_probability import SweepLogProbabilities
from orchestrator.scoring.panel import degeneracy_judge, first_text_judge
from orchestrator.scoring.text_judges import score_missing
from orchestrator.store.parts import TaskKey
from orchestrator.store.runs import engines_of, new_run_name
from orchestrator.store.study import StudyInfo
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.store.uploads import LogUploads
from orchestrator.sweep.continuations import Continuation, ContinuationBatch
from orchestrator.utils.choices import EngineKind, LogProbabilityChoice
from orchestrator.utils.errors import UserError
from workers.noise.definition import NOISE_VERSION

logger = logging.getLogger(__name__)

BATCH = 64
"""Number of continuations in a batch. An interruption loses at most the batches that actors work on."""

OMITTED_OPTIONS = ("out", "name", "retry", "judge", "judges", "sampling.early_stop")
"""Options of a sweep's first run that do not affect its model or engine, and are not repeated."""


def unmeasured(
    stored: StoredSweep, chosen: LogProbabilityChoice, tasks: Collection[TaskKey] | None = None
) -> list[Continuation]:
    """Return the different continuations among a sweep's stored responses that have no log-probability yet.

    Missing verdicts of the judge of degeneracy and of the first judge (if it judges texts) are stored first, because
    responses are found by them and they show which texts are already decided.

    Args:
        stored: The sweep.
        chosen: Which responses should have one.
        tasks: The tasks to consider. None: all stored tasks of the sweep.
    """
    if chosen == LogProbabilityChoice.none or not stored.study.exists:
        return []
    parts = {key: part for key, part in stored.generations.items() if tasks is None or key in tasks}
    for judge in (degeneracy_judge(stored), first_text_judge(stored)):
        if judge is not None:
            score_missing(stored, judge, parts)
    return SweepLogProbabilities(stored).unmeasured(parts, chosen)


def measure_after(
    stored: StoredSweep, chosen: LogProbabilityChoice, tasks: Collection[TaskKey] | None = None
) -> Callable[[], Sequence[ContinuationBatch]]:
    """Return a function that, once all visits of a dispatch are done, returns the batches to measure."""

    def batches() -> Sequence[ContinuationBatch]:
        if chosen == LogProbabilityChoice.none:  # do not read the store
            return ()
        stored.refresh()
        return _batches(unmeasured(stored, chosen, tasks))

    return batches


def _batches(continuations: Sequence[Continuation]) -> list[ContinuationBatch]:
    starts = range(0, len(continuations), BATCH)
    return [ContinuationBatch(tuple(continuations[start : start + BATCH])) for start in starts]


def measure_stored(
    config: Config,
    stored: StoredSweep,
    console: Console,
    overrides: Sequence[str] = (),
    config_dir: str | None = None,
) -> bool:
    """Measure the missing log-probabilities of a stored sweep with actors of its own; return whether it was stopped.

    Without the weights of the sweep's model on this machine nothing is measured, and a message says so.

    Args:
        config: The call's options: which responses to measure, and the cluster.
        stored: The sweep.
        console: Where progress is shown.
        overrides: The call's overrides, which take precedence over those of the sweep's first run.
        config_dir: The user's own presets.

    Raises:
        UserError: An actor cannot run.
    """
    missing = unmeasured(stored, config.judging.log_probability)
    if not missing:
        return False
    try:
        model_config, model = _resident_model(stored, overrides, config_dir)
    except UserError as error:
        logger.warning(
            "%d different responses have no log-probability under the unperturbed model, which needs an engine: %s",
            len(missing),
            error,
        )
        return False
    return _run(model_config, model, stored, _batches(missing), console)


def _resident_model(
    stored: StoredSweep, overrides: Sequence[str], config_dir: str | None
) -> tuple[Config, ResolvedModel | None]:
    """Return the configuration of the sweep's engine and its model. The model is None for the dummy engine.

    Raises:
        UserError: The model is not on this machine, or is not that of the study.
    """
    named = {_option(text) for text in overrides}
    kept = [
        text
        for text in stored.record.overrides
        if _option(text) not in (*named, *OMITTED_OPTIONS) and not _option(text).startswith("cluster")
    ]
    model_overrides = [text for text in overrides if _option(text) not in ("judge", "judges")]
    config = compose([*kept, *model_overrides], config_dir)
    model: ResolvedModel | None = None
    fingerprint, dtype = "dummy", str(config.model.dtype)
    if config.engine.kind != EngineKind.dummy:
        if locate_model(config.model) is None:
            raise UserError(
                "model", config.model.name, "its weights are not on this machine: `models NAME` fetches them"
            )
        model = resolve_model(config.model)
        fingerprint, dtype = model.fingerprint, model.dtype
    if StudyInfo(config.model.name, fingerprint, dtype, NOISE_VERSION).id != stored.study.id:
        remedy = f"is not the model of this study, {stored.study.info.model}: name it with model= or model.path="
        raise UserError("model", config.model.name, remedy)
    return config, model


def _option(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _run(
    config: Config,
    model: ResolvedModel | None,
    stored: StoredSweep,
    batches: Sequence[ContinuationBatch],
    console: Console,
) -> bool:
    """Measure these batches on a cluster. Returns whether it was interrupted."""
    from orchestrator.execution import cluster
    from orchestrator.execution.dispatch import Dispatcher
    from orchestrator.execution.session_watch import watched
    from orchestrator.execution.setup import DispatchSetup

    run = new_run_name()
    events = stored.study.events(run)
    with (
        LogUploads(stored.folder, run),
        redirect_output(console, stored.folder.log_path(run)) as terminal,
        ProgressDisplay(0, terminal) as display,
        cluster.session(cluster.ClusterSpec.from_config(config.cluster), stored.folder.ray_logs_path(run)),
        watched(terminal),
    ):
        if model is not None:
            cluster.run_on_other_nodes(ensure_on_this_machine, config.model, model.path)

        def observe(event: str, **fields: Any) -> None:
            events.write(event, **fields)
            display.observe(event, **fields)

        def check_actor(description: Mapping[str, Any]) -> None:
            """Admit every actor: rows state the engine that measured them."""

        spec = engine_spec(config, model, cluster.device(), stored_engines=engines_of(stored.generations))
        policy = dispatch_policy(config, spec, cluster.gpus(), cluster.cores_of_smallest_node())
        setup = DispatchSetup(stored.study, spec, policy, check_actor, observe)
        return Dispatcher(setup).run([], {}, [], SweepWork(lambda: batches)).interrupted
