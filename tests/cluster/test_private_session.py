"""A local Ray session is closed to other machines and to other users, and leaves nothing behind."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.execution import cluster
from orchestrator.utils.private import runtime_folder
from tests.cluster.conftest import prepare_environment
from tests.unit.users import as_nobody, needs_two_users

EARLIER: dict[str, list[str]] = {"tcp": [], "udp": [], "unix": []}
"""The listening sockets of this process and its children before the session started, by kind."""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start a local session with an actor, and yield the folder for its logs."""
    import ray

    prepare_environment()
    logs = tmp_path_factory.mktemp("logs") / "ray"
    for kind in EARLIER:  # those of other tests in this process
        EARLIER[kind] = listening(kind)
    with cluster.session(cluster.ClusterSpec(), logs):
        actor = ray.remote(num_cpus=0)(_Worker).remote()  # type: ignore[attr-defined]
        assert ray.get(actor.pid.remote()) != os.getpid()
        yield logs


class _Worker:
    def pid(self) -> int:
        print("a worker's output")
        return os.getpid()


def processes() -> set[int]:
    """Return the ids of this process and of all that it has started."""
    driver = psutil.Process()
    return {process.pid for process in (driver, *driver.children(recursive=True))}


def sockets(kind: str) -> list[str]:
    """Return the local addresses of the listening sockets that this session opened. `kind`: tcp, udp or unix."""
    return [address for address in listening(kind) if address not in EARLIER[kind]]


def listening(kind: str) -> list[str]:
    """Return the local addresses of the listening sockets of this process and its children."""
    flag = {"tcp": "-t", "udp": "-u", "unix": "-x"}[kind]
    lines = subprocess.run(["ss", "-Hnlp", flag], capture_output=True, text=True, check=True).stdout.splitlines()
    own_lines = [line for line in lines if processes() & set(map(int, re.findall(r"pid=(\d+)", line)))]
    return [line.split()[4 if kind == "unix" else 3] for line in own_lines]


def test_every_listening_socket_is_on_loopback(session: Path) -> None:
    addresses = sockets("tcp") + sockets("udp")
    assert len(sockets("tcp")) >= 5, "gcs, raylet, driver, worker and agents each listen"
    for address in addresses:
        host = ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
        mapped = getattr(host, "ipv4_mapped", None) or host
        assert mapped.is_loopback, f"{address} of {addresses}"


def test_sockets_and_token_are_in_a_private_folder(session: Path) -> None:
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    folder = token.parent
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert folder.parent == runtime_folder() and stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    files = [address for address in sockets("unix") if address != "*"]
    assert files and all(Path(address).is_relative_to(folder) for address in files), files
    assert Path(cluster.log_folder()).is_relative_to(folder)


@needs_two_users
def test_another_user_reads_neither_token_nor_sockets_nor_logs(session: Path) -> None:
    folder = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent
    assert list(folder.rglob("*")), "there is something to protect"
    for command in (["cat", os.environ["RAY_AUTH_TOKEN_PATH"]], ["ls", str(folder)], ["ls", cluster.log_folder()]):
        done = as_nobody(*command)
        assert done.returncode != 0 and "Permission denied" in done.stderr, done


def test_a_session_ends_with_its_logs_kept_and_its_folder_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from orchestrator.execution import cluster\n"
        "os.environ['RAY_AUTH_TOKEN'] = 'before'\n"
        "with cluster.session(cluster.ClusterSpec(), Path(sys.argv[1])):\n"
        "    assert 'RAY_AUTH_TOKEN' not in os.environ\n"
        "    print(os.path.dirname(os.environ['RAY_AUTH_TOKEN_PATH']), flush=True)\n"
        "assert os.environ['RAY_AUTH_TOKEN'] == 'before' and 'RAY_AUTH_TOKEN_PATH' not in os.environ\n"
    )
    logs = tmp_path / "run-ray"
    command = [sys.executable, "-c", code, str(logs)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=env)
    folder = Path(done.stdout.strip())
    assert folder.name.startswith("ray-") and not folder.exists()
    kept = {path.name for path in logs.iterdir()}
    assert any(name.startswith("raylet") for name in kept), kept
    assert stat.S_IMODE(logs.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in logs.iterdir()} == {0o600}
