"""The Ray session: started here for one machine, or joined where one runs."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.config.schema import ClusterConfig
from orchestrator.utils.errors import UserError

# Ray reads these when it is imported, so they are set when this is: no usage reports, no advice, no niceness of 15
# (actors starve with it on a busy machine), patience where such a machine is slow to start it, no tracebacks of what an
# actor that was replaced had queued, and no events of tasks, of which Ray would keep 10,000 and whose telling takes a
# tenth of the driver's time.
_SETTINGS = {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)


@dataclass(frozen=True)
class ClusterSpec:
    """`local` starts Ray on this machine alone, on loopback; `ray` joins the cluster at `address`."""

    kind: Literal["local", "ray"] = "local"
    address: str | None = None

    @classmethod
    def of(cls, asked: ClusterConfig) -> ClusterSpec:
        """The one that a configuration asks for."""
        return cls(asked.kind, asked.address)  # type: ignore[arg-type]  # validated


@contextlib.contextmanager
def session(spec: ClusterSpec) -> Iterator[None]:
    """A Ray session for the time of one sweep. Raises UserError where the cluster cannot be joined."""
    import ray
    from ray.exceptions import AuthenticationError

    where = spec.address or "auto"
    try:
        if spec.kind == "ray":
            ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=256 << 20,
                _node_ip_address="127.0.0.1",
            )
    except ConnectionError as error:
        remedy = "no Ray cluster answers there; start one with `ray start --head`"
        raise UserError("cluster.address", where, remedy) from error
    except AuthenticationError as error:
        remedy = "that cluster wants another token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to its head's"
        raise UserError("cluster.address", where, remedy) from error
    except RuntimeError as error:
        if "ersion mismatch" not in str(error):
            raise
        told = " ".join(str(error).split())
        raise UserError("cluster.address", where, f"that cluster runs other versions: {told}") from error
    try:
        yield
    finally:
        ray.shutdown()


def gpus() -> int:
    """GPUs that the session's nodes offer, all together."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def device() -> Literal["cpu", "cuda"]:
    """What the cluster's engines run on."""
    return "cuda" if gpus() else "cpu"


def cores() -> int:
    """CPU cores that Ray may use on the smallest of the session's nodes that has any; at least 1."""
    import ray

    found = (int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return min((n for n in found if n), default=1)


def on_other_nodes(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call a function once on every node but this one: what it returned there. A node that dies meanwhile is left out.
    Raises what the function raises."""
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    remote: Any = ray.remote(num_cpus=0)(function)
    others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in others]
    found = []
    for reference in [remote.options(scheduling_strategy=each).remote(*arguments) for each in there]:
        try:
            found.append(ray.get(reference))
        except RayTaskError as error:
            raise error.cause from None
        except RayError:
            continue
    return found


def logs() -> str:
    """The folder of this session's logs, where actors' output lies."""
    import ray

    node: Any = ray._private.worker._global_node
    return os.path.join(node.get_session_dir_path(), "logs")
