"""The end of a cluster that was joined is seen from its sockets."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.execution import cluster, joined_cluster
from orchestrator.execution.cluster import ClusterSpec
from orchestrator.execution.joined_cluster import HeadProbe
from orchestrator.utils.errors import UserError


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined_cluster, "HEAD_INTERVAL", 0.0)
    monkeypatch.setattr(joined_cluster, "HEAD_PATIENCE", 0.0)


def test_the_ends_of_raylet_and_head_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket has at most 107 bytes
    raylet, head = socket.socket(socket.AF_UNIX), socket.create_server(("127.0.0.1", 0))
    raylet.bind("raylet")
    raylet.listen()
    address = f"127.0.0.1:{head.getsockname()[1]}"
    node = SimpleNamespace(all_processes={}, raylet_socket_name="raylet", gcs_address=address)
    monkeypatch.setattr(cluster, "_node", lambda: node)
    assert cluster.ended_process() is None
    head.close()
    assert cluster.ended_process() == "gcs_server"
    raylet.close()  # as when its process is killed: the file stays
    assert Path("raylet").exists() and cluster.ended_process() == "raylet"


def test_a_cluster_that_does_not_answer_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own attempts take ten minutes, and print nothing."""
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray was asked to connect"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert joined_cluster.answers(address)
    with pytest.raises(UserError, match="no Ray cluster answers there"), cluster.session(ClusterSpec("ray", address)):
        pass


def test_auto_is_resolved_and_then_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.2:{port}")
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray was asked to connect"))
    monkeypatch.setattr("orchestrator.utils.logs.is_quiet", lambda: False)
    said: list[str] = []
    with (
        pytest.raises(UserError, match=rf"auto \(127.0.0.2:{port}\): no Ray cluster answers there"),
        cluster.session(ClusterSpec("ray"), notify=said.append),
    ):
        pass
    assert said == [f"joins the Ray cluster at 127.0.0.2:{port}"]


@pytest.mark.parametrize("error", [TimeoutError(), socket.gaierror()])
def test_a_head_that_cannot_be_reached_or_found_is_not_joined(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(socket, "create_connection", fail)
    assert not joined_cluster.answers("head:1")


def test_text_without_a_port_is_refused() -> None:
    with pytest.raises(UserError, match="is neither HOST:PORT nor `auto`"), cluster.session(ClusterSpec("ray", "head")):
        pass


def test_a_node_whose_files_are_closed_is_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray aborts a process that cannot open its log or connect to its node's socket."""
    address, logs, closed = "127.0.0.2:1", tmp_path / "logs", set[Path]()
    sockets = [tmp_path / name for name in ("raylet", "raylet.1")]
    logs.mkdir()
    for path in sockets:
        path.touch()
    session = ("raylet", f"--gcs-address={address}", f"--session_dir={tmp_path}")
    commands = [None, ["gcs_server", "--a=b=c"], *([*session, f"--raylet_socket_name={path}"] for path in sockets)]
    processes = [SimpleNamespace(info={"cmdline": command}) for command in commands]
    monkeypatch.setattr("psutil.process_iter", lambda names: processes)
    monkeypatch.setattr("os.access", lambda path, mode: path not in closed)  # nothing is closed to root
    assert joined_cluster.closed_path(address) is None
    closed.add(sockets[0])
    assert joined_cluster.closed_path(address) is None, "the other node is open"
    closed.add(sockets[1])
    assert joined_cluster.closed_path(address) == sockets[0]
    assert joined_cluster.closed_path("127.0.0.2:2") is None, "another cluster"
    closed.add(logs)
    monkeypatch.setattr(cluster, "answers", lambda address: True)
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray was asked to connect"))
    with pytest.raises(UserError, match="is closed to you"), cluster.session(ClusterSpec("ray", address)):
        pass
    sockets[1].unlink()
    closed.remove(logs)
    assert joined_cluster.closed_path(address) is None, "a node in a container has its files elsewhere"


def test_a_head_that_is_started_again_in_time_has_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([True, True, False, True, True])
    clock = iter([0.0, 39.0, 50.0, 60.0, 100.0])
    monkeypatch.setattr(joined_cluster, "HEAD_PATIENCE", 40.0)
    monkeypatch.setattr(joined_cluster, "_refuses", lambda address: next(answers))
    monkeypatch.setattr(joined_cluster.time, "monotonic", lambda: next(clock))
    probe = HeadProbe()
    assert [probe.has_ended("head:1") for _ in range(5)] == [False, False, False, False, True]


def test_a_head_that_cannot_be_reached_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", unreachable)
    probe = HeadProbe()
    assert not any(probe.has_ended("head:1") for _ in range(3))
