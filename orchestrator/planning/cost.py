"""What a sweep will take, before anything is loaded: tokens, memory, time, GPU-hours. Pure numbers and stated guesses.

Time is a roofline (Williams, Waterman, Patterson 2009): a visit writes the weights, reads its prompts at the speed of
arithmetic, and answers at the speed at which weights and keys pass through memory. How far real engines stay below
the datasheets' peaks is in the constants; expect the truth within a factor of two. What the study has measured itself
is always preferred.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.models.checkpoint import CheckpointInfo
from orchestrator.utils.choices import BaseChoice
from orchestrator.utils.console import duration
from orchestrator.utils.errors import UserError, did_you_mean
from workers.weights.base_placement import (
    ACTIVATIONS_PER_TOKEN,
    GPU_RUNTIME_BYTES,
    GPU_UTILIZATION,
    MemoryBudget,
    Placement,
    choose_placement,
    engine_overhead,
)
from workers.weights.checkpoint import HEAD_TENSORS, HIDDEN_SIZE_FIELDS, config_integer, is_tied

GB, MIB = 10**9, 1 << 20
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

# What engines reach of a GPU's peaks.
BANDWIDTH_SHARE = 0.65  # of memory's, while decoding
FLOPS_SHARE = 0.45  # of the tensor cores', while reading prompts
HOST_LINK = 20e9  # bytes a second and GPU, of a pristine base that stays in the host's memory (PCIe 4.0 x16)
LAYER_SECONDS = {True: 1e-4, False: 1e-5}  # launching a layer's kernels, by `eager`: a step is never faster
STEP_SECONDS = 2e-3  # scheduling and sampling, a step
REDUCE_SECONDS = 4e-5  # two all-reduces a layer, where tensors are split
LOAD_RATE = 1.5e9  # bytes of weights a second, from disk
START_SECONDS = {True: 60.0, False: 30.0}  # of an engine besides, by whether it is on a GPU

# CPUs: vLLM without AVX-512 on 2 cores, SmolLM2-135M in float32: 125 to 165 tokens a second in
# batches of 40 to 160.
CPU_DECODE, CPU_PREFILL = 20e9, 100e9  # floating-point operations a second and core
CPU_16_BIT = 0.18  # of that speed, where 16-bit arithmetic is emulated
CPU_WRITE = 2.5e-9  # seconds an element and core: noise and add
RUNTIMES = {"vllm": int(1.2 * GB), "transformers": int(0.75 * GB), "dummy": int(0.3 * GB)}  # libraries, before weights
DRIVER = int(0.7 * GB)  # the driver and Ray's own processes
CPU_BATCH = 16  # sequences that transformers is asked at once
CPU_KV = 1 << 30  # what the engine takes for keys and values on a CPU unless told otherwise

PROMPT_TOKENS = 60  # of a prompt in its template, where no tokenizer is at hand
PLACES: dict[Placement, str] = {"gpu": "on the GPU", "host": "in the host's memory", "mmap": "mapped from disk"}
RESPONSE_BYTES = (300, 3)  # of a stored response: for its row, and for each token (zstd)


@dataclass(frozen=True)
class Gpu:
    """A GPU as its vendor's datasheet has it: bytes, bytes a second, dense floating-point operations a second.

    flops16: bfloat16 or float16 with float32 accumulation, without sparsity. flops32: float32, without TF32.
    """

    name: str
    memory: int
    bandwidth: float
    flops16: float
    flops32: float
    bfloat16: bool = True


# NVIDIA's datasheets: HGX B200; H200, H100 SXM; A100 SXM; L40S; L4; A10; T4; V100 SXM2. GeForce: the white papers of
# the architectures (RTX Blackwell, Ada, GA102), whose figure for float32 accumulation is half that for float16.
GPUS: dict[str, Gpu] = {
    "b200": Gpu("B200", 180 * GB, 7.7e12, 2250e12, 75e12),
    "h200": Gpu("H200", 141 * GB, 4.8e12, 989e12, 67e12),
    "h100": Gpu("H100", 80 * GB, 3.35e12, 989e12, 67e12),
    "a100_80": Gpu("A100 80 GB", 80 * GB, 2.039e12, 312e12, 19.5e12),
    "a100_40": Gpu("A100 40 GB", 40 * GB, 1.555e12, 312e12, 19.5e12),
    "l40s": Gpu("L40S", 48 * GB, 0.864e12, 362e12, 91.6e12),
    "l4": Gpu("L4", 24 * GB, 0.3e12, 121e12, 30.3e12),
    "a10": Gpu("A10", 24 * GB, 0.6e12, 125e12, 31.2e12),
    "rtx5090": Gpu("RTX 5090", 32 * GB, 1.792e12, 209.5e12, 104.8e12),
    "rtx4090": Gpu("RTX 4090", 24 * GB, 1.008e12, 165.2e12, 82.6e12),
    "rtx3090": Gpu("RTX 3090", 24 * GB, 0.936e12, 71e12, 35.6e12),
    "t4": Gpu("T4", 16 * GB, 0.32e12, 65e12, 8.1e12, bfloat16=False),
    "v100": Gpu("V100 32 GB", 32 * GB, 0.9e12, 125e12, 15.7e12, bfloat16=False),
}


@dataclass(frozen=True)
class ModelSize:
    """A model in numbers; None where unknown. `disk_bytes`: of its tensors as published (None: 2 a parameter)."""

    name: str
    dtype: str
    parameters: int | None
    layers: int | None = None
    hidden: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    vocabulary: int | None = None
    disk_bytes: int | None = None
    tied: bool = False  # the head is the embedding

    @property
    def weights(self) -> int | None:
        """Bytes of the resident weights."""
        return None if self.parameters is None else self.parameters * ITEM_BYTES[self.dtype]

    @property
    def linear(self) -> int:
        """Bytes of what tokens are multiplied with: all but an embedding that is only looked up."""
        looked_up = 0 if self.tied else (self.vocabulary or 0) * (self.hidden or 0)
        return max(0, (self.parameters or 0) - looked_up) * ITEM_BYTES[self.dtype]

    @property
    def base(self) -> int | None:
        """Bytes of the pristine base."""
        return self.disk_bytes if self.disk_bytes is not None else self.parameters and 2 * self.parameters

    @property
    def kv_token(self) -> int | None:
        """Bytes of keys and values that a token leaves behind."""
        if self.layers is None or self.kv_heads is None or self.head_dim is None:
            return None
        return 2 * self.layers * self.kv_heads * self.head_dim * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Load:
    """A prompt set in numbers. `prompt_tokens`: of all its prompts together."""

    prompts: int
    prompt_tokens: int
    max_tokens: int


@dataclass(frozen=True)
class Room:
    """How the engine is set, and where: `gpu` is a key of GPUS, or None for a CPU of `cores`.

    gpu_memory: bytes of a GPU that an actor has, where the table does not know. host_free: bytes of shared memory, None
    where that is not known; host_copy: what a copy of the base still takes there, None for all of it.
    """

    gpu: str | None = None
    tensor_parallel: int = 1
    actors: int = 1
    cores: int = 1
    engine: str = "vllm"
    eager: bool = True
    max_model_len: int = 2048
    max_num_seqs: int = 128
    max_num_batched_tokens: int = 4096
    kv_cache_bytes: int | None = None
    write: str = "inplace"  # repack: vLLM on a CPU holds its linear weights twice
    base: BaseChoice = BaseChoice.auto
    gpu_memory: int | None = None
    host_free: int | None = None
    host_copy: int | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU, or of an actor on a CPU. `base_at`: where the pristine base waits (engine.base), None where it
    cannot be where it is asked for."""

    weights: int
    base: int
    kv: int
    overhead: int
    peak: int
    capacity: int | None
    base_at: Placement | None
    fits: bool | None


@dataclass(frozen=True)
class Seconds:
    """Of one visit."""

    write: float
    prefill: float
    decode: float

    @property
    def total(self) -> float:
        return self.write + self.prefill + self.decode


@dataclass(frozen=True)
class Judging:
    """What a model judge will take after the sweep, at most: as if no two responses were the same, each as long as it
    may be. `tokens`: what it reads."""

    judge: str
    dtype: str
    responses: int
    tokens: int
    memory: Memory | None
    gpu_hours: float | None
    wall_hours: float | None


@dataclass(frozen=True)
class Plan:
    """What is to be done, and what it takes; None where it can't be told.

    generated_tokens: an upper bound, every response as long as it may be. seconds_per_visit: the mean over the visits
    that are left. gpu_hours: None on a CPU.
    """

    model: ModelSize
    room: Room
    points: int
    tasks: int
    tasks_stored: int
    visits: int
    responses: int
    prompt_tokens: int
    generated_tokens: int
    memory: Memory | None
    suggested_tensor_parallel: int | None
    seconds: Seconds | None
    seconds_per_visit: float | None
    basis: str
    start_seconds: float
    gpu_hours: float | None
    wall_hours: float | None
    disk_bytes: int
    notes: tuple[str, ...]
    judging: tuple[Judging, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return dataclasses.asdict(self)


def gpu(name: str, field: str = "cluster.gpu") -> Gpu:
    """The GPU of that name. Raises UserError."""
    key = name.lower().replace("-", "_").replace(" ", "")
    if key == "a100":
        key = "a100_80"
    if key not in GPUS:
        hint = did_you_mean(key, GPUS)
        raise UserError(field, name, f"is not in the table of GPUs{hint} (known: {', '.join(GPUS)})")
    return GPUS[key]


def nearest(name: str) -> str | None:
    """The key in GPUS of a GPU as its driver names it (`NVIDIA H100 80GB HBM3`); None where it is not in the table."""
    plain = name.lower().replace(" ", "")
    for key in GPUS:
        model, _, memory = key.partition("_")
        if model in plain and (not memory or f"{memory}gb" in plain):
            return key
    return None


def size_of(checkpoint: CheckpointInfo, name: str, dtype: str) -> ModelSize:
    """The numbers of a model whose weights are here."""
    config = checkpoint.config
    heads, hidden = config_integer(config, "num_attention_heads", "n_head"), config_integer(config, *HIDDEN_SIZE_FIELDS)
    stored = [tensor for tensor in checkpoint.tensors.values() if tensor.name in HEAD_TENSORS]
    tied = is_tied(config)
    twice = stored if tied and len(checkpoint.tensors) > 1 else []  # engines read the embedding only
    return ModelSize(
        name=name,
        dtype=dtype,
        parameters=checkpoint.n_parameters - sum(head.size for head in twice),
        layers=config_integer(config, "num_hidden_layers", "n_layer"),
        hidden=hidden,
        kv_heads=config_integer(config, "num_key_value_heads") or heads,
        head_dim=config_integer(config, "head_dim") or (hidden // heads if hidden and heads else None),
        vocabulary=config_integer(config, "vocab_size"),
        disk_bytes=checkpoint.bytes - sum(head.stop - head.start for head in twice),
        tied=tied or not (stored or "embed_out.weight" in checkpoint.tensors),
    )


def estimate(
    model: ModelSize,
    room: Room,
    sets: Mapping[str, Load],
    visits: Sequence[Sequence[str]],
    *,
    points: int,
    tasks: int,
    measured: float | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """The plan for what is left: `visits` names, for each point that lacks any, the prompt sets that are missing.

    points, tasks: of the whole sweep, stored ones included. measured: seconds a visit took in this study so far.
    Raises UserError(cluster.gpu) for a GPU that is not in the table.
    """
    remarks = list(notes)
    left = sum(map(len, visits))
    kinds = Counter(tuple(visit) for visit in visits)
    loads = {kind: [sets[key] for key in kind] for kind in kinds}
    asked = [(n, load) for kind, n in kinds.items() for load in loads[kind]]
    responses = sum(n * load.prompts for n, load in asked)
    prompt_tokens = sum(n * load.prompt_tokens for n, load in asked)
    generated = sum(n * load.prompts * load.max_tokens for n, load in asked)
    memory = memory_of(model, room, list(sets.values()))
    way = suggested(model, room, list(sets.values())) if room.gpu else None
    split = room.tensor_parallel
    if memory is not None and memory.fits is False and room.gpu:
        remarks.append(f"times are those of engine.tensor_parallel={way}" if way else "no times: it does not fit")
        split = way or 0
    seconds, basis = None, "unknown"
    if memory is not None and visits and split:
        fitting = dataclasses.replace(room, tensor_parallel=split)
        held = memory_of(model, fitting, list(sets.values()))
        assert held is not None
        parts = [(n, visit_seconds(model, fitting, held, loads[kind])) for kind, n in kinds.items()]
        seconds = Seconds(
            *(
                sum(n * getattr(part, name) for n, part in parts) / len(visits)
                for name in ("write", "prefill", "decode")
            )
        )
        basis = "roofline" if room.gpu else "assumed"
    per_visit = seconds.total if seconds else None
    if measured is not None:
        per_visit, basis = measured, "measured"
    start = START_SECONDS[room.gpu is not None] + (model.base or 0) / LOAD_RATE if room.engine != "dummy" else 0.0
    actors = max(1, min(room.actors, len(visits)))
    wall = None
    if not visits:
        wall, per_visit, start = 0.0, None, 0.0
    elif per_visit is not None:
        wall = (math.ceil(len(visits) / actors) * per_visit + start) / 3600
    hours = None
    if room.gpu and wall is not None:
        hours = (len(visits) * (per_visit or 0.0) + actors * start) * split / 3600
    if room.gpu and model.dtype == "bfloat16" and not gpu(room.gpu).bfloat16:
        remarks.append(f"the {gpu(room.gpu).name} has no bfloat16: set model.dtype=float16")
    if memory is None:
        remarks.append("the model's size is unknown: no memory and no time can be told")
    elif memory.base_at is None:
        try:
            place(model, room)
        except UserError as error:
            remarks.append(str(error))
    elif memory.fits and memory.base and room.gpu and memory.base_at != "gpu":
        remarks.append(f"the pristine base stays {PLACES[memory.base_at]}: each visit copies it to the GPU")
    return Plan(
        model=model,
        room=room,
        points=points,
        tasks=tasks,
        tasks_stored=tasks - left,
        visits=len(visits),
        responses=responses,
        prompt_tokens=prompt_tokens,
        generated_tokens=generated,
        memory=memory,
        suggested_tensor_parallel=way,
        seconds=seconds,
        seconds_per_visit=per_visit,
        basis=basis,
        start_seconds=start,
        gpu_hours=hours,
        wall_hours=wall,
        disk_bytes=stored_bytes(responses, generated),
        notes=tuple(remarks),
    )


def memory_of(model: ModelSize, room: Room, sets: Sequence[Load], available: int | None = None) -> Memory | None:
    """What a GPU (or an actor on a CPU) must hold; None where the model's size is unknown.

    GPU: (weights + base + keys and values) / tensor_parallel + activations + the runtime. Keys and values shrink to
    one sequence before anything is said not to fit; the base is where `place` says. CPU: libraries, weights, keys
    and values, activations, the mapped base; linear weights again where they are packed. available: its free memory.
    """
    weights, base = model.weights, model.base
    if weights is None or base is None:
        return None
    hidden, vocabulary = model.hidden or 0, model.vocabulary or 0
    item = ITEM_BYTES[model.dtype]
    besides = _besides(model, room)
    try:
        at = place(model, room)
    except UserError:
        at = None
    if not room.gpu:
        kv, activations = room.kv_cache_bytes or CPU_KV, besides - GPU_RUNTIME_BYTES
        if room.engine != "vllm":  # transformers keeps what its batch needs
            batch = min(CPU_BATCH, _concurrent(room, sets))
            kv = batch * _longest(sets) * (model.kv_token or 0)
            activations = batch * _longest(sets) * hidden * ACTIVATIONS_PER_TOKEN * item + 3 * batch * vocabulary * 4
        rest = RUNTIMES[room.engine] + activations + base  # mapped pages count as held, though they give way
        if room.engine == "vllm" and room.write == "repack":
            rest += model.linear + hidden * vocabulary * item  # the largest is there twice while it is packed
        peak = weights + kv + rest
        fits = False if at is None else None if available is None else peak <= available
        return Memory(weights, base, kv, rest, peak, available, at, fits)
    split = room.tensor_parallel
    capacity = int(_gpu_memory(room) * GPU_UTILIZATION)
    kv_token = model.kv_token or 0
    least = room.max_model_len * kv_token // split
    wanted = room.kv_cache_bytes or max(least, _concurrent(room, sets) * _longest(sets) * kv_token // split)
    held = weights // split + besides + (base // split if at == "gpu" else 0)
    kv = max(least, min(wanted, capacity - held))
    return Memory(
        weights=weights // split,
        base=base // split,
        kv=kv,
        overhead=besides,
        peak=held + kv,
        capacity=capacity,
        base_at=at,
        fits=at is not None and held + kv <= capacity,
    )


def place(model: ModelSize, room: Room) -> Placement:
    """Where the base waits: what the actor's own choice will be. Raises UserError (engine.base) as that does."""
    if room.engine != "vllm":
        return "mmap"
    weights, base, split = model.weights or 0, model.base or 0, room.tensor_parallel
    budget = MemoryBudget(
        weights=weights // split,
        base=base // split,
        copy=0 if room.host_free is None else base if room.host_copy is None else room.host_copy,
        gpu_total=_gpu_memory(room),
        overhead=_besides(model, room),
        kv_cache=room.kv_cache_bytes,
        host_free=room.host_free or 0,
    )
    return choose_placement(room.base, "cuda" if room.gpu else "cpu", budget)


def _besides(model: ModelSize, room: Room) -> int:
    hidden, vocabulary, item = model.hidden or 0, model.vocabulary or 0, ITEM_BYTES[model.dtype]
    return engine_overhead(hidden, vocabulary, item, room.max_num_batched_tokens, room.max_num_seqs)


def _gpu_memory(room: Room) -> int:
    """Bytes of a GPU that an actor has; 0 on a CPU."""
    return 0 if room.gpu is None else room.gpu_memory or gpu(room.gpu).memory


def suggested(model: ModelSize, room: Room, sets: Sequence[Load]) -> int | None:
    """The fewest GPUs, of 1, 2, 4, 8, that hold the model between them; None where eight do not, or nobody knows."""
    for split in (1, 2, 4, 8):
        memory = memory_of(model, dataclasses.replace(room, tensor_parallel=split), sets)
        if memory is not None and memory.fits:
            return split
    return None


def visit_seconds(model: ModelSize, room: Room, memory: Memory, asked: Sequence[Load]) -> Seconds:
    """Of one visit that asks these prompt sets in one batch, every response as long as it may be."""
    parameters = model.parameters or 0
    prompt_tokens = sum(load.prompt_tokens for load in asked)
    generated = sum(load.prompts * load.max_tokens for load in asked)
    if not room.gpu:
        speed = room.cores * (1.0 if model.dtype == "float32" else CPU_16_BIT)
        return Seconds(
            write=parameters * CPU_WRITE / room.cores,
            prefill=2 * parameters * prompt_tokens / (CPU_PREFILL * speed),
            decode=2 * parameters * generated / (CPU_DECODE * speed),
        )
    card, split = gpu(room.gpu), room.tensor_parallel
    flops = (card.flops32 if model.dtype == "float32" else card.flops16) * FLOPS_SHARE * split
    bandwidth = card.bandwidth * BANDWIDTH_SHARE
    if memory.base_at == "gpu":
        write = (memory.base + memory.weights) / bandwidth
    else:
        write = memory.base / HOST_LINK + memory.weights / bandwidth
    kv_token = (model.kv_token or 0) / split
    longest = _longest(asked)
    batch = _concurrent(room, asked)
    if kv_token and longest:
        batch = max(1, min(batch, int(memory.kv / (longest * kv_token))))
    layers = model.layers or 0
    launching = STEP_SECONDS + layers * (LAYER_SECONDS[room.eager] + (REDUCE_SECONDS if split > 1 else 0))
    reading = (memory.weights + batch * longest * kv_token) / bandwidth
    step = max(reading, 2 * parameters * batch / flops, launching)
    return Seconds(
        write=write,
        prefill=2 * parameters * prompt_tokens / flops,
        decode=step * math.ceil(generated / batch) if batch else 0.0,
    )


def _concurrent(room: Room, sets: Sequence[Load]) -> int:
    return min(room.max_num_seqs, sum(load.prompts for load in sets))


def _longest(sets: Sequence[Load]) -> int:
    """Tokens of a prompt and its response, at most over the prompt sets, prompts at their mean."""
    return max(
        (math.ceil(load.prompt_tokens / load.prompts) + load.max_tokens for load in sets if load.prompts), default=0
    )


def stored_bytes(responses: int, generated_tokens: int) -> int:
    """Bytes of Parquet that so many responses take at most."""
    row, token = RESPONSE_BYTES
    return responses * row + generated_tokens * token


def check_memory(plan: Plan, available: int | None = None) -> None:
    """Raises UserError where the model will not fit, before anything is loaded.

    GPU: held against the GPU's own memory. CPU: against `available` bytes, which all actors share with the driver.
    """
    memory, room, model = plan.memory, plan.room, plan.model
    if memory is None:
        return
    place(model, room)
    if room.gpu:
        if not memory.fits:
            assert memory.capacity is not None
            need = f"{_gb(memory.peak)} a GPU, and the {gpu(room.gpu).name} gives {_gb(memory.capacity)}"
            way = plan.suggested_tensor_parallel
            remedy = (
                f"engine.tensor_parallel={way} fits" if way else "not even eight of them hold it: use a smaller model"
            )
            raise UserError("engine.tensor_parallel", room.tensor_parallel, f"{model.name} takes {need}: {remedy}")
        return
    if available is None or room.engine == "dummy":
        return
    need_cpu = memory.peak * room.actors + DRIVER
    if need_cpu > available:
        ways = ["a smaller model", "or a GPU"]
        if room.actors > 1:
            ways.insert(0, "cluster.actors=1")
        elif model.dtype == "float32":
            ways.insert(0, "model.dtype=bfloat16 (slower on most CPUs)")
        raise UserError(
            "model",
            model.name,
            f"takes about {_gb(need_cpu)} of memory on this CPU ({_gb(memory.weights)} of weights as {model.dtype}, "
            f"{_gb(memory.kv)} for keys and values), and {_gb(available)} are free: use {', '.join(ways)}",
        )


def check_disk(out: Path, plan: Plan, free: int | None = None) -> None:
    """Raises UserError(out) where the responses will not fit; `free` is looked up where it is not given."""
    folder = out.expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    needed = 2 * plan.disk_bytes + 50 * MIB  # merged and judged, they are there twice for a while
    left = shutil.disk_usage(folder).free if free is None else free
    if left < needed:
        raise UserError(
            "out", out, f"the sweep may take {_gb(needed)} there and {_gb(left)} are free: make room, or name another"
        )


def lines(plan: Plan) -> list[tuple[str, str]]:
    """The plan for people: (what, how much)."""
    model, room, memory = plan.model, plan.room, plan.memory
    rows = [
        ("model", f"{model.name} ({_count(model.parameters)} parameters, {model.dtype})"),
        ("points", f"{plan.points:,}"),
        ("tasks", f"{plan.tasks:,}, {plan.tasks_stored:,} of them stored"),
        ("visits", f"{plan.visits:,}"),
        ("responses", f"{plan.responses:,}"),
        ("tokens", f"{plan.prompt_tokens:,} in prompts, at most {plan.generated_tokens:,} generated"),
    ]
    if memory is not None:
        at = "" if memory.base_at is None else f" ({PLACES[memory.base_at]})"
        rows.append(
            (
                f"memory per {'GPU' if room.gpu else 'actor'}",
                f"{_gb(memory.peak)}: weights {_gb(memory.weights)}, keys and values {_gb(memory.kv)}, the rest "
                f"{_gb(memory.overhead)}; pristine base {_gb(memory.base)}{at}",
            )
        )
    if room.gpu:
        card = gpu(room.gpu)
        groups = f"{room.actors} x {room.tensor_parallel} {card.name}"
        if memory is None:
            rows.append(("GPUs", groups))
        elif memory.fits:
            rows.append(("GPUs", f"{groups}: fits"))
        else:
            way = plan.suggested_tensor_parallel
            remedy = f"engine.tensor_parallel={way} does" if way else "nor on eight"
            rows.append(("GPUs", f"{groups}: does not fit; {remedy}"))
    else:
        rows.append(("CPU", f"{room.actors} actor{'s' * (room.actors > 1)}, {room.cores} cores each"))
    if plan.seconds_per_visit is not None:
        how = {
            "measured": "measured in this study",
            "roofline": "from the datasheet, within a factor of two",
            "assumed": "guessed from the model's size; the first visit will tell",
        }[plan.basis]
        rows.append(("a visit", f"{duration(plan.seconds_per_visit)} ({how})"))
    if plan.wall_hours is not None:
        rows.append(("time", f"at most {duration(plan.wall_hours * 3600)}"))
    if plan.gpu_hours is not None:
        rows.append(("GPU-hours", f"at most {plan.gpu_hours:.2f}"))
    rows.append(("disk", f"at most {_gb(plan.disk_bytes)}"))
    for each in plan.judging:
        costs = [f"at most {each.responses:,} responses, {each.tokens:,} tokens to read"]
        if each.wall_hours is not None:
            costs.append(duration(each.wall_hours * 3600))
        if each.gpu_hours is not None:
            costs.append(f"{each.gpu_hours:.2f} GPU-hours")
        if each.memory is not None and each.memory.fits is False:
            costs.append(f"{_gb(each.memory.peak)} a GPU, which does not fit: raise judging.tensor_parallel")
        rows.append((f"judge {each.judge}", "; ".join(costs)))
    return rows + [("note", note) for note in plan.notes]


def _gb(size: int) -> str:
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 1e6:.1f} MB"


def _count(number: int | None) -> str:
    if number is None:
        return "an unknown number of"
    return f"{number / 1e9:.1f} billion" if number >= 10**9 else f"{number / 1e6:.0f} million"
