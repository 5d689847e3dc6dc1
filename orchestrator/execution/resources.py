"""Actors of a sweep: the engine that each one opens, their number, and the cluster resources that each one takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from orchestrator.config.schema import ClusterConfig, Config, EngineConfig
from orchestrator.execution import hardware
from orchestrator.execution.policy import DispatchPolicy
from orchestrator.models.resolve import ResolvedModel
from orchestrator.store.engine_identity import common_setting
from orchestrator.sweep.tasks import PromptSet
from orchestrator.utils.choices import DeviceChoice, Dtype, EngineKind, WriteChoice
from orchestrator.utils.errors import UserError
from workers.engines.base import EngineSpec
from workers.engines.gpu_settings import VisitSize
from workers.noise.definition import DType
from workers.weights.targets import Target

T = TypeVar("T")
Device = Literal["cpu", "cuda"]

_DTYPES: dict[Dtype, DType] = {Dtype.float32: "float32", Dtype.bfloat16: "bfloat16", Dtype.float16: "float16"}


def engine_spec(
    config: Config,
    model: ResolvedModel | None,
    cluster_device: Device,
    targets: tuple[Target, ...] = (),
    stored_engines: Sequence[Mapping[str, Any]] = (),
    prompt_sets: Iterable[PromptSet] = (),
) -> EngineSpec:
    """Return the specification of the engine that each actor opens.

    Args:
        config: The validated configuration.
        model: The resolved weights; None for the dummy engine.
        cluster_device: `cpu` or `cuda`: the device that the cluster has, which `engine.device=auto` selects.
        targets: The checkpoints and adapters toward which directions of the sweep lead.
        stored_engines: Identities of the engines that made the sweep's stored responses. Settings that are left to the
            program are those of the engines of this kind on this kind of device, if they agree. The size of the KV
            cache follows from these settings.
        prompt_sets: Every prompt set of the sweep, for the size of its largest visit.
    """
    engine = config.engine
    device = _device(engine, cluster_device)
    alike = [each for each in stored_engines if str(each.get("device")).startswith("cpu") == (device == "cpu")]

    sizes = ((len(p.prompts), max(map(len, p.token_ids), default=0) + p.sampling.max_tokens) for p in prompt_sets)

    def stored(name: str) -> Any:
        return common_setting(alike, engine.kind, name)

    return EngineSpec(
        kind=engine.kind,
        model_dir="" if model is None else str(model.path),
        dtype=_DTYPES[config.model.dtype],
        max_model_len=config.model.max_model_len,
        max_num_seqs=_first_set(engine.max_num_seqs, stored("max_num_seqs")),
        max_num_batched_tokens=_first_set(engine.max_num_batched_tokens, stored("max_num_batched_tokens")),
        block_size=stored("kv_block_size"),
        kv_cache_gib=engine.kv_cache_gib,
        tensor_parallel=engine.tensor_parallel,
        eager=_first_set(engine.eager, stored("eager")),
        exact=engine.exact,
        seconds=engine.seconds,
        device=device,
        threads=engine.threads or _threads_per_actor(config.cluster),
        targets=targets,
        base=engine.base,
        write=_write_mode(engine.write, stored("packing")),
        gpu_share=min(1.0, config.cluster.gpus_per_actor or 1.0),
        visit=VisitSize.largest(sizes, engine.exact),
    )


def _device(engine: EngineConfig, cluster_device: Device) -> Device:
    """Return the device of an engine. The dummy engine is on the CPU."""
    if engine.kind == EngineKind.dummy or engine.device == DeviceChoice.cpu:
        return "cpu"
    return "cuda" if engine.device == DeviceChoice.cuda else cluster_device


def _first_set(requested: T | None, stored: T | None) -> T | None:
    """Return the requested value of a setting; else that of the stored responses. None: the engine chooses."""
    return stored if requested is None else requested


def _write_mode(requested: WriteChoice, packing: bool | None) -> WriteChoice:
    """Return the requested mode; if it is `auto`, that of the stored responses.

    Args:
        requested: The option `engine.write`.
        packing: Whether the engines of all stored responses packed their weights. None: unknown, or they differ.
    """
    if requested != WriteChoice.auto or packing is None:
        return requested
    return WriteChoice.repack if packing else WriteChoice.inplace


def _threads_per_actor(cluster: ClusterConfig) -> int | None:
    """Return each actor's share of this machine's cores if several actors share it; else None, which means all."""
    if cluster.kind != "local" or cluster.actors is None or cluster.actors == 1:
        return None
    return max(1, hardware.cores() // cluster.actors)


def count_actors(cluster: ClusterConfig, gpus: int, gpus_per_actor: float) -> int | None:
    """Return the number of actors, or None for as many as the cluster can hold.

    Args:
        cluster: The configuration of the cluster.
        gpus: GPUs of the cluster.
        gpus_per_actor: GPUs of each actor; 0 for actors without GPUs.
    """
    if cluster.actors or cluster.kind != "local":
        return cluster.actors
    return max(1, int(gpus // gpus_per_actor)) if gpus_per_actor else 1


def dispatch_policy(config: Config, engine: EngineSpec, gpus: int, cores: int) -> DispatchPolicy:
    """Return the number of actors, the cluster resources that each takes, retries and deadlines.

    By default an actor takes one GPU (or a group of `engine.tensor_parallel` GPUs); without GPUs it takes a node. On a
    cluster more actors start as nodes join.

    Args:
        config: The validated configuration.
        engine: The engine that each actor opens.
        gpus: GPUs of the cluster.
        cores: CPU cores of the cluster's smallest node.

    Raises:
        UserError: If the settings contradict each other or the cluster is too small.
    """
    cluster = config.cluster
    gpus_per_actor = _gpus_per_actor(cluster, engine, gpus)
    return DispatchPolicy(
        actors=count_actors(cluster, gpus, gpus_per_actor),
        cpus_per_actor=_cpus_per_actor(cluster, gpus_per_actor, cores),
        gpus_per_actor=gpus_per_actor,
        max_attempts=cluster.max_attempts,
        deadline_floor=cluster.deadline_floor,
        min_tokens_per_second=cluster.min_tokens_per_second,
        load_limit=cluster.load_limit,
        wait_limit=cluster.wait_limit,
        grace=cluster.grace,
    )


def _cpus_per_actor(cluster: ClusterConfig, gpus_per_actor: float, cores: int) -> float:
    """Return the CPU cores that Ray reserves for each actor; 0 on one machine, where nothing else is scheduled."""
    if cluster.cpus_per_actor is not None:
        return cluster.cpus_per_actor
    if cluster.kind == "local":
        return 0
    return 1 if gpus_per_actor or cluster.actors else cores


def _gpus_per_actor(cluster: ClusterConfig, engine: EngineSpec, gpus: int) -> float:
    """Return the GPUs of each actor; 0 if it needs none. Raises UserError if the settings contradict each other."""
    group, on_gpu = engine.tensor_parallel, engine.device == "cuda"
    if on_gpu and group > gpus:
        raise UserError("engine.tensor_parallel", group, f"the cluster has {gpus} GPUs: lower it, or join more nodes")
    default = group if on_gpu else 0
    count = default if cluster.gpus_per_actor is None else cluster.gpus_per_actor
    if on_gpu and group > 1 and count != group:
        remedy = f"must be {group}, as engine.tensor_parallel is, or left out"
        raise UserError("cluster.gpus_per_actor", count, remedy)
    if count > 1 and count % 1:
        raise UserError("cluster.gpus_per_actor", count, "must be whole, or less than 1: then actors share a GPU")
    return count
