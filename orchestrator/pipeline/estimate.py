"""What a request takes, held against the machine: plan.py fed from a prepared request or, without weights, a preset."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from orchestrator import judges
from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config
from orchestrator.execution import hardware
from orchestrator.execution.resources import count_actors, engine_spec
from orchestrator.judges._model import ModelJudge
from orchestrator.models.checkpoint import read_checkpoint
from orchestrator.models.resolve import locate_model
from orchestrator.models.targets import PAIR, all_on_this_machine, paired_preset, recipes_in
from orchestrator.pipeline import prepare as request
from orchestrator.pipeline.judge import PAIRS, of_the_judge
from orchestrator.pipeline.prepare import Prepared
from orchestrator.planning import cost as plan
from orchestrator.planning.cost import Judging, Load, ModelSize, Plan, Room
from orchestrator.prompts.probe_sets import ProbeSet
from orchestrator.store.runs import totals
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.grid import Beside, Grid, Sweep
from orchestrator.sweep.points import TowardsDirection
from orchestrator.sweep.tasks import Prompt, Task, visits
from orchestrator.utils.choices import BaseChoice
from workers.engines.base import resolved_write
from workers.weights.base_placement import free_host_bytes, missing_host_bytes, remove_stale_copies
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.targets import Target, sample_id

LARGE = 10**9  # parameters from which nobody means a CPU
CHARACTERS = 4  # of a judge's template, a token


def price(config: Config, presets: Presets) -> Plan:
    """What the sweep will take. Fetches and trains nothing: without weights here, sizes come from the preset."""
    if config.engine.kind == "dummy" or all_on_this_machine(config, presets):
        prepared = request.prepare(config, presets)
        missing = request.missing(prepared, prepared.study, config.cluster.part, config.retry == "failed").tasks
        return of(prepared, missing)
    size = config.model.size
    model = ModelSize(
        name=config.model.name,
        dtype=config.model.dtype,
        parameters=size.parameters,
        layers=size.layers,
        hidden=size.hidden,
        kv_heads=size.kv_heads,
        head_dim=size.head_dim,
        vocabulary=size.vocabulary,
    )
    if PAIR in (*config.grid.towards, *config.grid.beside):
        paired_preset(config)
    what = "the weights are" if locate_model(config.model) is None else "what the grid goes towards is"
    notes = [f"{what} not here: prompt tokens are estimated, sizes are the preset's, all tasks count as new"]
    if trained := recipes_in(config, presets):
        weights = 4 * (size.parameters or 0) / 2**30
        notes.append(
            f"finetunings come first, once, on one device beside the driver: {'; '.join(trained)}. Their time is not "
            f"in this. Each holds the weights in float32, {weights:.1f} GiB (whole weights with Adam: 4 times that)"
        )
    loads, groups = {}, {}
    for asked in _asked(config, presets, notes):
        for system in request.system_prompts(config, presets):
            length = plan.PROMPT_TOKENS + len((system.text or "").split()) * 4 // 3
            key = f"{asked.name} {system.name}"
            most = request.sampling(config, asked).max_tokens
            loads[key], groups[key] = Load(len(asked.prompts), len(asked.prompts) * length, most), asked.group
    sweep = Sweep(_guessed(config), tuple(loads), tuple(config.judge_names))
    return _estimate(config, model, loads, groups, sweep, sweep.tasks(), None, notes)


def _asked(config: Config, presets: Presets, notes: list[str]) -> list[ProbeSet]:
    """The questions; as many stand-ins as are asked for where their file is not named yet."""
    probes = config.probes
    if config.probe_sets or probes.path or probes.file or probes.limit is None:
        return request.probe_sets(config, presets)
    notes.append(f"{probes.limit} prompts of {probes.name} are assumed: a run takes their file, probes.path=FILE")
    stand_ins = tuple(Prompt(f"prompt {i}", probes.group) for i in range(probes.limit))
    return [ProbeSet(probes.name or "probes", probes.group, stand_ins)]


GUESSED_EPOCHS = 3  # of a trajectory that is not trained yet


def _guessed(config: Config) -> Grid:
    """The grid with as many checkpoints on and beside it as are asked for, wherever they will be."""
    asked, flat = config.grid, config.grid.kind == "interpolate_1d"
    names = asked.towards or [f"axis {i}" for i in range(1 if flat else 2) if asked.trajectory]
    epochs = [f"epoch-{i + 1}" for i in range(GUESSED_EPOCHS - flat) if asked.trajectory]
    beside = [Beside(TowardsDirection(name), 0.5, None if flat else 0.5) for name in [*epochs, *asked.beside]]
    towards = [Target(name, "checkpoint", name, name) for name in names]
    return request.grid(config, towards, beside=beside, hidden=bool(asked.trajectory) and not flat)


def of(prepared: Prepared, missing: Sequence[Task]) -> Plan:
    """What the missing tasks of a prepared request will take."""
    config = prepared.config
    if prepared.checkpoint is None:
        model = ModelSize(config.model.name, config.model.dtype, 0, 0, 0, 0, 0, 0, 0)
    else:
        model = plan.size_of(prepared.checkpoint, config.model.name, config.model.dtype)
    loads = {
        p.id: Load(len(p.prompts), sum(map(len, p.token_ids)), p.sampling.max_tokens) for p in prepared.prompt_sets
    }
    groups = {p.id: p.group for p in prepared.prompt_sets}
    copy = None
    if prepared.checkpoint is not None and config.engine.kind == "vllm":
        folder = prepared.checkpoint.path.absolute()
        copy = missing_host_bytes(MappedCheckpoint(folder), sample_id(folder))
    return _estimate(config, model, loads, groups, prepared.sweep, missing, _measured(prepared), [], copy)


def _estimate(
    config: Config,
    model: ModelSize,
    loads: dict[str, Load],
    groups: dict[str, str],
    sweep: Sweep,
    missing: Sequence[Task],
    measured: float | None,
    notes: list[str],
    host_copy: int | None = None,
) -> Plan:
    points = len(sweep.grid.points())
    priced = plan.estimate(
        model,
        dataclasses.replace(_room(config, model, notes), host_copy=host_copy),
        loads,
        [visit.prompt_set_ids for visit in visits(missing)],
        points=points,
        tasks=points * len(sweep.prompt_set_ids),
        measured=measured,
        notes=notes,
    )
    bench = [judge for name in config.judge_names if isinstance(judge := judges.get(name), ModelJudge)]
    return dataclasses.replace(priced, judging=tuple(_judging(config, j, loads, groups, missing) for j in bench))


def _judging(
    config: Config, judge: ModelJudge, loads: dict[str, Load], groups: dict[str, str], missing: Sequence[Task]
) -> Judging:
    """What a model judge will take for the responses of these tasks. Its weights may be nowhere near."""
    own = config.judging
    dtype = own.dtype or judge.weights.dtype
    if own.path:
        with of_the_judge():
            model = plan.size_of(read_checkpoint(own.path), judge.name, dtype)
    else:
        model = ModelSize(judge.name, dtype, 0 if config.engine.kind == "dummy" else judge.weights.parameters)
    longest = own.max_model_len or judge.weights.max_model_len
    around = len("".join(judge.pieces("", ""))) // CHARACTERS
    responses = tokens = 0
    for key, tasks in Counter(task.prompt_set_id for task in missing).items():
        load = loads[key]
        if judge.tells(groups[key]) and load.prompts:
            most = min(longest, around + load.prompt_tokens // load.prompts + load.max_tokens)
            responses += tasks * load.prompts
            tokens += tasks * load.prompts * most
    visits_left = -(-responses // PAIRS)
    asked = {"pairs": Load(PAIRS, PAIRS * tokens // responses, judge.max_tokens)} if responses else {}
    placed = dataclasses.replace(_room(config, model, []), max_model_len=longest, tensor_parallel=own.tensor_parallel)
    priced = plan.estimate(model, placed, asked, [tuple(asked)] * visits_left, points=1, tasks=visits_left)
    return Judging(judge.name, model.dtype, responses, tokens, priced.memory, priced.gpu_hours, priced.wall_hours)


def _room(config: Config, model: ModelSize, notes: list[str]) -> Room:
    cluster = config.cluster
    engine = engine_spec(config, None, "cpu")
    card, actors = cluster.gpu, cluster.actors or 1
    on_gpu = engine.kind == "vllm" and config.engine.device != "cpu"
    base, share, memory = engine.base, engine.gpu_share, None
    if card is None and on_gpu:
        here = hardware.gpus()
        if here:
            actors = count_actors(cluster, len(here), cluster.gpus_per_actor or engine.tensor_parallel) or 1
            card, memory = plan.nearest(here[0].name), int(here[0].memory * share)
        elif (model.parameters or 0) >= LARGE:
            card = "h100"
            notes.append("priced for an H100; cluster.gpu= prices for another GPU, engine.device=cpu for this CPU")
        if card is None and (here or cluster.kind != "local"):
            base = BaseChoice.auto  # of a GPU that is not in the table, or not known yet, nothing can be said
    elif card is not None and on_gpu:
        memory = int(plan.gpu(card).memory * share)
    kv = engine.kv_cache_gib
    return Room(
        gpu=card if on_gpu else None,
        tensor_parallel=engine.tensor_parallel,
        actors=actors,
        cores=max(1, hardware.cores() // actors),
        engine=engine.kind,
        eager=engine.eager,
        max_model_len=engine.max_model_len,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        kv_cache_bytes=None if kv is None else int(kv * 2**30),
        write=resolved_write(dataclasses.replace(engine, device="cpu")),
        base=base,
        gpu_memory=memory if on_gpu else None,
        host_free=free_host_bytes() if cluster.kind == "local" and cluster.gpu is None else None,
    )


def _measured(prepared: Prepared) -> float | None:
    """Seconds a visit of this very sweep took so far."""
    runs = totals(prepared.study, SweepFolder(prepared.study, prepared.folder).read_record().get("runs", []))
    done = sum(run.get("visits", 0) for run in runs)
    return sum(run.get("visit_seconds", 0.0) for run in runs) / done if done else None


def check_machine(prepared: Prepared, missing: Sequence[Task]) -> None:
    """Raises UserError where disk or memory will not do, before anything is loaded."""
    if prepared.checkpoint is not None and prepared.config.engine.kind == "vllm":  # as an actor does, before it asks
        remove_stale_copies(keep=sample_id(prepared.checkpoint.path.absolute()))
    priced = of(prepared, missing)
    plan.check_disk(prepared.out, priced)
    if prepared.config.cluster.kind == "local":
        plan.check_memory(priced, hardware.available_memory())
