"""Ray session of a sweep: start Ray on this machine, or join a running cluster."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.config.schema import ClusterConfig
from orchestrator.utils import logs
from orchestrator.utils.errors import UserError

# Ray reads these variables when it is imported, and every import of Ray in the driver comes after this module's.
_SETTINGS = {
    "RAY_worker_niceness": "0",  # Ray's default of 15 starves actors on a busy machine
    "RAY_USAGE_STATS_ENABLED": "0",  # no usage reports
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` actors use this environment, not one of their own
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray leaves CUDA_VISIBLE_DEVICES alone in actors without GPUs
    "RAY_raylet_start_wait_time_s": "120",  # a busy machine is slow to start Ray
    "RAY_task_events_report_interval_ms": "0",  # no record of task events, which took a tenth of the driver's time
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # no tracebacks of the calls that a replaced actor had queued
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)

# Methods of Ray's `Node` that start processes without a purpose in a local session: the dashboard's server, which Ray
# starts and waits for even without a dashboard, the forwarding of logs, and the autoscaler. No option leaves them out.
_UNUSED_PROCESSES = ("start_api_server", "start_log_monitor", "start_monitor")

OBJECT_STORE_BYTES = 256 << 20  # of a local session, whose prompt sets and receipts are small


@dataclass(frozen=True)
class ClusterSpec:
    """Ray cluster to use.

    Attributes:
        kind: `local` starts Ray on this machine, on loopback only; `ray` joins a running cluster.
        address: Address of the cluster to join. None: `auto`, the cluster of which this machine is a node.
    """

    kind: Literal["local", "ray"] = "local"
    address: str | None = None

    @classmethod
    def from_config(cls, config: ClusterConfig) -> ClusterSpec:
        """Return the cluster of a validated configuration."""
        return cls(config.kind, config.address)  # type: ignore[arg-type]  # validated


@contextlib.contextmanager
def session(spec: ClusterSpec) -> Iterator[None]:
    """Start or join Ray for the duration of the context. Raises UserError if the cluster cannot be joined."""
    import ray
    from ray.exceptions import AuthenticationError

    address = spec.address or "auto"
    try:
        if spec.kind == "ray":
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            with _without_unused_processes():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                )
    except ConnectionError as error:
        remedy = "no Ray cluster answers there; start one with `ray start --head`"
        raise UserError("cluster.address", address, remedy) from error
    except AuthenticationError as error:
        remedy = "that cluster requires another token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to its head's"
        raise UserError("cluster.address", address, remedy) from error
    except RuntimeError as error:
        if "ersion mismatch" not in str(error):
            raise
        message = " ".join(str(error).split())
        raise UserError("cluster.address", address, f"that cluster runs other versions: {message}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _without_unused_processes() -> Iterator[None]:
    """Let Ray start only processes that a local session needs: saves 3 s of a core and a second of waiting."""
    from ray._private.node import Node

    originals = {name: getattr(Node, name) for name in _UNUSED_PROCESSES if hasattr(Node, name)}
    for name in originals:
        setattr(Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(Node, name, original)


def _start_nothing(*_: Any, **__: Any) -> None:
    """Replace a method that starts a process."""


def gpus() -> int:
    """Return the number of GPUs of all nodes of the session."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def device() -> Literal["cpu", "cuda"]:
    """Return the device on which engines run in this cluster."""
    return "cuda" if gpus() else "cpu"


def cores_of_smallest_node() -> int:
    """Return the CPU cores of the node with the fewest, not counting nodes that offer Ray none; at least 1."""
    import ray

    offered = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return min((cores for cores in offered if cores), default=1)


def run_on_other_nodes(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call a function once on every node except this one, and return the results.

    A node that dies during the call has no result. An exception of the function is raised here.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    this_node = ray.get_runtime_context().get_node_id()
    remote: Any = ray.remote(num_cpus=0)(_call_with_messages)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != this_node]
    strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    references = [remote.options(scheduling_strategy=strategy).remote(function, *arguments) for strategy in strategies]
    results = []
    for reference in references:
        try:
            results.append(ray.get(reference))
        except RayTaskError as error:
            raise error.cause from None
        except RayError:
            continue
    return results


def _call_with_messages(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process whose messages for the user go to stderr, as the driver's do."""
    logs.configure()
    return function(*arguments)


def log_folder() -> str:
    """Return the folder of this session's logs, which contain the output of the actors."""
    import ray

    node: Any = ray._private.worker._global_node
    return os.path.join(node.get_session_dir_path(), "logs")
