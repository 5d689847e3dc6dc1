"""From a configuration to a request that can be run: questions rendered, model found, every mistake said.

    Config --prepare--> Prepared: model, prompt sets, sweep, study --missing--> tasks

Nothing here writes below `out`, and nothing loads an engine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator import judges
from orchestrator.analysis import reducer as answers
from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config, ProbesConfig, SystemPromptConfig
from orchestrator.models import finetune
from orchestrator.models import resolve as models
from orchestrator.models.checkpoint import Checkpoint
from orchestrator.models.resolve import ResolvedModel
from orchestrator.models.targets import (
    TRAJECTORY,
    around,
    epochs,
    principal_ends,
    refuse_nan,
    refuse_no_length,
    refuse_twins,
    resolve_target,
)
from orchestrator.prompts import probe_sets as probes
from orchestrator.prompts import rendering as render
from orchestrator.prompts.probe_sets import ProbeSet
from orchestrator.store.files import check_writable
from orchestrator.store.parts import TaskKey
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.grid import Beside, Grid, Sweep
from orchestrator.sweep.points import DECIMALS, TowardsDirection
from orchestrator.sweep.tasks import PromptSet, Sampling, Task, parse_part, shares
from orchestrator.utils.console import reading
from orchestrator.utils.errors import UserError
from workers.noise.definition import NOISE_VERSION
from workers.weights.targets import TOWARDS_FIELD, Target

if TYPE_CHECKING:
    from workers.weights.geometry import Geometry

CROWD = 5  # prompt sets at each point, from which on `grid.crowded_steps` applies
PAIR = "pair"  # in grid.towards: the model's other half
BESIDE = "grid.beside"
STOPPING_GROUPS = ("harmful", "jailbreak")  # where a refusal is the answer, and settled by its first keyword


@dataclass(frozen=True)
class Prepared:
    """A request with all its mistakes found. `model` is None for the dummy engine."""

    config: Config
    model: ResolvedModel | None
    checkpoint: Checkpoint | None
    targets: tuple[Target, ...]
    prompt_sets: tuple[PromptSet, ...]
    sweep: Sweep
    info: StudyInfo
    around: Mapping[str, Any] = field(default_factory=dict)  # how the targets lie around the model (see `_told`)

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


def prepare(config: Config, presets: Presets, stream: TextIO) -> Prepared:
    """Everything that can be known before an engine is loaded. Fetches the model if need be, saying so to
    `stream`; writes nothing to `out`.

    Raises UserError for whatever the user has to mend.
    """
    check_writable(Path(config.out).expanduser())
    asked = probe_sets(config, presets)
    dummy = config.engine.kind == "dummy"
    model = None if dummy else models.resolve(config.model, stream)
    checkpoint = None if model is None else models.check(model.path)
    if checkpoint is not None:
        _check_encoder(config, checkpoint)
        with reading(stream, f"the weights of {config.model.name}") as progress:
            refuse_nan(checkpoint, progress=progress)
    prompt_sets = render.render(
        None if model is None else model.path,
        asked,
        system_prompts(config, presets),
        lambda probe_set: sampling(config, probe_set),
        config.model.template,
    )
    _check_length(config, checkpoint, prompt_sets)
    prompt_sets = _once(prompt_sets, stream)
    laid, towards, around = _grid_towards(config, checkpoint, presets, stream)
    sweep = Sweep(laid, tuple(p.id for p in prompt_sets), tuple(config.judge_names), config.name or "sweep")
    if model is None:
        info = StudyInfo(config.model.name, "dummy", config.model.dtype, NOISE_VERSION, "dummy")
    else:
        info = StudyInfo(model.name, model.fingerprint, model.dtype, NOISE_VERSION, model.source, model.revision)
    return Prepared(config, model, checkpoint, towards, tuple(prompt_sets), sweep, info, around)


def _once(prompt_sets: Sequence[PromptSet], stream: TextIO) -> list[PromptSet]:
    """Each prompt set once: to some models two system prompts are the same (a template without a default one)."""
    found: dict[str, PromptSet] = {}
    for prompts in prompt_sets:
        first = found.setdefault(prompts.id, prompts)
        if first is not prompts:
            names = (
                f"{first.probe_set} under {first.system_prompt}",
                f"{prompts.probe_set} under {prompts.system_prompt}",
            )
            print(f"{names[1]} is, to this model, {names[0]}: asked once, under that name", file=stream)
    return list(found.values())


def probe_sets(config: Config, presets: Presets) -> list[ProbeSet]:
    """The questions, in the order in which they were asked for."""
    if not config.probe_sets:
        return [probes.load(config.probes)]
    chosen = [presets.read("probes", name, ProbesConfig, "probe_sets") for name in config.probe_sets]
    chosen = [config.probes if each.name == config.probes.name else each for each in chosen]  # its path and column
    for each in chosen:
        each.limit, each.offset = config.probes.limit, config.probes.offset
    return [probes.load(each) for each in chosen]


def system_prompts(config: Config, presets: Presets) -> list[render.SystemPrompt]:
    """The system prompts, in the order in which they were asked for."""
    chosen = [config.system_prompt]
    if config.system_prompts:
        chosen = [
            presets.read("system_prompt", name, SystemPromptConfig, "system_prompts") for name in config.system_prompts
        ]
    return [render.SystemPrompt(each.name, each.text, each.template) for each in chosen]


def sampling(config: Config, probe_set: ProbeSet) -> Sampling:
    """How responses to a probe set are drawn: early stopping belongs to groups that are to be refused, and a choice
    takes a single token."""
    if probe_set.letters:
        return Sampling(1, (), probe_set.letters)
    stops = config.sampling.early_stop and probe_set.group in STOPPING_GROUPS
    return Sampling(config.sampling.max_tokens, judges.get(config.judge_names[0]).stops if stops else ())


def targets(field: str, config: Config, base: Checkpoint, presets: Presets, stream: TextIO) -> list[Target]:
    """What the names in a field (grid.towards or grid.beside) stand for, each held against the base: folders of
    checkpoints or adapters, presets, the model's `pair`, or recipes (`affirmative samples=50`), which are trained the
    first time that they are asked for."""
    found = []
    for name in config.grid.towards if field == TOWARDS_FIELD else config.grid.beside:
        folder, label = _target_folder(name, config, base, presets, stream)
        found.append(dataclasses.replace(_resolved(folder, base, stream, field, label), label=label))
    return found


def _resolved(folder: Path, base: Checkpoint, stream: TextIO, field: str = TOWARDS_FIELD, name: str = "") -> Target:
    with reading(stream, f"the weights of {name or folder.name}") as progress:
        return resolve_target(folder, base, progress, field)


def _around(base: Checkpoint, targets: Sequence[Target], exclude: Sequence[str], stream: TextIO) -> Geometry:
    with reading(stream, "how the weights lie around the model") as progress:
        return around(base, targets, exclude, progress)


def _target_folder(name: str, config: Config, base: Checkpoint, presets: Presets, stream: TextIO) -> tuple[Path, str]:
    """Where it lies, and what it is called."""
    folder = Path(name).expanduser()
    if folder.exists():
        return folder, folder.name
    if name == PAIR:
        name = other_half(config)
    if name in presets.options("model"):
        return models.resolve(compose([f"model={name}"], presets.own).model, stream).path, name
    if _is_recipe(name, presets):
        made = finetune.trained(name, base, config.model.template, presets, stream)
        adapter = made / finetune.ADAPTER
        return adapter if adapter.is_dir() else made / finetune.MODEL, name
    return folder, folder.name


def other_half(config: Config) -> str:
    """The preset that `pair` means. Raises UserError where the model has none."""
    if config.model.pair is None:
        field = BESIDE if PAIR in config.grid.beside else TOWARDS_FIELD
        remedy = f"{config.model.name} has no other half: name where to go, {field}=[PATH]"
        raise UserError(field, f"[{PAIR}]", remedy)
    return config.model.pair


def _is_recipe(name: str, presets: Presets) -> bool:
    """Whether this is a finetuning (`affirmative samples=50`): a folder of that name goes first."""
    return name.split(" ")[0] in presets.options("recipe") and not Path(name).expanduser().exists()


def _named(config: Config) -> list[str]:
    """All that the grid goes towards or has beside it."""
    asked = config.grid
    return [*filter(None, [asked.trajectory]), *asked.towards, *asked.beside]


def recipes_in(config: Config, presets: Presets) -> list[str]:
    """The finetunings among them."""
    return [name for name in _named(config) if _is_recipe(name, presets)]


def at_hand(config: Config, presets: Presets) -> bool:
    """Whether the model and all that the grid goes towards are here: nothing has to be fetched or trained."""
    place = models.locate(config.model)
    if place is None:
        return False
    for name in _named(config):
        if Path(name).expanduser().exists():
            continue
        preset = other_half(config) if name == PAIR else name
        if preset in presets.options("model"):
            if models.locate(compose([f"model={preset}"], presets.own).model) is None:
                return False
        elif _is_recipe(name, presets):
            folder, _ = finetune.folder_of(name, models.check(place), config.model.template, presets)
            if not folder.is_dir():
                return False
    return True


def trajectory(config: Config, base: Checkpoint, presets: Presets, stream: TextIO) -> list[Target]:
    """The checkpoints of the trajectory that is asked for, in order."""
    asked = config.grid.trajectory
    assert asked is not None
    folder = Path(asked).expanduser()
    if _is_recipe(asked, presets):
        folder = finetune.trained(asked, base, config.model.template, presets, stream)
    return [_resolved(path, base, stream, TRAJECTORY) for path in epochs(folder)]


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


Laid = tuple[Grid, tuple[Target, ...], Mapping[str, Any]]


def _grid_towards(config: Config, base: Checkpoint | None, presets: Presets, stream: TextIO) -> Laid:
    """The grid with everything it goes towards looked up and measured."""
    asked = config.grid
    if not (asked.towards or asked.trajectory or asked.beside):
        return grid(config), (), {}
    if base is None:
        shown = asked.trajectory or f"[{','.join(asked.towards or asked.beside)}]"
        field_ = TRAJECTORY if asked.trajectory else TOWARDS_FIELD
        raise UserError(field_, shown, "the dummy has no weights: name a model")
    chain = trajectory(config, base, presets, stream) if asked.trajectory else []
    others = targets(BESIDE, config, base, presets, stream)
    plane: tuple[float, float] | None = None
    told: dict[str, Any] = {}
    if chain and asked.kind == "interpolate_2d":
        walked = _around(base, chain, asked.exclude, stream)
        refuse_no_length(walked, chain, [TRAJECTORY] * len(chain))
        _, weights, share = walked.principal_axes()
        ends = principal_ends(base, chain, weights.tolist())
        axes = [dataclasses.replace(_resolved(end, base, stream), label=f"principal {end.name}") for end in ends]
        others, told = [*chain, *others], {"plane_share": share}
    elif chain:
        axes, others = chain[-1:], [*chain[:-1], *others]
    else:
        axes = targets(TOWARDS_FIELD, config, base, presets, stream)
    everything = [*axes, *others]
    named = len(everything) - len(asked.beside)
    fields = [TRAJECTORY if chain else TOWARDS_FIELD] * named + [BESIDE] * len(asked.beside)
    refuse_twins(everything, fields)
    found = _around(base, everything, asked.exclude, stream)
    refuse_no_length(found, everything, fields)
    spanning = 1 if asked.kind == "interpolate_1d" else len(axes)  # further lines are lines of their own
    if spanning == 2:
        eq4 = found.eq4()  # refuses what makes no plane
        plane = eq4 if asked.orthogonal and not chain else None
    beside = [
        Beside(TowardsDirection(target.fingerprint, target.label), *_place(found.gram, len(axes) + i, spanning, plane))
        for i, target in enumerate(others)
    ]
    if asked.trajectory and _is_recipe(asked.trajectory, presets):  # whose end is the last epoch
        told["recipes"] = {chain[-1].label: asked.trajectory}
    told |= {
        "base": found.base,
        "moved": found.moved,
        "lengths": {t.fingerprint: float(length) for t, length in zip(everything, found.lengths, strict=True)},
    }
    return grid(config, axes, plane, beside, hidden=bool(told.get("plane_share"))), tuple(everything), told


def _place(gram: Any, i: int, axes: int, plane: tuple[float, float] | None) -> tuple[float, float | None]:
    """The coordinates of the place nearest to displacement i on the line or plane of the first one or two (`axes`)."""
    import numpy as np

    pair = list(range(axes))
    a, *rest = (float(x) for x in np.linalg.solve(gram[np.ix_(pair, pair)], gram[pair, i]))
    if not rest:
        return round(a, DECIMALS), None
    c, s = plane or (0.0, 1.0)  # alpha d1 + beta s (d2 - c d1)
    return round(a + rest[0] * c, DECIMALS), round(rest[0] / s, DECIMALS)


def _check_encoder(config: Config, checkpoint: Checkpoint) -> None:
    """vLLM 0.32 imports torchvision for gemma3 beside its image encoder, though no image is ever shown to it."""
    needs = config.engine.kind == "vllm" and config.cluster.kind == "local"
    if needs and checkpoint.architecture == "Gemma3ForConditionalGeneration" and find_spec("torchvision") is None:
        remedy = "has an image encoder, for which vLLM needs torchvision, and that is not installed: install the one "
        raise UserError("model.path", checkpoint.path, f"{remedy}for your PyTorch, or take a model of text alone")


def _check_length(config: Config, checkpoint: Checkpoint | None, prompt_sets: Sequence[PromptSet]) -> None:
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
