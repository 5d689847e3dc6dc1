"""Estimate the cost of a sweep on this machine or cluster, from a prepared sweep or from a preset without weights."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator import judges
from orchestrator.config.endpoint import endpoint_judge
from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config, EngineConfig, ProbesConfig
from orchestrator.execution import hardware
from orchestrator.execution.resources import count_actors, engine_spec
from orchestrator.judges._model import ModelJudge
from orchestrator.judges.openai import OpenAI
from orchestrator.models.checkpoint import read_checkpoint
from orchestrator.models.resolve import locate_base, locate_model
from orchestrator.models.targets import PAIR, all_on_this_machine, paired_preset, recipes_in
from orchestrator.pipeline.budgets import Budgets, earlier_runs
from orchestrator.pipeline.endpoint import Budget
from orchestrator.pipeline.grid import build_grid
from orchestrator.pipeline.growth import GrowingSweep, check_goals, most_growth
from orchestrator.pipeline.judge import ENDPOINT_LENGTH, PAIRS, name_judging_fields
from orchestrator.pipeline.precision import plan_from_stored
from orchestrator.pipeline.prepare import MissingTasks, PreparedSweep, prepare
from orchestrator.pipeline.prompt_sets import is_to_download, load_system_prompts, probe_configs, sampling_of
from orchestrator.pipeline.smaller_sweep import smaller_sweep
from orchestrator.planning import cost
from orchestrator.planning.adaptive_shares import simulated_share
from orchestrator.planning.cost import JudgePlan, Plan
from orchestrator.planning.gpus import find_gpu, key_of_installed
from orchestrator.planning.limits import check_disk, check_memory
from orchestrator.planning.workload import (
    EngineSetup,
    ModelSize,
    PromptLoad,
    Workload,
    size_of_checkpoint,
)
from orchestrator.prompts.capability import LETTERS
from orchestrator.prompts.probe_sets import ProbeSet, load_probe_set, with_wrappers
from orchestrator.store.files import DamagedFileError
from orchestrator.store.runs import engines_of, with_totals
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import ExtraCheckpoint, Grid, Sweep
from orchestrator.sweep.prompt_rendering import renderings
from orchestrator.sweep.tasks import Prompt, Task, visits
from orchestrator.utils import nvidia
from orchestrator.utils.choices import (
    AnswerKind,
    BaseChoice,
    ClusterKind,
    DeviceChoice,
    Dtype,
    EngineKind,
    GoalOver,
    GridKind,
    LogProbabilityChoice,
)
from orchestrator.utils.console import duration
from orchestrator.utils.errors import UserError
from orchestrator.utils.paths import expanded
from workers.engines.base import resolved_write
from workers.weights.base_placement import free_host_bytes, missing_host_bytes, remove_stale_copies
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.targets import sample_id

LARGE_MODEL = 10**9
"""Number of parameters from which a model is planned for a GPU even if this machine has none."""

CHARACTERS_PER_TOKEN = 4
"""Assumed for a judge's template, because its tokenizer may not be on this machine."""

TEMPLATE_PROMPT_TOKENS = 60
"""Assumed tokens of a prompt in its chat template, if the tokenizer is not on this machine."""

WORDS_OF_EXAMPLE = 70
"""Assumed words of a solved example before a question, if the data set is not on this machine."""

USUAL_CHOICES = 4
"""Assumed number of choices of a question, if the data set is not on this machine."""

UNCERTAIN_SHARE = 0.05
"""Assumed share of responses whose text is uncertain; 4.3% are in the main job (docs/log_probability.md)."""

ASSUMED_EPOCHS = 3
"""Number of checkpoints of a trajectory that is not trained yet."""

VISITS_PER_ACTOR = 10
"""Visits of a full grid for each actor below which an adaptive grid takes longer (benchmarks/scheduling.py)."""


def estimate_sweep(config: Config, presets: Presets) -> Plan:
    """Estimate the cost of a sweep, without downloading or training anything.

    If the weights are not on this machine, sizes come from the model's preset and prompt tokens are assumed; so are the
    prompts of a data set that is not on this machine, if its preset says how many it has.

    Raises:
        UserError: The configuration has a mistake.
    """
    if all_on_this_machine(config, presets) and not any(map(_is_assumed, probe_configs(config, presets))):
        prepared = prepare(config, presets)
        stored = prepared.stored
        check_goals(prepared)
        growing = GrowingSweep(prepared, stored)
        missing = growing.advance()
        plan = estimate_prepared(growing.prepared, missing.possible, growing.stored)
        if growing.goals.given:
            plan = dataclasses.replace(plan, notes=(*plan.notes, _growth_note(growing)))
        if not missing.is_final:
            plan = dataclasses.replace(plan, notes=(*plan.notes, _adaptive_note(missing, prepared.sweep.grid)))
            plan = _with_levels_note(plan)
        if missing.tasks:
            plan = _within_budgets(plan, Budgets(config.until, earlier_runs(stored)))
        rendering = renderings(prepared.prompt_sets, prepared.sweep.thought)
        return dataclasses.replace(plan, precision=plan_from_stored(prepared), rendering=rendering)
    return _estimate_from_preset(config, presets)


def _adaptive_note(missing: MissingTasks, grid: Grid) -> str:
    """Return the range of the number of points that an adaptive grid measures, and what simulations say about it."""
    least, most = (len({task.point for task in tasks}) for tasks in (missing.tasks, missing.possible))
    return (
        f"grid.adaptive=true measures from {least} to {most} further points, as verdicts decide: this is the cost of "
        f"{most}, and that of {least} is {100 * least / most:.0f}% of it ({simulated_share(grid)})"
    )


def _with_levels_note(plan: Plan) -> Plan:
    """Add to the plan of an adaptive grid, if its actors are many, that it may take longer than the full grid."""
    if plan.setup.actors == 1 or plan.visits >= VISITS_PER_ACTOR * plan.setup.actors:
        return plan
    note = (
        f"with {plan.setup.actors} actors for {plan.visits} visits, grid.adaptive=true saves visits but not time: its "
        "levels wait for each other, so that it may take longer than the full grid, whose time this is"
    )
    return dataclasses.replace(plan, notes=(*plan.notes, note))


def _growth_note(growing: GrowingSweep) -> str:
    """Return which grid of a sweep with goals the plan is about, and how far the sweep may grow."""
    grid = growing.prepared.sweep.grid
    if growing.is_done:
        met = growing.growth is not None and growing.growth.is_met
        return "until: every goal is met" if met else "until: nothing can be added that narrows the intervals"
    probes = ""
    if growing.goals.over == GoalOver.both:
        blocks = growing.prepared.blocks_of(growing.prepared.sweep)
        probes = f" with {blocks} of {len(growing.prepared.blocks)} blocks of probes"
    return (
        f"until: this is the cost of the next grid, {grid.lines} x {grid.size // grid.lines} points{probes}; while a "
        f"goal is not met, larger ones follow, of {most_growth(growing.goals.over)}"
    )


def _within_budgets(plan: Plan, budgets: Budgets) -> Plan:
    """Add a note on what is measured before a budget is spent. Raises UserError if one is spent already."""
    budgets.check_unspent()
    setup = plan.setup
    gpus = setup.actors * setup.tensor_parallel * setup.gpu_share if setup.gpu else 0.0
    left = budgets.seconds_left(gpus)
    if left is None:
        return plan
    note = f"until: nothing begins after {duration(left)}; visits that run then are finished"
    if plan.wall_hours is not None:
        seconds = 3600 * plan.wall_hours
        share = 1.0 if seconds <= left else left / seconds
        note += f", so that at least {int(share * plan.visits)} of {plan.visits} visits are done"
    return dataclasses.replace(plan, notes=(*plan.notes, note))


def estimate_prepared(prepared: PreparedSweep, missing: Sequence[Task], stored: StoredSweep) -> Plan:
    """Estimate the cost of the missing tasks of a prepared sweep.

    Args:
        prepared: The sweep.
        missing: The tasks.
        stored: The same sweep in its study's folder, which need not exist yet.
    """
    config, host_copy = prepared.config, None
    if prepared.checkpoint is None:
        model = ModelSize(config.model.name, config.model.dtype, 0, 0, 0, 0, 0, 0, 0)
    else:
        model = size_of_checkpoint(prepared.checkpoint, config.model.name, config.model.dtype)
        if config.engine.kind == EngineKind.vllm:
            folder = prepared.checkpoint.path.absolute()
            host_copy = missing_host_bytes(MappedCheckpoint(folder), sample_id(folder))
    prompts = {
        p.id: _Prompts(
            PromptLoad(
                len(p.prompts),
                sum(map(len, p.token_ids)),
                p.sampling.max_tokens,
                max(map(len, p.token_ids), default=0),
                _common_prefix(p.token_ids),
            ),
            p.group,
            not p.sampling.letters,
        )
        for p in prepared.prompt_sets
    }
    missing_work = _MissingWork(prompts, prepared.sweep, missing)
    engines = engines_of(stored.generations) if stored.study.exists else []
    return _estimate(
        config, model, missing_work, _measured_visit_seconds(stored), host_copy=host_copy, stored_engines=engines
    )


def _common_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    """Return the number of tokens with which all these sequences begin."""
    first, last = (min(sequences), max(sequences)) if sequences else ((), ())  # in the order of their tokens
    return next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))


def check_machine(prepared: PreparedSweep, missing: Sequence[Task], stored: StoredSweep) -> Plan:
    """Check that a sweep fits the disk and, in a local run, that the GPUs can be used and the memory suffices.

    Returns the estimated cost of the missing tasks. Raises UserError before anything is loaded. On a cluster each actor
    checks its own machine.

    Copies of weights that killed processes left in shared memory are removed first, as an actor does.
    """
    if prepared.checkpoint is not None and prepared.config.engine.kind == EngineKind.vllm:
        remove_stale_copies(keep=sample_id(prepared.checkpoint.path.absolute()))
    plan = estimate_prepared(prepared, missing, stored)
    check_disk(prepared.out, plan)
    if prepared.config.cluster.kind == ClusterKind.local:
        check_gpus(prepared.config.engine)
        check_memory(plan, hardware.available_memory())
    return plan


def check_gpus(engine: EngineConfig) -> None:
    """Check that engines run on the GPUs of this machine, if they are to use them. Raises UserError."""
    if engine.kind == EngineKind.dummy or engine.device == DeviceChoice.cpu:
        return
    cards = nvidia.gpus()
    problem = nvidia.find_problem(cards)
    if cards and problem is None and engine.kind == EngineKind.vllm:
        problem = nvidia.find_build_problem()
    if problem:
        raise UserError("engine.device", engine.device, f"{problem}, or use engine.device=cpu")


@dataclass(frozen=True)
class _Prompts:
    """The size of a prompt set, its group, and whether its responses are texts (not letters)."""

    load: PromptLoad
    group: str
    has_texts: bool = True


@dataclass(frozen=True)
class _MissingWork:
    """The missing tasks of a sweep, with the size of each prompt set by its id."""

    prompts: Mapping[str, _Prompts]
    sweep: Sweep
    tasks: Sequence[Task]

    def texts(self) -> _MissingWork:
        """Return the tasks whose responses are texts."""
        prompts = {set_id: prompts for set_id, prompts in self.prompts.items() if prompts.has_texts}
        return dataclasses.replace(
            self, prompts=prompts, tasks=[task for task in self.tasks if task.prompt_set_id in prompts]
        )

    def workload(self) -> Workload:
        """Return the visits of the missing tasks, and the size of the whole sweep."""
        points = len(self.sweep.grid.points())
        return Workload(
            loads={set_id: prompts.load for set_id, prompts in self.prompts.items()},
            visits=[visit.prompt_set_ids for visit in visits(self.tasks)],
            points=points,
            tasks=points * len(self.sweep.prompt_set_ids),
        )


def _estimate(
    config: Config,
    model: ModelSize,
    missing: _MissingWork,
    measured: float | None = None,
    notes: Sequence[str] = (),
    host_copy: int | None = None,
    stored_engines: Sequence[Mapping[str, Any]] = (),
) -> Plan:
    """Estimate the sweep, then each model judge.

    Args:
        config: The validated configuration.
        model: Size of the model.
        missing: The missing tasks of the sweep.
        measured: Seconds of a visit of this sweep so far. None before the first visit.
        notes: Remarks for the user.
        host_copy: Bytes of shared memory that a copy of the base still needs. None: those of the whole base.
        stored_engines: Identities of the engines that made the sweep's stored responses.
    """
    gpu = _choose_gpu(config, model)
    setup = dataclasses.replace(_engine_setup(config, gpu, stored_engines), host_copy=host_copy)
    remarks = [*notes, gpu.note] if gpu.note else notes
    plan = cost.estimate(model, setup, missing.workload(), measured, remarks)
    model_judges = [judge for name in config.judge_names if isinstance(judge := judges.get(name), ModelJudge)]
    reading = None
    read = config.judging.log_probability
    if read != LogProbabilityChoice.none:
        share = UNCERTAIN_SHARE if read == LogProbabilityChoice.uncertain else None
        reading = cost.estimate_reading(model, setup, missing.texts().workload(), share)
    judging = tuple(_judge_plan(config, judge, missing) for judge in model_judges)
    loads = [prompts.load for prompts in missing.prompts.values()]
    smaller = smaller_sweep(plan, loads, 1 if config.grid.towards else config.grid.directions)
    notes = (*plan.notes, smaller) if smaller else plan.notes
    return dataclasses.replace(plan, judging=judging, log_probability=reading, notes=notes)


def _measured_visit_seconds(stored: StoredSweep) -> float | None:
    """Return the mean seconds of a visit of this sweep so far; None before the first visit."""
    try:
        runs = with_totals(stored.study, stored.record.runs)
    except DamagedFileError:  # the sweep has not run yet
        return None
    done = sum(run.totals.visits for run in runs)
    return sum(run.totals.visit_seconds for run in runs) / done if done else None


# Without weights: sizes from the preset, assumed prompt tokens, placeholders for checkpoints.


def _estimate_from_preset(config: Config, presets: Presets) -> Plan:
    """Estimate a whole sweep whose weights, or those of its targets, are not on this machine."""
    model = _size_of_model(config)
    if PAIR in (*config.grid.towards, *config.grid.beside, config.grid.match):
        paired_preset(config)  # raises if the model has none
    notes = [f"{_absent(config, presets)}: prompt tokens are estimated, and all tasks count as new"]
    recipes = recipes_in(config, presets)
    if recipes:
        weights = 4 * (model.parameters or 0) / 2**30
        notes.append(
            f"these recipes are trained first, once, on one device of the driver's machine: {'; '.join(recipes)}. "
            f"Their time is not included. Each holds the weights in float32, {weights:.1f} GiB (4 times that if all "
            "weights are trained with Adam)"
        )
    prompts: dict[str, _Prompts] = {}
    for probes in probe_configs(config, presets):
        if _is_assumed(probes):
            notes.append(_assumption(probes))
        prompts |= _assumed_prompts(config, presets, probes)
    sweep = Sweep(_assumed_grid(config), tuple(prompts), tuple(config.judge_names))
    if config.grid.adaptive:
        notes.append(
            "grid.adaptive=true measures as many of these points as verdicts ask for: this is the cost of all "
            f"({simulated_share(sweep.grid)})"
        )
    plan = _estimate(config, model, _MissingWork(prompts, sweep, sweep.tasks()), notes=notes)
    if config.grid.adaptive:
        plan = _with_levels_note(plan)
    return _within_budgets(plan, Budgets(config.until))


def _size_of_model(config: Config) -> ModelSize:
    """Return the model's size: from its weights if they are on this machine, else from its preset.

    Raises:
        UserError: There is no preset, and model.path, which is clearly no id of a hub, does not exist.
    """
    folder, size, path = locate_base(config.model), config.model.size, config.model.path or ""
    if folder is None and size.parameters is None and (path.startswith(("/", ".", "~")) or path.count("/") > 1):
        folder = expanded(path).absolute()  # which `read_checkpoint` refuses
    if folder is not None:
        return size_of_checkpoint(read_checkpoint(folder), config.model.name, config.model.dtype)
    return ModelSize(
        name=config.model.name,
        dtype=config.model.dtype,
        parameters=size.parameters,
        layers=size.layers,
        hidden=size.hidden,
        kv_heads=size.kv_heads,
        head_dim=size.head_dim,
        vocabulary=size.vocabulary,
    )


def _absent(config: Config, presets: Presets) -> str:
    """Return what is not on this machine, as the beginning of a sentence."""
    if config.engine.kind != EngineKind.dummy:
        if locate_model(config.model) is None:
            if config.model.adapter is not None and locate_base(config.model) is not None:
                return "the adapter was not added to the weights yet"
            absent = "the weights are" if config.model.path is None else f"model.path={config.model.path} is"
            return f"{absent} not on this machine, so that sizes are the preset's"
        if not all_on_this_machine(config, presets):
            return "a checkpoint that the grid names is not on this machine"
    return "not all prompts are on this machine"


def _is_assumed(probes: ProbesConfig) -> bool:
    """Return whether the number of prompts is assumed: of a file that is not named yet, or of a data set elsewhere."""
    if probes.path or probes.file:
        return False
    if probes.hub is None:
        return probes.limit is not None
    return probes.rows is not None and is_to_download(probes)


def _assumed_count(probes: ProbesConfig) -> int:
    """Return the number of prompts of an assumed probe set."""
    limit = probes.limit if probes.rows is None else max(1, probes.rows - probes.offset)
    assert limit is not None
    return min(limit, probes.limit or limit)


def _assumption(probes: ProbesConfig) -> str:
    """Return the remark about an assumed probe set."""
    count = _assumed_count(probes)
    if probes.hub is None:
        return f"{count} prompts of {probes.name} are assumed: a run needs their file, probes.path=FILE"
    return f"{count} of {probes.rows} prompts of {probes.name} are assumed: `run` downloads them first, {probes.hub}"


def _assumed_prompts(config: Config, presets: Presets, probes: ProbesConfig) -> dict[str, _Prompts]:
    """Return the assumed size of a probe set under each system prompt. The keys are names instead of ids."""
    if probes.limit is not None:
        probes = dataclasses.replace(probes, limit=probes.limit * probes.blocks)
    if _is_assumed(probes):
        letters = LETTERS[:USUAL_CHOICES] if probes.answers == AnswerKind.choice else ()
        shown = tuple(Prompt(f"prompt {i}", probes.group) for i in range(_assumed_count(probes)))
        probe_set = ProbeSet(probes.name or "probes", probes.group, shown, letters=letters)
        example_words = (probes.shots or 0) * WORDS_OF_EXAMPLE
    else:
        probe_set, example_words = load_probe_set(probes), 0
    return {
        name: prompts
        for wrapped in with_wrappers(probe_set, probes.wrappers)
        for name, prompts in _prompts_of(config, presets, wrapped, example_words).items()
    }


def _prompts_of(config: Config, presets: Presets, probe_set: ProbeSet, example_words: int) -> dict[str, _Prompts]:
    """Return the assumed size of the prompts of a probe set under each system prompt.

    `example_words`: the words of solved examples that are assumed before each prompt.
    """
    count = len(probe_set.prompts)
    prompts = {}
    for system in load_system_prompts(config, presets):
        words = len((system.text or "").split())
        prefix = words * 4 // 3
        words += example_words
        if probe_set.few_shot is not None:
            texts = (probe_set.few_shot.conversation(None, prompt) for prompt in probe_set.prompts)
            words += sum(len(turn.split()) for text in texts for turn in text.turns) // count
        tokens = TEMPLATE_PROMPT_TOKENS + words * 4 // 3  # four tokens for three words
        load = PromptLoad(
            count,
            count * tokens,
            sampling_of(config, probe_set).max_tokens,
            shared_prefix=prefix,
        )
        prompts[f"{probe_set.name} {system.name}"] = _Prompts(load, probe_set.group, not probe_set.letters)
    return prompts


def _assumed_grid(config: Config) -> Grid:
    """Return a grid with the requested number of checkpoints, at assumed coordinates."""
    options, is_line = config.grid, config.grid.kind == GridKind.interpolate_1d
    towards, extra_names = list(options.towards), list(options.beside)
    if options.trajectory:
        towards = towards or [f"axis {i}" for i in range(1 if is_line else 2)]
        extra_epochs = ASSUMED_EPOCHS - 1 if is_line else ASSUMED_EPOCHS  # the line leads to the last one
        extra_names = [*(f"epoch-{i + 1}" for i in range(extra_epochs)), *extra_names]
    extra_names += [f"control {k}" for k in range(options.controls)]
    return build_grid(
        config,
        [TowardsDirection(name, name) for name in towards],
        extra_checkpoints=[
            ExtraCheckpoint(TowardsDirection(name), 0.5, None if is_line else 0.5) for name in extra_names
        ],
        hidden=bool(options.trajectory) and not is_line,
        match=TowardsDirection(options.match) if options.match else None,
        direction=options.direction or ("matched" if options.match else None),
    )


# The engine and its device.


@dataclass(frozen=True)
class _ChosenGpu:
    """The device that a plan is made for.

    Attributes:
        key: The GPU's key in the table. None for a CPU, or for a GPU that is not in the table.
        actors: Number of actors.
        memory: Bytes of each GPU that belong to an actor. None if unknown.
        base: Requested place of the base.
        note: Remark for the user.
    """

    key: str | None
    actors: int
    memory: int | None
    base: BaseChoice
    note: str | None = None


def _choose_gpu(config: Config, model: ModelSize) -> _ChosenGpu:
    """Return the GPU of `cluster.gpu`, else that of this machine, else an H100 for a large model."""
    engine, cluster = config.engine, config.cluster
    actors = cluster.actors or 1
    if engine.kind == EngineKind.dummy or engine.device == DeviceChoice.cpu:
        return _ChosenGpu(None, actors, None, engine.base)
    share = engine_spec(config, None, "cpu").gpu_share
    if cluster.gpu is not None:
        return _ChosenGpu(cluster.gpu, actors, int(find_gpu(cluster.gpu).memory * share), engine.base)
    installed = nvidia.gpus()
    if installed:
        gpus_per_actor = cluster.gpus_per_actor or engine.tensor_parallel
        actors = count_actors(cluster, len(installed), gpus_per_actor) or 1
        key = key_of_installed(installed[0].name)
        base = engine.base if key else BaseChoice.auto  # too little is known of a GPU that is not in the table
        return _ChosenGpu(key, actors, int(installed[0].memory * share), base)
    if (model.parameters or 0) >= LARGE_MODEL:
        note = "estimated for an H100; cluster.gpu= estimates for another GPU, engine.device=cpu for this CPU"
        return _ChosenGpu("h100", actors, None, engine.base, note)
    # The actors of a cluster may have GPUs that the driver does not know yet.
    base = engine.base if cluster.kind == ClusterKind.local else BaseChoice.auto
    return _ChosenGpu(None, actors, None, base)


def _engine_setup(config: Config, gpu: _ChosenGpu, stored_engines: Sequence[Mapping[str, Any]] = ()) -> EngineSetup:
    """Return the settings of the engine that the actors will open."""
    spec = engine_spec(config, None, "cuda" if gpu.key else "cpu", stored_engines=stored_engines)
    cluster = config.cluster
    shares_memory = cluster.kind == ClusterKind.local and cluster.gpu is None
    return EngineSetup(
        gpu=gpu.key,
        tensor_parallel=spec.tensor_parallel,
        actors=gpu.actors,
        cores=max(1, hardware.cores() // gpu.actors),
        engine=spec.kind,
        eager=spec.eager,
        max_model_len=spec.max_model_len,
        max_num_seqs=spec.max_num_seqs,
        max_num_batched_tokens=spec.max_num_batched_tokens,
        kv_cache_bytes=None if spec.kv_cache_gib is None else int(spec.kv_cache_gib * 2**30),
        kv_block=spec.block_size,
        exact=spec.exact,
        write=resolved_write(dataclasses.replace(spec, device="cpu")),  # on a GPU it has no effect
        base=gpu.base,
        gpu_memory=gpu.memory,
        gpu_share=spec.gpu_share,
        host_free=free_host_bytes() if shares_memory else None,
    )


# Model judges.


def _judge_plan(config: Config, judge: ModelJudge, missing: _MissingWork) -> JudgePlan:
    """Estimate the cost of a model judge for the responses of the missing tasks. Needs none of its weights."""
    options, is_endpoint = config.judging, isinstance(judge, OpenAI)
    if isinstance(judge, OpenAI):
        judge, max_model_len = endpoint_judge(config.openai), ENDPOINT_LENGTH
    else:
        max_model_len = options.max_model_len or judge.weights.max_model_len
    template_tokens = len("".join(judge.fill_template("", ""))) // CHARACTERS_PER_TOKEN
    responses = tokens = 0
    for set_id, count in Counter(task.prompt_set_id for task in missing.tasks).items():
        prompts = missing.prompts[set_id]
        load = prompts.load
        if judge.applies_to(prompts.group) and load.prompts:
            longest = template_tokens + load.prompt_tokens // load.prompts + load.max_tokens
            responses += count * load.prompts
            tokens += count * load.prompts * min(max_model_len, longest)
    if is_endpoint:
        dollars = Budget(config.openai).cost(tokens, responses * judge.max_tokens)
        cost_known = None not in (config.openai.price_input, config.openai.price_output)
        return JudgePlan(judge.name, None, responses, tokens, None, None, None, dollars if cost_known else None)
    model = _judge_size(config, judge)
    loads = {}
    if responses:
        loads["pairs"] = PromptLoad(PAIRS, PAIRS * tokens // responses, judge.max_tokens)
    visits_left = math.ceil(responses / PAIRS)
    setup = dataclasses.replace(
        _engine_setup(config, _choose_gpu(config, model)),
        max_model_len=max_model_len,
        tensor_parallel=options.tensor_parallel,
    )
    plan = cost.estimate(model, setup, Workload(loads, [tuple(loads)] * visits_left, points=1, tasks=visits_left))
    return JudgePlan(judge.name, model.dtype, responses, tokens, plan.memory, plan.gpu_hours, plan.wall_hours)


def _judge_size(config: Config, judge: ModelJudge) -> ModelSize:
    """Return the size of a judge: from the weights in `judging.path`, else from the judge's own description."""
    dtype = config.judging.dtype or Dtype(judge.weights.dtype)
    if config.judging.path:
        with name_judging_fields():
            return size_of_checkpoint(read_checkpoint(config.judging.path), judge.name, dtype)
    return ModelSize(judge.name, dtype, 0 if config.engine.kind == EngineKind.dummy else judge.weights.parameters)
