"""What the actors of a request are: the engine each opens, how many there are, and what each takes of the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config.schema import ClusterConfig, Config
from orchestrator.execution import hardware
from orchestrator.models.resolve import ResolvedModel
from orchestrator.utils.errors import UserError
from workers.engines.vllm import EngineSpec
from workers.weights.targets import Target


def spec(
    config: Config,
    model: ResolvedModel | None,
    found: str,
    targets: tuple[Target, ...] = (),
    stored: Sequence[Mapping[str, Any]] = (),
) -> EngineSpec:
    """What an actor opens. `model` is None for the dummy engine; `found`: the device that the cluster has; `stored`:
    the engines of the sweep's stored rows, which `auto` settings follow."""
    engine = config.engine
    device = found if engine.device == "auto" else engine.device
    return EngineSpec(
        kind=engine.kind,  # type: ignore[arg-type]  # validated
        model_dir="" if model is None else str(model.path),
        dtype=config.model.dtype,  # type: ignore[arg-type]  # validated
        max_model_len=config.model.max_model_len,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        kv_cache_gib=engine.kv_cache_gib,
        tensor_parallel=engine.tensor_parallel,
        eager=engine.eager,
        exact=engine.exact,
        seconds=engine.seconds,
        device="cpu" if engine.kind == "dummy" else device,  # type: ignore[arg-type]  # validated
        threads=engine.threads or _share_of_cores(config.cluster),
        targets=targets,
        base=engine.base,  # type: ignore[arg-type]  # validated
        write=_write(engine.write, stored),
        gpu_share=min(1.0, config.cluster.gpus_per_actor or 1.0),
    )


def _write(asked: str, stored: Sequence[Mapping[str, Any]]) -> Any:
    """`engine.write`, validated; `auto` is what made the stored rows, where they agree."""
    ways = {"repack" if engine["packing"] else "inplace" for engine in stored if "packing" in engine}
    return ways.pop() if asked == "auto" and len(ways) == 1 else asked


def _share_of_cores(cluster: ClusterConfig) -> int | None:
    """Actors that share this machine's cores must not get in each other's way; None: all there are."""
    several = cluster.kind == "local" and (cluster.actors or 1) > 1
    return max(1, hardware.cores() // cluster.actors) if several and cluster.actors else None


def how_many(asked: ClusterConfig, gpus: int, gpus_each: float) -> int | None:
    """How many actors; None: as many as the cluster has room for. `gpus_each`: GPUs of an actor, 0 for none."""
    if asked.actors or asked.kind != "local":
        return asked.actors
    return max(1, int(gpus // gpus_each)) if gpus_each else 1


def policy_of(config: Config, engine: EngineSpec, gpus: int, cores: int) -> dict[str, Any]:
    """How many actors, and what each takes, as dispatch's Policy has it. Unless told otherwise one a GPU (or a group of
    them), without GPUs one a node; on a cluster more as nodes join.

    `gpus`: the cluster's; `cores`: of its smallest node. Raises UserError.
    """
    asked, wide, local = config.cluster, engine.tensor_parallel, config.cluster.kind == "local"
    on_gpu = engine.device == "cuda"
    if on_gpu and wide > gpus:
        raise UserError("engine.tensor_parallel", wide, f"the cluster has {gpus} GPUs: lower it, or join more nodes")
    gpus_each = asked.gpus_per_actor if asked.gpus_per_actor is not None else (wide if on_gpu else 0)
    if on_gpu and wide > 1 and gpus_each != wide:
        raise UserError(
            "cluster.gpus_per_actor", gpus_each, f"must be {wide}, as engine.tensor_parallel is, or left out"
        )
    if gpus_each > 1 and gpus_each % 1:
        raise UserError("cluster.gpus_per_actor", gpus_each, "must be whole, or less than 1: then actors share a GPU")
    if 0 < gpus_each < 1 and engine.kv_cache_gib is None:
        remedy = (
            f"say what each actor takes for keys and values: cluster.gpus_per_actor={gpus_each:g} lets them share a GPU"
        )
        raise UserError("engine.kv_cache_gib", "null", remedy)
    cpus_each = asked.cpus_per_actor
    if cpus_each is None:
        cpus_each = 0 if local else 1 if gpus_each or asked.actors else cores
    return {
        "actors": how_many(asked, gpus, gpus_each),
        "cpus_per_actor": cpus_each,
        "gpus_per_actor": gpus_each,
        "max_attempts": asked.max_attempts,
        "deadline_floor": asked.deadline_floor,
        "grace": asked.grace,
    }
