"""What a user can ask for, typed, and whether it makes sense. How it is composed of files and overrides: compose.py."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass, field
from typing import Any

from orchestrator.utils.errors import UserError, did_you_mean


@dataclass
class Size:
    """What `plan` knows of a model without its weights. Counts; null where unknown."""

    parameters: int | None = None
    layers: int | None = None
    hidden: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    vocabulary: int | None = None


@dataclass
class ModelConfig:
    """Which model, and where its weights come from: a folder, a hub at a pinned commit, or embedded."""

    name: str = ""
    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    architecture: str | None = None
    dtype: str = "bfloat16"  # float32 | bfloat16 | float16
    template: str = "tokenizer"  # the tokenizer's own chat template, `none`, or one of data/templates
    pair: str | None = None  # the preset before (or after) its alignment: what grid.towards=[pair] goes towards
    gated: bool = False
    embedded: bool = False
    license: str = ""
    max_model_len: int = 2048  # tokens of a prompt and its response
    size: Size = field(default_factory=Size)


@dataclass
class GridConfig:
    """Where to look: lines or planes of `steps` + 1 points an axis."""

    kind: str = "random_1d"
    steps: int = 20
    plane_steps: int | None = None  # of a plane, where a line's are too many
    crowded_steps: int | None = None  # of a line, where `steps` are too many for five prompt sets or more at each point
    range: list[float] = field(default_factory=lambda: [-0.5, 0.5])
    range_y: list[float] | None = None  # of the second axis; null: as the first
    directions: int = 3
    seed: int = 123
    norm: str = "layer"  # layer | filter | sigma
    exclude: list[str] = field(default_factory=lambda: ["norm"])  # tensors whose name contains one of these stay
    orthogonal: bool = True  # a second axis is made orthogonal to the first: random ones, or (Eq. 4) two checkpoints
    towards: list[str] = field(default_factory=list)  # checkpoints or adapters: folders, presets, `pair`, or recipes
    mixed: int = 100  # samples of +experiment=drag's finetuning that has as many refusals mixed in
    trajectory: str | None = None  # a folder of epoch-1, epoch-2, ..., or a recipe: walked to its end (or its plane)
    beside: list[str] = field(default_factory=list)  # more checkpoints to be measured and shown, as in `towards`


@dataclass
class ProbesConfig:
    """One file or data set of questions of one group."""

    name: str | None = None
    file: str | None = None  # one of data/probes
    path: str | None = None  # CSV, JSON, JSONL or Parquet; wins over the two others
    hub: str | None = None  # a data set of a hub
    revision: str | None = None  # of it: a commit
    subset: str | None = None  # of it, where it has several
    split: str = "train"  # of it
    where: str | None = None  # COLUMN=VALUE: the rows of it to take
    column: str = "text"
    group: str = "harmful"
    limit: int | None = None
    offset: int = 0
    category: str | None = None  # a column's name
    target: str | None = None  # a column's name
    wrapper: str | None = None  # put around each request, which stands where it says {request}
    prefill: str = ""  # what the response is made to begin with
    answers: str | None = None  # choice (by letter) | exact: questions with right answers, for the group capability
    skip_empty: bool = False  # leave out rows without text: a collection of attacks has some that were not found
    license: str = ""
    source: str = ""


@dataclass
class SystemPromptConfig:
    """`text` null: the model's own default, whatever its template makes of none."""

    name: str = "default"
    text: str | None = None
    template: str | None = None  # another than the model's, such as none


@dataclass
class SamplingConfig:
    """Greedy always. `early_stop`: a response ends where a keyword of the judge has settled the verdict."""

    max_tokens: int = 512
    early_stop: bool = False


@dataclass
class JudgingConfig:
    """The weights of a model judge, where they are not to be those it was made with."""

    path: str | None = None  # a folder; null: from the hub, at the judge's pinned commit
    dtype: str | None = None  # null: the judge's own
    max_model_len: int | None = None  # tokens of template, prompt, response and answer; null: the judge's own
    tensor_parallel: int = 1


@dataclass
class EngineConfig:
    """How responses are made."""

    kind: str = "vllm"  # vllm | transformers | dummy
    device: str = "auto"  # auto | cpu | cuda
    tensor_parallel: int = 1
    exact: bool = False  # each prompt set in a call of its own: extending a sweep changes no response
    mix: bool = False  # let one sweep hold rows of two engines
    eager: bool = True
    max_num_seqs: int = 128
    max_num_batched_tokens: int = 4096
    kv_cache_gib: float | None = None  # null: 1 on a CPU, on a GPU what is left
    threads: int | None = None
    base: str = "auto"  # auto | gpu | host | mmap: where the pristine weights wait between writes
    write: str = "auto"  # auto | inplace | repack: how a CPU's engine takes new weights; auto: as what is stored
    seconds: float = 0.0  # what a visit of the dummy takes


@dataclass
class SlurmConfig:
    """The job that `cluster=slurm` submits: nodes of its own, one Ray across them. Null: what the site's default is."""

    nodes: int = 1
    gpus_per_node: int = 1  # 0: nodes without GPUs
    time: str | None = None  # wall time, as sbatch takes it
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    options: list[str] = field(default_factory=list)  # more of sbatch's, such as ["--constraint=a100"]
    setup: list[str] = field(default_factory=list)  # shell commands that come first: ["module load cuda"]
    warning: int = 120  # seconds before the wall time at which the driver is told to stop
    requeues: int = 20  # how often a job that met its wall time goes back into the queue
    port: int = 6379  # of Ray's head


@dataclass
class ClusterConfig:
    """Where actors run."""

    kind: str = "local"  # local | ray | slurm
    address: str | None = None
    actors: int | None = None  # null: one a GPU (or a group of tensor_parallel GPUs), one on a CPU
    cpus_per_actor: float | None = None
    gpus_per_actor: float | None = None
    gpu: str | None = None  # plan: the GPU to price for
    max_attempts: int = 3  # a visit that failed so often is given up
    deadline_floor: float = 120.0  # seconds
    grace: float = 30.0  # seconds that running visits get after Ctrl-C
    part: str | None = None  # i/n: only the i-th of n shares of the sweep, for a job array
    dry_run: bool = False  # slurm: print the job script, submit nothing
    slurm: SlurmConfig = field(default_factory=SlurmConfig)


@dataclass
class ReportConfig:
    """What report.html holds of the responses. In no identity."""

    reveal: bool = False  # whole responses instead of their first words
    max_generations: int = 50_000  # more are sampled, by prompt


@dataclass
class Config:
    """One sweep and how to run it."""

    model: ModelConfig = field(default_factory=ModelConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    probe_sets: list[str] = field(default_factory=list)  # several at once, by name; instead of `probes`
    system_prompt: SystemPromptConfig = field(default_factory=SystemPromptConfig)
    system_prompts: list[str] = field(default_factory=list)  # several at once, by name; instead of `system_prompt`
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    judge: str = "keyword"
    judges: list[str] = field(default_factory=list)  # several at once; instead of `judge`
    judging: JudgingConfig = field(default_factory=JudgingConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    out: str = "studies"  # the root of all studies
    name: str | None = None  # of the sweep's folder; null: the grid's kind
    retry: str | None = None  # failed: try again what was given up

    @property
    def judge_names(self) -> list[str]:
        return self.judges or [self.judge]


CHOICES = {
    "model.dtype": ("float32", "bfloat16", "float16"),
    "judging.dtype": (None, "float32", "bfloat16", "float16"),
    "grid.kind": ("random_1d", "random_2d", "interpolate_1d", "interpolate_2d", "interpolate_random"),
    "grid.norm": ("layer", "filter", "sigma"),
    "engine.kind": ("vllm", "transformers", "dummy"),
    "engine.device": ("auto", "cpu", "cuda"),
    "engine.base": ("auto", "gpu", "host", "mmap"),
    "engine.write": ("auto", "inplace", "repack"),
    "probes.answers": (None, "choice", "exact"),
    "cluster.kind": ("local", "ray", "slurm"),
    "retry": (None, "failed"),
}
AT_LEAST = {
    "model.max_model_len": 1,
    "grid.steps": 1,
    "grid.plane_steps": 1,
    "grid.crowded_steps": 1,
    "grid.mixed": 1,
    "grid.directions": 1,
    "probes.limit": 1,
    "probes.offset": 0,
    "sampling.max_tokens": 1,
    "judging.max_model_len": 1,
    "judging.tensor_parallel": 1,
    "engine.tensor_parallel": 1,
    "engine.max_num_seqs": 1,
    "engine.max_num_batched_tokens": 1,
    "engine.kv_cache_gib": 0.001,
    "engine.threads": 1,
    "engine.seconds": 0,
    "cluster.actors": 1,
    "cluster.cpus_per_actor": 0,
    "cluster.gpus_per_actor": 0,
    "cluster.max_attempts": 1,
    "cluster.deadline_floor": 0,
    "cluster.grace": 0,
    "cluster.slurm.nodes": 1,
    "cluster.slurm.gpus_per_node": 0,
    "cluster.slurm.warning": 1,
    "cluster.slurm.requeues": 0,
    "cluster.slurm.port": 1,
    "report.max_generations": 0,
}
MAX_STEPS = 10_000


# Checking.


def validate(config: Config) -> None:
    """Raises UserError for the first value that makes no sense, whatever it was set by."""
    from orchestrator import judges

    for key, allowed in CHOICES.items():
        value = _value(config, key)
        if value not in allowed:
            names = [str(name) for name in allowed if name is not None]
            raise UserError(key, value, f"must be one of {', '.join(names)}{did_you_mean(str(value), names)}")
    for key, least in AT_LEAST.items():
        value = _value(config, key)
        if value is not None and not (math.isfinite(value) and value >= least):
            raise UserError(key, value, f"must be at least {least}")
    _check_grid(config.grid)
    _check_cluster(config.cluster)
    for key, names in (
        ("judges", config.judges),
        ("probe_sets", config.probe_sets),
        ("system_prompts", config.system_prompts),
    ):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise UserError(key, f"[{','.join(names)}]", f"names {twice} twice: name each once")
    for name in config.judge_names:
        judge = judges.get(name, "judges" if config.judges else "judge")
        if not any(map(judge.tells, ("harmful", "benign"))):
            raise UserError("judge", name, "does not tell refusals; it is always measured beside: use judge=keyword")
    stops = {judges.get(name).stops for name in config.judge_names}
    if config.sampling.early_stop and (len(stops) > 1 or not all(stops)):
        remedy = "need whole responses, and early stopping cuts them: add sampling.early_stop=false, or judge=keyword"
        raise UserError("judges", f"[{','.join(config.judge_names)}]", remedy)


def share(part: str | None) -> tuple[int, int]:
    """(i, n) of `cluster.part=i/n`; (1, 1) of None. Raises UserError."""
    if part is None:
        return 1, 1
    match = re.fullmatch(r"(\d+)/(\d+)", part, re.ASCII)
    i, n = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= i <= n:
        raise UserError("cluster.part", part, "write the i-th of n parts as i/n, the first being 1/n, such as 1/4")
    return i, n


def _check_cluster(cluster: ClusterConfig) -> None:
    share(cluster.part)
    if cluster.kind != "slurm":
        if cluster.dry_run:
            raise UserError("cluster.dry_run", "true", "prints the job of cluster=slurm; a sweep's dry run is `plan`")
        return
    slurm = cluster.slurm
    if slurm.warning < cluster.grace + 30:
        remedy = f"must be at least {cluster.grace + 30:g}: running visits get cluster.grace={cluster.grace:g} s of it"
        raise UserError("cluster.slurm.warning", slurm.warning, remedy)
    asked = {key: getattr(slurm, key) for key in ("time", "partition", "account", "qos")}
    for key, value in [*asked.items(), *(("options", option) for option in slurm.options)]:
        if value is not None and not re.fullmatch(r"[\w./:,@%+=&|*()\[\]-]+", value, re.ASCII):
            raise UserError(f"cluster.slurm.{key}", value, "write it without blanks, quotes and other special signs")
    odd = next((option for option in slurm.options if not option.startswith("-")), None)
    if odd is not None:
        raise UserError("cluster.slurm.options", odd, 'write each as "--name=value", quoted')


def _check_towards(grid: GridConfig) -> None:
    """Each kind of grid goes towards as many checkpoints as it has axes for."""
    shown, asked = f"[{','.join(grid.towards)}]", len(grid.towards)
    if grid.kind.startswith("random"):
        for key, value in (("towards", asked and shown), ("trajectory", grid.trajectory), ("beside", grid.beside)):
            if value:
                remedy = f"{grid.kind} goes nowhere in particular: add grid=interpolate_1d, or leave this out"
                raise UserError(f"grid.{key}", value, remedy)
        return
    if grid.beside and grid.kind == "interpolate_random":
        raise UserError("grid.beside", f"[{','.join(grid.beside)}]", "needs grid=interpolate_1d or interpolate_2d")
    if grid.trajectory is not None:
        if grid.kind == "interpolate_random":
            remedy = "is walked on a line or a plane: use grid=interpolate_1d or grid=interpolate_2d"
            raise UserError("grid.trajectory", grid.trajectory, remedy)
        if asked:
            raise UserError("grid.towards", shown, "the trajectory's end is what the grid goes towards: leave this out")
        return
    needed = {"interpolate_2d": 2, "interpolate_random": 1}.get(grid.kind)
    if not asked or needed not in (None, asked):
        count = {None: "at least one folder or preset", 1: "one folder or preset", 2: "two folders or presets"}[needed]
        raise UserError("grid.towards", shown, f"{grid.kind} goes towards {count}, written grid.towards=[A,B]")
    twice = next((name for name in grid.towards if grid.towards.count(name) > 1), None)
    if twice:
        raise UserError("grid.towards", shown, f"names {twice} twice: name each once")


def _value(config: Config, key: str) -> Any:
    """What stands under a dotted name."""
    return operator.attrgetter(key)(config)


def _check_grid(grid: GridConfig) -> None:
    for key, bounds in (("grid.range", grid.range), ("grid.range_y", grid.range_y)):
        if bounds is None:
            continue
        if len(bounds) != 2 or not all(map(math.isfinite, bounds)):
            raise UserError(key, bounds, "give two finite numbers, such as [-0.5,0.5]")
        if bounds[0] >= bounds[1]:
            raise UserError(key, bounds, "the first must be less than the second, such as [-0.5,0.5]")
    if grid.steps > MAX_STEPS:
        raise UserError("grid.steps", grid.steps, f"must be at most {MAX_STEPS}")
    if grid.range_y is not None and grid.kind.endswith("1d"):
        raise UserError("grid.range_y", grid.range_y, "a line has no second axis: use grid=random_2d, or leave it out")
    _check_towards(grid)
    if any(not pattern for pattern in grid.exclude):
        raise UserError("grid.exclude", grid.exclude, "an empty pattern is in every name: nothing would move")
