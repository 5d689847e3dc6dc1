"""Check a composed configuration for invalid values. Each error is one sentence: the option, its value, the remedy."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from typing import Any

from orchestrator import judges
from orchestrator.config.endpoint import endpoint_judge
from orchestrator.config.schema import ClusterConfig, Config, GridConfig, SlurmConfig
from orchestrator.judges import Judge, checked_verdict, first_text_judge
from orchestrator.judges.openai import JUDGE as OPENAI
from orchestrator.sweep.directions._seeded import seeded_kind
from orchestrator.sweep.tasks import parse_part
from orchestrator.utils.addresses import is_bucket
from orchestrator.utils.choices import ClusterKind, DeviceChoice, EngineKind, GoalOver, GridKind, StudyMode
from orchestrator.utils.errors import UserError

LARGEST = 2.0**53
"""Largest number of any option: larger whole numbers cannot be converted to floats exactly."""

LIMITS: Mapping[str, tuple[float, float]] = {
    "model.max_model_len": (1, math.inf),
    "grid.steps": (1, 10_000),
    "grid.seed": (-LARGEST, LARGEST),
    "grid.plane_steps": (1, math.inf),
    "grid.crowded_steps": (1, math.inf),
    "grid.mixed": (1, math.inf),
    "grid.controls": (0, math.inf),
    "grid.directions": (1, math.inf),
    "probes.limit": (1, math.inf),
    "probes.blocks": (1, 10_000),
    "probes.rows": (1, math.inf),
    "probes.offset": (0, math.inf),
    "probes.sample": (-LARGEST, LARGEST),
    "probes.shuffle": (-LARGEST, LARGEST),
    "probes.shots": (0, math.inf),
    "probes.max_mib": (1, math.inf),
    "sampling.max_tokens": (1, math.inf),
    "judging.max_model_len": (1, math.inf),
    "judging.tensor_parallel": (1, math.inf),
    "judging.rows": (1, math.inf),
    "judging.seed": (-LARGEST, LARGEST),
    "openai.max_tokens": (1, math.inf),
    "openai.concurrency": (1, 256),
    "openai.retries": (0, 100),
    "openai.timeout": (0.1, math.inf),
    "openai.price_input": (0, math.inf),
    "openai.price_output": (0, math.inf),
    "openai.max_cost": (0, math.inf),
    "engine.tensor_parallel": (1, math.inf),
    "engine.max_num_seqs": (1, math.inf),
    "engine.max_num_batched_tokens": (1, math.inf),
    "engine.kv_cache_gib": (0.001, math.inf),
    "engine.threads": (1, math.inf),
    "engine.seconds": (0, math.inf),
    "cluster.actors": (1, math.inf),
    "cluster.cpus_per_actor": (0, math.inf),
    "cluster.gpus_per_actor": (0, math.inf),
    "cluster.max_attempts": (1, math.inf),
    "cluster.deadline_floor": (0, math.inf),
    "cluster.min_tokens_per_second": (0.000001, math.inf),
    "cluster.load_limit": (1, math.inf),
    "cluster.wait_limit": (1, math.inf),
    "cluster.grace": (0, math.inf),
    "cluster.slurm.nodes": (1, math.inf),
    "cluster.slurm.gpus_per_node": (0, math.inf),
    "cluster.slurm.warning": (1, math.inf),
    "cluster.slurm.requeues": (0, math.inf),
    "cluster.slurm.port": (1, math.inf),
    "until.visage": (0.01, 50),
    "until.radius": (0.000001, math.inf),
    "until.minutes": (0.001, math.inf),
    "until.gpu_hours": (0.00001, math.inf),
    "report.max_generations": (0, math.inf),
    "report.target": (0.01, 50),
    "gate.visage": (0, 100),
    "gate.margin": (0, 100),
    "gate.origin_asr": (0, 100),
    "gate.radius": (0, math.inf),
    "view.port": (0, 65_535),
}
"""Option -> smallest and largest allowed number."""

TRIALS = (("Say hello.", "Hello! How can I help?"), ("Say hello.", ""))
"""Requests and responses on which a user's judge is tried before anything runs."""

_SBATCH_VALUE = re.compile(r"[\w./:,@%+=&|*()\[\]-]+", re.ASCII)


def validate(config: Config) -> None:
    """Raise UserError for the first invalid value, whether a preset or an override set it."""
    for key, (least, most) in LIMITS.items():
        _check_number(key, operator.attrgetter(key)(config), least, most)
    if not 0.5 < config.gate.confidence < 1.0:
        raise UserError("gate.confidence", config.gate.confidence, "must lie between 0.5 and 1, such as 0.95")
    _check_grid(config.grid)
    _check_cluster(config.cluster)
    for key in ("model.name", "probes.name", "system_prompt.name"):
        _check_printable(key, operator.attrgetter(key)(config))
    for key in ("judges", "probe_sets", "system_prompts"):
        _check_no_repeats(key, getattr(config, key))
    if is_bucket(config.out) and config.study.mode != StudyMode.private:
        remedy = f"has no meaning in {config.out}, where the bucket's policy decides who may read: leave it out"
        raise UserError("study.mode", config.study.mode, remedy)
    _check_judges(config)
    _check_adaptive(config)
    _check_until(config)
    thought = config.model.thought
    if not thought or thought != thought.strip():
        raise UserError(
            "model.thought", thought, "give auto, none, or the tag that closes a thought, such as '</think>'"
        )


def _check_number(key: str, value: float | None, least: float, most: float) -> None:
    most = min(most, LARGEST)
    if value is None or least <= value <= most:  # not so for NaN
        return
    if most < value < math.inf:
        raise UserError(key, value, f"must be at most {most:g}")
    raise UserError(key, value, f"must be at least {least:g}")


def _check_printable(key: str, name: str | None) -> None:
    if name is not None and not name.isprintable():
        raise UserError(key, ascii(name), "is shown and names files: leave out line breaks and control characters")


def _check_no_repeats(key: str, names: list[str]) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise UserError(key, _brackets(names), f"names {repeated} twice: name each once")


def _check_judges(config: Config) -> None:
    if OPENAI.name in config.judge_names:
        endpoint_judge(config.openai)
    chosen = [judges.get(name, "judges" if config.judges else "judge") for name in config.judge_names]
    for judge in chosen:
        if not (judge.applies_to("harmful") or judge.applies_to("benign")):
            remedy = "does not detect refusals; it always runs as well: use judge=keyword"
            raise UserError("judge", judge.name, remedy)
        if judge.source and judge.is_text:
            _try_judge(judge)
    stops = {judge.stops for judge in chosen}
    if config.sampling.early_stop and (len(stops) > 1 or not all(stops)):
        remedy = "need whole responses, and early stopping cuts them: add sampling.early_stop=false, or judge=keyword"
        raise UserError("judges", _brackets(config.judge_names), remedy)


def _try_judge(judge: Judge) -> None:
    """Raise UserError if a user's judge fails on a plain response, or on an empty one, rather than after hours."""
    for prompt, response in TRIALS:
        checked_verdict(judge, prompt, response)


# Grid.


def _check_adaptive(config: Config) -> None:
    """Check that a judge of texts decides which nodes an adaptive grid measures, and that the sweep is not in parts."""
    if not config.grid.adaptive:
        return
    if config.cluster.part is not None:
        remedy = "needs to know all points, and grid.adaptive=true chooses them on the way: leave out one of the two"
        raise UserError("cluster.part", config.cluster.part, remedy)
    if first_text_judge(config.judge_names) is None:
        remedy = "needs verdicts during the sweep, from a judge of texts of this program: add keyword to judges"
        raise UserError("grid.adaptive", "true", remedy)


def _check_until(config: Config) -> None:
    """Check that budgets can be spent, and that a sweep with goals or budgets is not in parts."""
    until = config.until
    part = config.cluster.part
    if until.over == GoalOver.both:
        if until.visage is None and until.radius is None:
            raise UserError("until.over", "both", "is about goals: give until.visage or until.radius, or leave it out")
        if config.grid.adaptive:
            remedy = "needs verdicts at every point, and grid.adaptive=true infers some: leave out one of the two"
            raise UserError("until.over", "both", remedy)
    for name in ("visage", "radius", "minutes", "gpu_hours"):
        if getattr(until, name) is None or part is None:
            continue
        why = "would have to count the time of all parts, which run by themselves"
        if name in ("visage", "radius"):
            why = "adds points as verdicts arrive, and a part is one of a known set of points"
        raise UserError("cluster.part", part, f"until.{name} {why}: leave out one of the two")
    without_gpus = config.engine.kind == EngineKind.dummy or config.engine.device == DeviceChoice.cpu
    if until.gpu_hours is not None and without_gpus:
        remedy = "this sweep runs without GPUs, so it would never be spent: use until.minutes"
        raise UserError("until.gpu_hours", f"{until.gpu_hours:g}", remedy)


def _check_grid(grid: GridConfig) -> None:
    _check_range("grid.range", grid.range)
    if grid.range_y is not None:
        _check_range("grid.range_y", grid.range_y)
        if not grid.kind.is_plane:
            remedy = "a line has no second axis: use grid=random_2d, or leave it out"
            raise UserError("grid.range_y", grid.range_y, remedy)
    _check_towards(grid)
    _check_direction(grid)
    if not all(grid.exclude):
        raise UserError("grid.exclude", grid.exclude, "an empty pattern is in every name: nothing would move")


def _check_range(key: str, bounds: list[float]) -> None:
    if len(bounds) != 2 or not all(map(math.isfinite, bounds)):
        raise UserError(key, bounds, "give two finite numbers, such as [-0.5,0.5]")
    if bounds[0] >= bounds[1]:
        raise UserError(key, bounds, "the first must be less than the second, such as [-0.5,0.5]")


def _check_direction(grid: GridConfig) -> None:
    """Check that the kind of the random directions exists, and that it has a checkpoint to match if it needs one."""
    if grid.match is not None and grid.kind != GridKind.random_1d:
        remedy = "gives random lines their lengths: use grid=random_1d, or leave it out"
        raise UserError("grid.match", grid.match, remedy)
    if grid.controls and grid.kind != GridKind.interpolate_1d:
        remedy = "are measured beside the end of a line toward a checkpoint: use grid=interpolate_1d, or leave it out"
        raise UserError("grid.controls", grid.controls, remedy)
    if grid.direction is None:
        return
    needs_reference = seeded_kind(grid.direction).needs_reference
    if needs_reference and grid.match is None and not grid.controls:
        raise UserError("grid.direction", grid.direction, "has the lengths of a checkpoint: add grid.match=CHECKPOINT")
    if (grid.match is not None or grid.controls) and not needs_reference:
        remedy = "has lengths of its own: leave it out, so that the checkpoint to match decides"
        raise UserError("grid.direction", grid.direction, remedy)


def _check_towards(grid: GridConfig) -> None:
    """Check that the grid names as many checkpoints as its kind has axes for."""
    if grid.kind in (GridKind.random_1d, GridKind.random_2d):
        _refuse_checkpoints(grid)
        return
    shown = _brackets(grid.towards)
    if grid.beside and grid.kind == GridKind.interpolate_random:
        raise UserError("grid.beside", _brackets(grid.beside), "needs grid=interpolate_1d or interpolate_2d")
    if grid.trajectory is not None:
        if grid.kind == GridKind.interpolate_random:
            remedy = "needs a line or a plane toward checkpoints: use grid=interpolate_1d or grid=interpolate_2d"
            raise UserError("grid.trajectory", grid.trajectory, remedy)
        if grid.towards:
            raise UserError("grid.towards", shown, "the grid goes toward the trajectory's end already: leave this out")
        return
    needed = {GridKind.interpolate_2d: 2, GridKind.interpolate_random: 1}.get(grid.kind)
    if not grid.towards or needed not in (None, len(grid.towards)):
        count = {None: "at least one folder or preset", 1: "one folder or preset", 2: "two folders or presets"}[needed]
        raise UserError("grid.towards", shown, f"{grid.kind} goes toward {count}, written grid.towards=[A,B]")
    _check_no_repeats("grid.towards", grid.towards)


def _refuse_checkpoints(grid: GridConfig) -> None:
    """Raise UserError if a random grid names a checkpoint."""
    named: dict[str, Any] = {
        "towards": _brackets(grid.towards) if grid.towards else None,
        "trajectory": grid.trajectory,
        "beside": grid.beside,
    }
    for key, value in named.items():
        if value:
            remedy = f"{grid.kind} does not go toward checkpoints: add grid=interpolate_1d, or leave this out"
            raise UserError(f"grid.{key}", value, remedy)


# Cluster.


def _check_cluster(cluster: ClusterConfig) -> None:
    parse_part(cluster.part)
    if cluster.kind == ClusterKind.slurm:
        _check_slurm(cluster.slurm, cluster.grace)
    elif cluster.dry_run:
        raise UserError("cluster.dry_run", "true", "prints the job of cluster=slurm; a sweep's dry run is `plan`")


def _check_slurm(slurm: SlurmConfig, grace: float) -> None:
    if slurm.warning < grace + 30:
        remedy = f"must be at least {grace + 30:g}: running visits get cluster.grace={grace:g} s of it"
        raise UserError("cluster.slurm.warning", slurm.warning, remedy)
    values = [(key, getattr(slurm, key)) for key in ("time", "partition", "account", "qos")]
    values += [("options", option) for option in slurm.options]
    for key, value in values:
        if value is not None and not _SBATCH_VALUE.fullmatch(value):
            raise UserError(
                f"cluster.slurm.{key}", value, "write it without spaces, quotes and other special characters"
            )
    malformed = next((option for option in slurm.options if not option.startswith("-")), None)
    if malformed is not None:
        raise UserError("cluster.slurm.options", malformed, 'write each as "--name=value", quoted')


def _brackets(names: list[str]) -> str:
    return f"[{','.join(names)}]"
