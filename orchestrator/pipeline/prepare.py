"""From a configuration to a request that can be run: questions rendered, model found, every mistake said.

    Config --prepare--> Prepared: model, prompt sets, sweep, study --missing--> tasks

Nothing here writes below `out`, and nothing loads an engine.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator import judges
from orchestrator.analysis import reducer as answers
from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config, ProbesConfig, SystemPromptConfig
from orchestrator.models.checkpoint import CheckpointInfo, read_checkpoint
from orchestrator.models.finite import refuse_nonfinite
from orchestrator.models.geometry import measure_targets, refuse_zero_length
from orchestrator.models.resolve import ResolvedModel, resolve_model
from orchestrator.models.targets import BESIDE_FIELD, is_recipe, read_target, refuse_duplicates, resolve_targets
from orchestrator.models.trajectory import TRAJECTORY_FIELD, principal_axis_adapters, resolve_trajectory
from orchestrator.prompts.probe_sets import ProbeSet, load_probe_set
from orchestrator.prompts.rendering import SystemPrompt, render_prompt_sets
from orchestrator.store.files import check_writable
from orchestrator.store.parts import TaskKey
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.grid import Beside, Grid, Sweep
from orchestrator.sweep.points import DECIMALS, TowardsDirection
from orchestrator.sweep.target_geometry import TargetGeometry
from orchestrator.sweep.tasks import PromptSet, Sampling, Task, parse_part, shares
from orchestrator.utils.console import file_progress
from orchestrator.utils.errors import UserError
from workers.noise.definition import NOISE_VERSION
from workers.weights.targets import TOWARDS_FIELD, Target

logger = logging.getLogger(__name__)

CROWD = 5  # prompt sets at each point, from which on `grid.crowded_steps` applies
STOPPING_GROUPS = ("harmful", "jailbreak")  # where a refusal is the answer, and settled by its first keyword


@dataclass(frozen=True)
class Prepared:
    """A request with all its mistakes found. `model` is None for the dummy engine."""

    config: Config
    model: ResolvedModel | None
    checkpoint: CheckpointInfo | None
    targets: tuple[Target, ...]
    prompt_sets: tuple[PromptSet, ...]
    sweep: Sweep
    info: StudyInfo
    target_geometry: TargetGeometry | None = None  # None without targets

    @property
    def out(self) -> Path:
        return Path(self.config.out).expanduser()

    @property
    def study(self) -> Study:
        """Where the study is or would be."""
        return Study.locate(self.out, self.info)

    @property
    def folder(self) -> Path:
        """The sweep's folder in it."""
        return SweepFolder.of(self.study, self.sweep).path


def prepare(config: Config, presets: Presets) -> Prepared:
    """Everything that can be known before an engine is loaded. Fetches the model if need be; writes nothing to `out`.

    Raises UserError for whatever the user has to mend.
    """
    check_writable(Path(config.out).expanduser())
    asked = probe_sets(config, presets)
    dummy = config.engine.kind == "dummy"
    model = None if dummy else resolve_model(config.model)
    checkpoint = None if model is None else read_checkpoint(model.path)
    if checkpoint is not None:
        _check_encoder(config, checkpoint)
        with file_progress(f"the weights of {config.model.name}") as progress:
            refuse_nonfinite(checkpoint, progress=progress)
    prompt_sets = render_prompt_sets(
        None if model is None else model.path,
        asked,
        system_prompts(config, presets),
        lambda probe_set: sampling(config, probe_set),
        config.model.template,
    )
    _check_length(config, checkpoint, prompt_sets)
    prompt_sets = _once(prompt_sets)
    laid, towards, target_geometry = _grid_towards(config, checkpoint, presets)
    sweep = Sweep(laid, tuple(p.id for p in prompt_sets), tuple(config.judge_names), config.name or "sweep")
    if model is None:
        info = StudyInfo(config.model.name, "dummy", config.model.dtype, NOISE_VERSION, "dummy")
    else:
        info = StudyInfo(model.name, model.fingerprint, model.dtype, NOISE_VERSION, model.source, model.revision)
    return Prepared(config, model, checkpoint, towards, tuple(prompt_sets), sweep, info, target_geometry)


def _once(prompt_sets: Sequence[PromptSet]) -> list[PromptSet]:
    """Each prompt set once: to some models two system prompts are the same (a template without a default one)."""
    found: dict[str, PromptSet] = {}
    for prompts in prompt_sets:
        first = found.setdefault(prompts.id, prompts)
        if first is not prompts:
            names = (
                f"{first.probe_set} under {first.system_prompt}",
                f"{prompts.probe_set} under {prompts.system_prompt}",
            )
            logger.info("%s is the same to this model as %s: it is run once, under that name", names[1], names[0])
    return list(found.values())


def probe_sets(config: Config, presets: Presets) -> list[ProbeSet]:
    """The questions, in the order in which they were asked for."""
    if not config.probe_sets:
        return [load_probe_set(config.probes)]
    chosen = [presets.read("probes", name, ProbesConfig, "probe_sets") for name in config.probe_sets]
    chosen = [config.probes if each.name == config.probes.name else each for each in chosen]  # its path and column
    for each in chosen:
        each.limit, each.offset = config.probes.limit, config.probes.offset
    return [load_probe_set(each) for each in chosen]


def system_prompts(config: Config, presets: Presets) -> list[SystemPrompt]:
    """The system prompts, in the order in which they were asked for."""
    chosen = [config.system_prompt]
    if config.system_prompts:
        chosen = [
            presets.read("system_prompt", name, SystemPromptConfig, "system_prompts") for name in config.system_prompts
        ]
    return [SystemPrompt(each.name, each.text, each.template) for each in chosen]


def sampling(config: Config, probe_set: ProbeSet) -> Sampling:
    """How responses to a probe set are drawn: early stopping belongs to groups that are to be refused, and a choice
    takes a single token."""
    if probe_set.letters:
        return Sampling(1, (), probe_set.letters)
    stops = config.sampling.early_stop and probe_set.group in STOPPING_GROUPS
    return Sampling(config.sampling.max_tokens, judges.get(config.judge_names[0]).stops if stops else ())


def grid(
    config: Config,
    towards: Sequence[Target] = (),
    eq4: tuple[float, float] | None = None,
    beside: Sequence[Beside] = (),
    hidden: bool = False,
) -> Grid:
    """The grid as a pure value. `eq4`: what `Geometry.eq4` gives for a plane of two."""
    asked = config.grid
    plane = asked.kind not in ("random_1d", "interpolate_1d")
    crowded = max(1, len(config.probe_sets)) * max(1, len(config.system_prompts)) >= CROWD
    fewer = asked.plane_steps if plane else asked.crowded_steps if crowded else None
    return Grid(
        kind=asked.kind,
        steps=fewer or asked.steps,
        range=(asked.range[0], asked.range[1]),
        range_y=(asked.range_y[0], asked.range_y[1]) if asked.range_y else None,
        directions=asked.directions,
        seed=asked.seed,
        norm=asked.norm,
        exclude=tuple(asked.exclude),
        orthogonal=asked.orthogonal,
        towards=tuple(TowardsDirection(target.fingerprint, target.label) for target in towards),
        eq4=eq4,
        beside=tuple(beside),
        hidden=hidden,
    )


Laid = tuple[Grid, tuple[Target, ...], TargetGeometry | None]


def _grid_towards(config: Config, base: CheckpointInfo | None, presets: Presets) -> Laid:
    """The grid with everything it goes towards looked up and measured."""
    asked = config.grid
    if not (asked.towards or asked.trajectory or asked.beside):
        return grid(config), (), None
    if base is None:
        shown = asked.trajectory or f"[{','.join(asked.towards or asked.beside)}]"
        field = TRAJECTORY_FIELD if asked.trajectory else TOWARDS_FIELD
        raise UserError(field, shown, "the dummy has no weights: name a model")
    chain = resolve_trajectory(config, base, presets) if asked.trajectory else []
    others = resolve_targets(BESIDE_FIELD, config, base, presets)
    plane: tuple[float, float] | None = None
    plane_share: float | None = None
    if chain and asked.kind == "interpolate_2d":
        walked = measure_targets(base, chain, asked.exclude)
        refuse_zero_length(walked, chain, [TRAJECTORY_FIELD] * len(chain))
        _, weights, plane_share = walked.principal_axes()
        ends = principal_axis_adapters(base, chain, weights.tolist())
        axes = [
            dataclasses.replace(read_target(end, base, TOWARDS_FIELD), label=f"principal {end.name}") for end in ends
        ]
        others = [*chain, *others]
    elif chain:
        axes, others = chain[-1:], [*chain[:-1], *others]
    else:
        axes = resolve_targets(TOWARDS_FIELD, config, base, presets)
    everything = [*axes, *others]
    named = len(everything) - len(asked.beside)
    fields = [TRAJECTORY_FIELD if chain else TOWARDS_FIELD] * named + [BESIDE_FIELD] * len(asked.beside)
    refuse_duplicates(everything, fields)
    found = measure_targets(base, everything, asked.exclude)
    refuse_zero_length(found, everything, fields)
    spanning = 1 if asked.kind == "interpolate_1d" else len(axes)  # further lines are lines of their own
    if spanning == 2:
        eq4 = found.eq4()  # refuses what makes no plane
        plane = eq4 if asked.orthogonal and not chain else None
    beside = [
        Beside(TowardsDirection(target.fingerprint, target.label), *_place(found.gram, len(axes) + i, spanning, plane))
        for i, target in enumerate(others)
    ]
    recipes = {}
    if asked.trajectory and is_recipe(asked.trajectory, presets):
        recipes[chain[-1].label] = asked.trajectory  # the recipe's result is the last epoch
    lengths = {t.fingerprint: float(length) for t, length in zip(everything, found.lengths, strict=True)}
    geometry = TargetGeometry(found.base, found.moved, lengths, plane_share, recipes)
    return grid(config, axes, plane, beside, hidden=bool(plane_share)), tuple(everything), geometry


def _place(gram: Any, i: int, axes: int, plane: tuple[float, float] | None) -> tuple[float, float | None]:
    """The coordinates of the place nearest to displacement i on the line or plane of the first one or two (`axes`)."""
    import numpy as np

    pair = list(range(axes))
    a, *rest = (float(x) for x in np.linalg.solve(gram[np.ix_(pair, pair)], gram[pair, i]))
    if not rest:
        return round(a, DECIMALS), None
    c, s = plane or (0.0, 1.0)  # alpha d1 + beta s (d2 - c d1)
    return round(a + rest[0] * c, DECIMALS), round(rest[0] / s, DECIMALS)


def _check_encoder(config: Config, checkpoint: CheckpointInfo) -> None:
    """vLLM 0.32 imports torchvision for gemma3 beside its image encoder, though no image is ever shown to it."""
    needs = config.engine.kind == "vllm" and config.cluster.kind == "local"
    if needs and checkpoint.architecture == "Gemma3ForConditionalGeneration" and find_spec("torchvision") is None:
        remedy = "has an image encoder, for which vLLM needs torchvision, and that is not installed: install the one "
        raise UserError("model.path", checkpoint.path, f"{remedy}for your PyTorch, or take a model of text alone")


def _check_length(config: Config, checkpoint: CheckpointInfo | None, prompt_sets: Sequence[PromptSet]) -> None:
    limit = config.model.max_model_len
    made_for = None if checkpoint is None else checkpoint.config.get("max_position_embeddings")
    if isinstance(made_for, int) and limit > made_for:
        raise UserError("model.max_model_len", limit, f"the model was made for {made_for} tokens: lower it to that")
    longest = max((len(ids) for p in prompt_sets for ids in p.token_ids), default=0)
    if longest + config.sampling.max_tokens > limit:
        raise UserError(
            "model.max_model_len",
            limit,
            f"the longest prompt has {longest} tokens and its response may have {config.sampling.max_tokens}: "
            f"raise it to {longest + config.sampling.max_tokens}, or lower sampling.max_tokens",
        )


@dataclass(frozen=True)
class Missing:
    """What of a sweep, or of a part of it, is to be run. `given_up`: what earlier runs gave up, which stays undone."""

    total: int
    tasks: list[Task]
    given_up: set[TaskKey]


def missing(prepared: Prepared, study: Study, part: str | None = None, again: bool = False) -> Missing:
    """What is missing in the study. `part`: i/n, of that share of the sweep alone. `again`: what was given up is to be
    tried again."""
    tasks = prepared.sweep.tasks()
    if part is not None:
        i, n = parse_part(part)
        places = shares(tasks, n)
        tasks = [task for task in tasks if places[task.point] == i]
    if not study.exists:
        return Missing(len(tasks), tasks, set())
    stored = study.generations.stored()
    undone = [task for task in tasks if task.key not in stored]
    given_up = (
        set()
        if again
        else answers.given_up(SweepFolder(study, prepared.folder).read_record()) & {task.key for task in undone}
    )
    return Missing(len(tasks), [task for task in undone if task.key not in given_up], given_up)
