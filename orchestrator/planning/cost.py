"""Estimate the cost of a sweep before anything is loaded: tokens, memory, time, GPU-hours and disk space.

The numbers are computed from their inputs alone: nothing here reads files or looks at the machine.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from orchestrator.analysis.results.precision import PrecisionPlan
from orchestrator.planning.gpus import find_gpu
from orchestrator.planning.memory import (
    PLACEMENT_TEXT,
    MemoryEstimate,
    estimate_memory,
    place_base,
    resolve_setup,
    smallest_fitting_tp,
)
from orchestrator.planning.timing import Basis, VisitSeconds, estimate_time, visit_seconds
from orchestrator.planning.workload import EngineSetup, ModelSize, PromptLoad, Workload
from orchestrator.sweep.continuations import SCORED_TOKENS
from orchestrator.sweep.prompt_rendering import PromptRendering
from orchestrator.utils.choices import Dtype
from orchestrator.utils.errors import UserError
from orchestrator.utils.records import field_types

ROW_BYTES, TOKEN_BYTES = 300, 3  # bytes of a stored response: per row, and per token (zstd)


@dataclass(frozen=True)
class JudgePlan:
    """The cost of a model judge after the sweep, as an upper bound.

    It assumes that all responses differ, and that each has its maximum length.

    Attributes:
        judge: Name of the judge.
        dtype: Dtype of its weights. None for a model behind an endpoint.
        responses: Number of responses to judge.
        tokens: Number of tokens that the judge reads.
        memory: Memory of a GPU or an actor. None if the judge's size is unknown.
        gpu_hours: Time of all GPUs. None on a CPU, or if unknown.
        wall_hours: Time until everything is judged. None if unknown.
        dollars: Price of its requests and answers. None without prices.
    """

    judge: str
    dtype: Dtype | None
    responses: int
    tokens: int
    memory: MemoryEstimate | None
    gpu_hours: float | None
    wall_hours: float | None
    dollars: float | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build the plan that `Plan.to_json` described."""
        memory, dtype = value["memory"], value["dtype"]
        fields = {
            "dtype": None if dtype is None else Dtype(dtype),
            "memory": None if memory is None else MemoryEstimate(**memory),
        }
        return cls(**{**value, **fields})


@dataclass(frozen=True)
class ReadingPlan:
    """The cost of measuring log-probabilities after the sweep: of reading responses at the origin.

    It assumes that all responses that are read differ, and that each has its maximum length. If all are read, this is
    an upper bound.

    Attributes:
        responses: Number of responses that are read.
        tokens: Number of tokens of prompts and responses. At most SCORED_TOKENS of a response are read.
        seconds: Time until all are read, once the actors have loaded the model. None if unknown.
        share: Share of the sweep's responses that is assumed to be read. None: all.
    """

    responses: int
    tokens: int
    seconds: float | None
    share: float | None = None


@dataclass(frozen=True)
class Plan:
    """The remaining work of a sweep and its cost. None means unknown.

    Attributes:
        model: Size of the model.
        setup: Settings of the engine, resolved.
        points: Number of points of the whole sweep.
        tasks: Number of tasks of the whole sweep.
        tasks_stored: Number of tasks that are stored.
        visits: Number of remaining visits.
        responses: Number of remaining responses.
        prompt_tokens: Number of tokens of their prompts.
        generated_tokens: Upper bound of the tokens to generate: every response has its maximum length.
        memory: Memory of a GPU, or of an actor on a CPU.
        suggested_tensor_parallel: Smallest number of GPUs per actor on which the model fits. None on a CPU too.
        seconds: Estimated mean time of a remaining visit, by phase.
        seconds_per_visit: The total of `seconds`, or the mean time measured in this study if there is one.
        basis: Where `seconds_per_visit` comes from.
        start_seconds: Time to start an engine, in seconds.
        gpu_hours: Time of all GPUs together. None on a CPU too.
        wall_hours: Hours until the sweep is complete.
        disk_bytes: Upper bound of the disk space of the responses.
        notes: Remarks for the user.
        judging: The plan of each model judge.
        log_probability: The plan of measuring log-probabilities. None if none are requested.
        precision: The sweep that would give VISAGE the precision of `report.target`. None if no sweep like this one is
            stored.
        rendering: How the prompts were rendered, for each template and system prompt. Empty without the weights.
    """

    model: ModelSize
    setup: EngineSetup
    points: int
    tasks: int
    tasks_stored: int
    visits: int
    responses: int
    prompt_tokens: int
    generated_tokens: int
    memory: MemoryEstimate | None
    suggested_tensor_parallel: int | None
    seconds: VisitSeconds | None
    seconds_per_visit: float | None
    basis: Basis
    start_seconds: float
    gpu_hours: float | None
    wall_hours: float | None
    disk_bytes: int
    notes: tuple[str, ...]
    judging: tuple[JudgePlan, ...] = ()
    log_probability: ReadingPlan | None = None
    precision: PrecisionPlan | None = None
    rendering: tuple[PromptRendering, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return every field as JSON. `setup` is written under the key `room`."""
        value = dataclasses.asdict(self, dict_factory=_plain_fields)
        return {"room" if key == "setup" else key: item for key, item in value.items()}

    @classmethod
    def json_types(cls) -> dict[str, tuple[Any, bool]]:
        """Return the type of each key that `to_json` writes, and whether it always writes it."""
        types = field_types(cls)  # type: ignore[arg-type]
        return {"room" if name == "setup" else name: (hint, True) for name, (hint, _) in types.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build the plan that `to_json` described."""
        memory, seconds, reading = value["memory"], value["seconds"], value.get("log_probability")
        fields = {key: item for key, item in value.items() if key != "room"} | {
            "model": ModelSize.from_json(value["model"]),
            "setup": EngineSetup.from_json(value["room"]),
            "memory": None if memory is None else MemoryEstimate(**memory),
            "seconds": None if seconds is None else VisitSeconds(**seconds),
            "notes": tuple(value["notes"]),
            "log_probability": None if reading is None else ReadingPlan(**reading),
            "judging": tuple(JudgePlan.from_json(judge_plan) for judge_plan in value["judging"]),
            "rendering": tuple(map(PromptRendering.from_json, value.get("rendering", ()))),
            "precision": None if value.get("precision") is None else PrecisionPlan.from_json(value["precision"]),
        }
        return cls(**fields)


def _plain_fields(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dataclass's fields with members of enums replaced by their values."""
    return {key: str(item) if isinstance(item, enum.StrEnum) else item for key, item in fields}


def estimate(
    model: ModelSize,
    setup: EngineSetup,
    workload: Workload,
    measured: float | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """Estimate the remaining work of a sweep and its cost.

    Args:
        model: Size of the model.
        setup: Settings of the engine.
        workload: The sweep's tasks and the remaining visits.
        measured: Seconds of a visit in this study so far; takes precedence over the estimate.
        notes: Remarks to put before those of the estimate.

    Raises:
        UserError: (cluster.gpu) The GPU is not in the table.
    """
    loads = list(workload.loads.values())
    memory = estimate_memory(model, setup, loads)
    fitting_tp = smallest_fitting_tp(model, setup, loads) if setup.gpu else None
    timed_tp = setup.tensor_parallel
    if setup.gpu and memory is not None and not memory.fits:
        timed_tp = fitting_tp or 0
    time = estimate_time(model, setup, workload, timed_tp, measured)
    responses, generated_tokens = workload.responses, workload.generated_tokens
    return Plan(
        model=model,
        setup=resolve_setup(model, setup, loads),
        points=workload.points,
        tasks=workload.tasks,
        tasks_stored=workload.tasks - workload.missing_tasks,
        visits=len(workload.visits),
        responses=responses,
        prompt_tokens=workload.prompt_tokens,
        generated_tokens=generated_tokens,
        memory=memory,
        suggested_tensor_parallel=fitting_tp,
        seconds=time.seconds,
        seconds_per_visit=time.seconds_per_visit,
        basis=time.basis,
        start_seconds=time.start_seconds,
        gpu_hours=time.gpu_hours,
        wall_hours=time.wall_hours,
        disk_bytes=responses * ROW_BYTES + generated_tokens * TOKEN_BYTES,
        notes=(*notes, *_remarks(model, setup, memory, fitting_tp)),
    )


def estimate_reading(
    model: ModelSize, setup: EngineSetup, workload: Workload, share: float | None = None
) -> ReadingPlan:
    """Estimate the cost of measuring the log-probabilities of responses of the remaining visits, by reading them.

    Args:
        model: Size of the model.
        setup: Settings of the engine.
        workload: The remaining visits, with those prompt sets only whose responses are read.
        share: Share of these responses that is read. None: all.
    """
    responses = tokens = 0
    seconds: float | None = 0.0
    all_loads = list(workload.loads.values())
    memory, setup = estimate_memory(model, setup, all_loads), resolve_setup(model, setup, all_loads)
    for count, loads in workload.visits_by_load:
        lengths = [load.prompt_tokens + load.prompts * min(load.max_tokens, SCORED_TOKENS) for load in loads]
        responses += count * sum(load.prompts for load in loads)
        tokens += count * sum(lengths)
        if memory is None or seconds is None:
            seconds = None
            continue
        read = [PromptLoad(load.prompts, length, 0) for load, length in zip(loads, lengths, strict=True)]
        seconds += count * visit_seconds(model, setup, memory, read).prefill / setup.actors
    if share is not None:
        responses, tokens = math.ceil(share * responses), math.ceil(share * tokens)
        seconds = None if seconds is None else share * seconds
    return ReadingPlan(responses, tokens, seconds, share)


def _remarks(model: ModelSize, setup: EngineSetup, memory: MemoryEstimate | None, fitting_tp: int | None) -> list[str]:
    """Return remarks on a model that does not fit, the GPU's dtypes, unknown sizes and the place of the base."""
    remarks = []
    if setup.gpu and memory is not None and not memory.fits:
        remark = "no times: the model does not fit"
        if fitting_tp:
            remark = f"times are those of engine.tensor_parallel={fitting_tp}"
        remarks.append(remark)
    if setup.gpu and model.dtype == Dtype.bfloat16 and not find_gpu(setup.gpu).bfloat16:
        remarks.append(f"the {find_gpu(setup.gpu).name} has no bfloat16: set model.dtype=float16")
    if setup.gpu and model.dtype == Dtype.float32 and find_gpu(setup.gpu).bfloat16:
        remarks.append(
            f"model.dtype=bfloat16 takes half the memory and is faster on the {find_gpu(setup.gpu).name}; the dtype is "
            "part of a study's identity, so that it would be another study"
        )
    if memory is None:
        remarks.append("the model's size is unknown: memory and time cannot be estimated")
    elif memory.base_at is None:
        try:
            place_base(model, setup)
        except UserError as error:
            remarks.append(str(error))
    elif memory.fits and memory.base and setup.gpu and memory.base_at != "gpu":
        remarks.append(f"the pristine base stays {PLACEMENT_TEXT[memory.base_at]}: each visit copies it to the GPU")
    return remarks
