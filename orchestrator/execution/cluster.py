"""Ray session of a sweep: start Ray on this machine, or join a running cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.config.schema import ClusterConfig
from orchestrator.execution.joined_cluster import HeadProbe, answers, closed_path, is_listening
from orchestrator.execution.session_folder import TOKEN, session_folder
from orchestrator.execution.session_processes import (
    agents_end_with_driver,
    child_processes,
    has_ended,
    kill_ray_processes,
)
from orchestrator.utils import logs, nvidia
from orchestrator.utils.errors import UserError
from orchestrator.utils.private import replaced_session_root
from orchestrator.utils.subprocesses import first_line

logger = logging.getLogger(__name__)

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

LOOPBACK = "127.0.0.1"
START_ATTEMPTS = 3
START_TIMEOUT = 120.0  # seconds
_head = HeadProbe()  # of the cluster that was joined

OBJECT_STORE_BYTES = 256 << 20  # of a local session, whose prompt sets and receipts are small


@dataclass(frozen=True)
class ClusterSpec:
    """Ray cluster to use.

    Attributes:
        kind: `local` starts Ray on this machine, on loopback only; `ray` joins a running cluster.
        address: Address of the cluster to join. None: `auto`, the cluster of which this machine is a node.
        metrics_port: Port of a local session's endpoint for Prometheus. None: any that is free.
    """

    kind: Literal["local", "ray"] = "local"
    address: str | None = None
    metrics_port: int | None = None

    @classmethod
    def from_config(cls, config: ClusterConfig) -> ClusterSpec:
        """Return the cluster of a validated configuration."""
        return cls(config.kind, config.address, config.metrics_port)  # type: ignore[arg-type]  # validated


@contextlib.contextmanager
def session(
    spec: ClusterSpec, kept_logs: Path | None = None, notify: Callable[[str], object] = logger.warning
) -> Iterator[None]:
    """Start or join Ray for the duration of the context.

    A local session listens on loopback only, requires a token of its own, and keeps its files in a private folder that
    is removed at the end. A cluster that is joined stays as it is. If this process is connected to Ray already, as a
    notebook may be, that session is used, whatever `spec` is, and the process stays connected.

    Args:
        spec: The cluster.
        kept_logs: Folder for a copy of a local session's logs. None: they are removed with the session.
        notify: Called with a line for the user: if Ray's files are not where the environment names their folder, if Ray
            did not start and is started again, and which cluster `auto` found.

    Raises:
        UserError: The cluster cannot be joined, this machine cannot hold a private session, or Ray does not start.
    """
    import ray

    if is_connected():
        yield
        return
    with contextlib.ExitStack() as stack:
        if spec.kind == "local":
            if note := replaced_session_root():
                notify(note)
            _start(stack.enter_context(_private_session(kept_logs)), notify, spec.metrics_port)
            stack.enter_context(agents_end_with_driver())
        else:
            _join(spec.address or "auto", notify)
        try:
            yield
        finally:
            ray.shutdown()


def is_connected() -> bool:
    """Return whether this process is connected to a Ray session, which need not be one of `session`."""
    import ray

    return bool(ray.is_initialized())


def _start(folder: Path, notify: Callable[[str], object], metrics_port: int | None) -> None:
    """Start Ray on this machine, with its files in a private folder.

    On a busy machine Ray's own time limits pass: wait longer, and try START_ATTEMPTS times.

    Raises:
        UserError: It did not start, or it listens on another address than loopback.
    """
    import ray

    for attempt in range(1, START_ATTEMPTS + 1):
        before = child_processes()
        try:
            _start_once(folder, metrics_port)
            return
        except UserError:
            raise
        except Exception as error:  # Ray raises a bare Exception, RuntimeError or OSError
            reason = first_line(error)
        with contextlib.suppress(Exception):
            ray.shutdown()
        kill_ray_processes(child_processes() - before)
        if attempt < START_ATTEMPTS:
            notify(f"Ray did not start ({reason}); trying again: attempt {attempt + 1} of {START_ATTEMPTS}")
    remedy = f"Ray did not start in {START_ATTEMPTS} attempts ({reason}): start again when this machine is less busy"
    raise UserError("cluster.kind", "local", f"{remedy}, or check its memory and disk with `doctor`")


def _start_once(folder: Path, metrics_port: int | None) -> None:
    import ray

    with _without_unused_processes(), _longer_wait_for_node():
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            num_gpus=nvidia.count_slices(),  # Ray counts whole GPUs
            object_store_memory=OBJECT_STORE_BYTES,
            _node_ip_address=LOOPBACK,
            _metrics_export_port=metrics_port,
            _temp_dir=str(folder),
        )
    address = _node().node_ip_address
    if address != LOOPBACK:
        ray.shutdown()
        remedy = f"this Ray listens on {address} instead of {LOOPBACK}: install version 2.60, or join your own cluster"
        raise UserError("ray", ray.__version__, remedy)


def _join(address: str, notify: Callable[[str], object]) -> None:
    """Join a running cluster, and say for which one `auto` stands. Raises UserError if that is not possible."""
    import ray
    from ray.exceptions import AuthenticationError

    named = address  # as messages show it
    try:
        where = _resolved(address)
        if address == "auto":
            named = f"auto ({where})"
            if not logs.is_quiet():
                notify(f"joins the Ray cluster at {where}")
        if not answers(where):
            raise ConnectionError  # Ray would try for ten minutes, without a word
        if path := closed_path(where):
            remedy = f"that cluster belongs to another user, whose {path} is closed to you: start your own with "
            remedy += "`ray start --head` and set cluster.address to its HOST:PORT, or leave out cluster=ray"
            raise UserError("cluster.address", named, remedy)
        ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        remedy = "no Ray cluster answers there; start one with `ray start --head`, or set cluster.address to the "
        raise UserError("cluster.address", named, f"{remedy}HOST:PORT of one that runs") from error
    except AuthenticationError as error:
        remedy = "that cluster requires another token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to its head's"
        raise UserError("cluster.address", named, remedy) from error
    except RuntimeError as error:
        if "ersion mismatch" not in str(error):
            raise
        message = " ".join(str(error).split())
        raise UserError("cluster.address", named, f"that cluster runs other versions: {message}") from error


def _resolved(address: str) -> str:
    """Return the `HOST:PORT` for which an address such as `auto` stands on this machine.

    Raises:
        ConnectionError: `auto` finds no cluster.
        UserError: It is no address.
    """
    from ray._private import services

    if address == "auto":
        services.find_gcs_addresses.cache_clear()  # of a process that looked before
        address = services.get_ray_address_from_environment(address, None)
    if "://" in address:
        return address
    try:
        return services.canonicalize_bootstrap_address(address) or address
    except ValueError as error:
        raise UserError("cluster.address", address, "is neither HOST:PORT nor `auto`") from error


@contextlib.contextmanager
def _private_session(kept_logs: Path | None) -> Iterator[Path]:
    """Set Ray up for a session that no other user and no other machine can join. Yields its folder."""
    from ray._private import ray_constants

    with session_folder(kept_logs) as folder:
        settings: dict[str, str | None] = {
            # Ray replaces 127.0.0.1 by the machine's address, and then listens on every interface, unless clusters of
            # several machines are disabled. Despite the variable's name this is possible on every system.
            ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / TOKEN),
            "RAY_AUTH_TOKEN": None,
        }
        before = {name: os.environ.get(name) for name in settings}
        enabled = ray_constants.ENABLE_RAY_CLUSTER
        try:
            _set_environment(settings)
            ray_constants.ENABLE_RAY_CLUSTER = False
            yield folder
        finally:
            _set_environment(before)
            ray_constants.ENABLE_RAY_CLUSTER = enabled


def _set_environment(values: Mapping[str, str | None]) -> None:
    """Set environment variables (None removes one), and let Ray read its token and settings again."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled

    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


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


@contextlib.contextmanager
def _longer_wait_for_node() -> Iterator[None]:
    """Let Ray wait START_TIMEOUT seconds, instead of its fixed 30, until the node that it starts is registered."""
    from ray._private import services

    original: Any = services.get_node

    def get_node(*arguments: Any, **options: Any) -> Any:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                return original(*arguments, **options)
            except RuntimeError:  # not registered yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    vars(services)["get_node"] = get_node
    try:
        yield
    finally:
        vars(services)["get_node"] = original


def ended_process() -> str | None:
    """Return the name of a process of Ray that this driver needs and that has ended. None if all are running.

    Of a cluster that was joined these are the raylet of this machine and the head's gcs_server.
    """
    node = _node()
    if node is None:
        return None
    if not node.all_processes:
        if not is_listening(node.raylet_socket_name):
            return "raylet"
        return "gcs_server" if _head.has_ended(node.gcs_address) else None
    for name, processes in dict(node.all_processes).items():
        if any(has_ended(each.process) for each in processes):
            return str(name)
    return None


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


def resources_of_nodes(refused: Collection[str] = ()) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Return (free, total) resources of each node that is alive, except those with the ids `refused`."""
    import ray
    from ray._private import state

    free = state.available_resources_per_node()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in refused]
    return [(dict(free.get(node["NodeID"], {})), dict(node["Resources"])) for node in nodes]


def has_process(actor: Any) -> bool:
    """Return whether Ray has placed an actor on a node and started its process, whose constructor may still run.

    Args:
        actor: The actor's handle.
    """
    from ray._private import state

    return bool(state.actors(actor._actor_id.hex()).get("Pid"))


def log_folder() -> str:
    """Return the folder of this session's logs, which contain the output of the actors."""
    return os.path.join(_node().get_session_dir_path(), "logs")


def _node() -> Any:
    """Return Ray's object for the node to which this process is connected."""
    import ray

    return ray._private.worker._global_node
