"""First stage: turn a configuration into a sweep that can be run, and find out which of its tasks are missing.

This stage reports every mistake of the user. It writes nothing below `out` and loads no engine.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from orchestrator import judges
from orchestrator.analysis.growth import MOST_BLOCKS
from orchestrator.analysis.requested import Requested, failed_tasks, requested
from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config
from orchestrator.models.checkpoint import CheckpointInfo, read_checkpoint
from orchestrator.models.finite import check_finite
from orchestrator.models.resolve import ResolvedModel, resolve_model
from orchestrator.pipeline.checks import check_image_encoder, check_lengths, check_token_ids, lower_max_model_len
from orchestrator.pipeline.grid import resolve_grid
from orchestrator.pipeline.prompt_sets import (
    load_blocks,
    render,
    template_switches,
    warn_of_missing_template,
    warn_of_thoughts,
    without_duplicates,
)
from orchestrator.scoring.deciding import deciding_prompt_set
from orchestrator.store.discovery import stored_identity
from orchestrator.store.files import check_writable
from orchestrator.store.parts import TaskKey
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.store.working_copy import open_root, pull
from orchestrator.sweep.grid import Grid, Sweep
from orchestrator.sweep.target_geometry import TargetGeometry
from orchestrator.sweep.tasks import PromptSet, Task, assign_parts, parse_part
from orchestrator.utils.choices import EngineKind, GoalOver
from orchestrator.utils.console import file_progress
from workers.noise.definition import NOISE_VERSION
from workers.weights.targets import Target

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedSweep:
    """A sweep that can be run.

    Attributes:
        config: The validated configuration.
        model: The model's weights. None for the dummy engine.
        checkpoint: The config and headers of these weights. None for the dummy engine.
        targets: The checkpoints and adapters that directions of the sweep lead to.
        prompt_sets: The rendered prompts, block after block.
        blocks: The prompt sets of each block, those of `prompt_sets` first, and then those that goals may add.
        sweep: The grid, the prompt sets and the judges.
        info: The identity of the study.
        target_geometry: Distances of the targets from the model. None without targets.
    """

    config: Config
    model: ResolvedModel | None
    checkpoint: CheckpointInfo | None
    targets: tuple[Target, ...]
    prompt_sets: tuple[PromptSet, ...]
    sweep: Sweep
    info: StudyInfo
    target_geometry: TargetGeometry | None = None
    blocks: tuple[tuple[PromptSet, ...], ...] = ()

    @property
    def all_prompt_sets(self) -> tuple[PromptSet, ...]:
        """The prompt sets of all blocks."""
        return tuple(itertools.chain(*self.blocks)) or self.prompt_sets

    def blocks_of(self, sweep: Sweep) -> int:
        """Return the number of blocks of this sweep after it has grown."""
        return sum(all(prompts.id in sweep.prompt_set_ids for prompts in block) for block in self.blocks) or 1

    def grown_to(self, grid: Grid, blocks: int) -> PreparedSweep:
        """Return the sweep with another grid, and with this many blocks."""
        sets = tuple(itertools.chain(*self.blocks[:blocks])) or self.prompt_sets
        sweep = dataclasses.replace(self.sweep, grid=grid, prompt_set_ids=tuple(prompts.id for prompts in sets))
        return dataclasses.replace(self, sweep=sweep, prompt_sets=sets)

    @property
    def out(self) -> Path:
        """Folder of all studies."""
        return open_root(self.config.out)

    @property
    def stored(self) -> StoredSweep:
        """The sweep as it is stored. Its folder need not exist yet."""
        return StoredSweep(SweepFolder.of(Study.locate(self.out, self.info), self.sweep), self.sweep)


def prepare(config: Config, presets: Presets) -> PreparedSweep:
    """Prepare a sweep: read its probes, fetch and check its model, render its prompts, build its grid.

    Weights that are not on this machine are downloaded, and recipes that the grid names are trained.

    Raises:
        UserError: An option, a file or the model cannot be used as requested; the message says what to change.
    """
    check_writable(open_root(config.out))
    template_switches(config)  # before the model is fetched
    probe_sets = load_blocks(config, presets, _most_blocks(config))
    model, checkpoint = _resolve_checked_model(config)
    prompt_sets = render(config, presets, list(itertools.chain(*probe_sets)), model)
    warn_of_missing_template(prompt_sets, config.model.name)
    warn_of_thoughts(prompt_sets, config.model.thought)
    check_token_ids(checkpoint, prompt_sets)
    lower_max_model_len(config, checkpoint)
    check_lengths(config, checkpoint, prompt_sets)
    rendered = iter(prompt_sets)
    per_set = len(prompt_sets) // sum(map(len, probe_sets))  # one for each system prompt
    blocks = tuple(
        tuple(without_duplicates(list(itertools.islice(rendered, len(block) * per_set)))) for block in probe_sets
    )
    prompt_sets = list(itertools.chain(*blocks[: config.probes.blocks]))
    grid = resolve_grid(config, checkpoint, presets)
    if grid.grid.adaptive is not None:
        deciding_prompt_set(judges.get(grid.grid.adaptive.judge), prompt_sets)  # raises if there is none
    set_ids = tuple(prompts.id for prompts in prompt_sets)
    thought = next((prompts.thought for prompts in prompt_sets if prompts.thought), "")
    prepared = PreparedSweep(
        config=config,
        model=model,
        checkpoint=checkpoint,
        targets=grid.targets,
        prompt_sets=tuple(prompt_sets),
        sweep=Sweep(grid.grid, set_ids, tuple(config.judge_names), config.name or "sweep", thought),
        info=_study_info(config, model),
        target_geometry=grid.geometry,
        blocks=blocks,
    )
    pull(prepared.stored.study.root)
    return prepared


def _most_blocks(config: Config) -> int:
    """Return the number of blocks that are requested, or that goals over probes may come to use."""
    until = config.until
    grows = until.over == GoalOver.both and config.probes.limit is not None
    return max(config.probes.blocks, MOST_BLOCKS if grows else 1)


def _resolve_checked_model(config: Config) -> tuple[ResolvedModel | None, CheckpointInfo | None]:
    """Fetch the model and check its weights. Returns (None, None) for the dummy engine. Raises UserError."""
    if config.engine.kind == EngineKind.dummy:
        for name in ("path", "hub"):
            if value := getattr(config.model, name):
                logger.info("engine=dummy makes responses up: model.%s=%s is not used", name, value)
        return None, None
    model = resolve_model(config.model)
    checkpoint = read_checkpoint(model.path)
    check_image_encoder(config, checkpoint)
    with file_progress(f"the weights of {config.model.name}") as progress:
        check_finite(checkpoint, progress=progress)
    return model, checkpoint


def _study_info(config: Config, model: ResolvedModel | None) -> StudyInfo:
    if model is None:  # without weights, the name is all that tells models apart
        return StudyInfo(config.model.name, "dummy", config.model.dtype, NOISE_VERSION, "dummy")
    info = StudyInfo(model.name, model.fingerprint, model.dtype, NOISE_VERSION, model.source, model.revision)
    return stored_identity(open_root(config.out), info, config.study.mode)


@dataclass(frozen=True)
class MissingTasks:
    """The tasks of a sweep, or of a part of it, that have to be run.

    Attributes:
        total: Number of all tasks that the sweep or part asks for, including stored ones.
        tasks: The tasks to run.
        given_up: Tasks that earlier runs gave up and that will not be run again.
        possible: What `tasks` may become, as verdicts may add tasks to those of an adaptive grid. Otherwise `tasks`.
        requested: What the whole sweep asks for.
    """

    total: int
    tasks: list[Task]
    given_up: set[TaskKey]
    possible: list[Task]
    requested: Requested

    @property
    def is_final(self) -> bool:
        """True if verdicts add no tasks."""
        return len(self.possible) == len(self.tasks)


def find_missing(
    prepared: PreparedSweep,
    stored: StoredSweep,
    part: str | None = None,
    retry_failed: bool = False,
    given_up: Collection[TaskKey] = (),
) -> MissingTasks:
    """Return the tasks that a sweep asks for and that are not stored.

    Args:
        prepared: The sweep.
        stored: The same sweep in its study's folder, which need not exist yet.
        part: `i/n` for the i-th of n parts of the sweep. None for the whole sweep.
        retry_failed: Whether to run tasks again that earlier runs gave up.
        given_up: Further tasks, which a run in progress gave up.
    """
    needed = requested(stored, prepared.prompt_sets, retry_failed, given_up)
    tasks = needed.tasks
    if part is not None:
        i, n = parse_part(part)
        part_of_point = assign_parts(tasks, n)
        tasks = [task for task in tasks if part_of_point[task.point] == i]
    possible = tasks if needed.is_final else prepared.sweep.tasks()
    if not stored.study.exists:
        return MissingTasks(len(tasks), tasks, set(), possible, needed)
    missing = [task for task in tasks if task.key not in stored.generations]
    failed = {*given_up, *(() if retry_failed else failed_tasks(stored))} & {task.key for task in missing}
    to_run = [task for task in missing if task.key not in failed]
    if needed.is_final:
        return MissingTasks(len(tasks), to_run, failed, to_run, needed)
    possible = [task for task in possible if task.key not in stored.generations and task.key not in failed]
    return MissingTasks(len(tasks), to_run, failed, possible, needed)
