"""Check that a sweep fits the memory and the disk, before anything is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

from orchestrator.planning.cost import Plan
from orchestrator.planning.gpus import GB, find_gpu
from orchestrator.planning.memory import MemoryEstimate, format_bytes, place_base
from orchestrator.utils.choices import Dtype, EngineKind
from orchestrator.utils.errors import UserError
from orchestrator.utils.paths import expanded

DRIVER_BYTES = int(0.7 * GB)  # memory of the driver and of Ray's own processes
DISK_COPIES = 2  # merging and judging temporarily store the responses twice
DISK_MARGIN = 50 << 20


def check_memory(plan: Plan, available: int | None = None) -> None:
    """Check that the model fits the memory. A model of unknown size passes.

    Args:
        plan: The plan. On a GPU its memory is compared with the GPU's own.
        available: Bytes of free memory of a CPU's machine, shared by all actors and the driver. None: no check on a
            CPU.

    Raises:
        UserError: The model does not fit (engine.tensor_parallel, model), or the base does not (engine.base).
    """
    if plan.memory is None:
        return
    place_base(plan.model, plan.setup)
    if plan.setup.gpu:
        if not plan.memory.fits:
            raise _does_not_fit_gpu(plan, plan.setup.gpu, plan.memory)
        return
    if available is None or plan.setup.engine == EngineKind.dummy:
        return
    needed = plan.memory.peak * plan.setup.actors + DRIVER_BYTES
    if needed > available:
        raise _does_not_fit_cpu(plan, plan.memory, needed, available)


def _does_not_fit_gpu(plan: Plan, gpu: str, memory: MemoryEstimate) -> UserError:
    assert memory.capacity is not None
    needed = f"{format_bytes(memory.peak)} a GPU, and the {find_gpu(gpu).name} gives {format_bytes(memory.capacity)}"
    takes = f"{plan.model.name} takes {needed}"
    if plan.setup.gpu_share < 1:
        share = f"{plan.setup.gpu_share:g}"
        return UserError("cluster.gpus_per_actor", share, f"{takes} to each of the actors that share it: raise it")
    if plan.setup.engine == EngineKind.transformers:
        return UserError("engine", "transformers", f"{takes}, and this engine uses only one GPU: use engine=vllm")
    remedy = "not even eight of them hold it: use a smaller model"
    if plan.suggested_tensor_parallel:
        remedy = f"engine.tensor_parallel={plan.suggested_tensor_parallel} fits"
    return UserError("engine.tensor_parallel", plan.setup.tensor_parallel, f"{takes}: {remedy}")


def _does_not_fit_cpu(plan: Plan, memory: MemoryEstimate, needed: int, available: int) -> UserError:
    remedies = ["a smaller model", "or a GPU"]
    if plan.setup.actors > 1:
        remedies.insert(0, "cluster.actors=1")
    elif plan.model.dtype == Dtype.float32:
        remedies.insert(0, "model.dtype=bfloat16 (slower on most CPUs)")
    parts = f"{format_bytes(memory.weights)} of weights as {plan.model.dtype}, {format_bytes(memory.kv)} for keys and "
    return UserError(
        "model",
        plan.model.name,
        f"takes about {format_bytes(needed)} of memory on this CPU ({parts}values), and {format_bytes(available)} are "
        f"free: use {', '.join(remedies)}",
    )


def check_disk(out: Path, plan: Plan, free: int | None = None) -> None:
    """Check that the responses of the sweep fit the disk.

    Args:
        out: The folder of studies. It need not exist.
        plan: The plan.
        free: Bytes of free space. None asks the file system.

    Raises:
        UserError: There is not enough space (out).
    """
    folder = expanded(out).absolute()
    while not folder.exists():
        folder = folder.parent
    needed = DISK_COPIES * plan.disk_bytes + DISK_MARGIN
    available = shutil.disk_usage(folder).free if free is None else free
    if available < needed:
        raise UserError(
            "out",
            out,
            f"the sweep may take {format_bytes(needed)} there and {format_bytes(available)} are free: make room, or "
            "name another",
        )
