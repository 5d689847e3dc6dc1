"""Leases: a second driver learns who is at work, and a dead driver never blocks."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.store import lease
from orchestrator.store.files import publish_json, read_json
from orchestrator.store.lease import Lease, holder
from orchestrator.utils.errors import UserError

HOLDS = """
import sys, time
from pathlib import Path
from orchestrator.store.lease import Lease
with Lease(Path(sys.argv[1]), Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "studies" / "sweeps" / "mine-01234567" / "lease.json"


def enter(path: Path, part: str | None = None) -> Lease:
    return Lease(path.parents[2], path, part)


def write_foreign_lease(path: Path, **changes: Any) -> None:
    """Write a lease as a driver on another host would have left it."""
    now = time.time()
    document = {"name": "other", "user": "eve", "host": "far", "pid": 7, "born": 1.0, "since": now - 60, "beat": now}
    publish_json(path.parents[2], path, {**document, **changes})


def test_a_lease_is_held_and_released(path: Path) -> None:
    with enter(path):
        document = holder(path)
        assert document is not None and (document["pid"], document["host"]) == (os.getpid(), socket.gethostname())
    assert not path.exists() and holder(path) is None


@pytest.mark.parametrize(
    ("held", "requested", "together"),
    [("1/3", "2/3", True), ("1/3", "1/3", False), ("1/3", "2/4", False), ("1/3", None, False), (None, "1/3", False)],
)
def test_parts_of_one_division_can_be_held_together(
    path: Path, held: str | None, requested: str | None, together: bool
) -> None:
    def lease_path(part: str | None) -> Path:
        return path.with_name(f"lease-{part.replace('/', 'of')}.json") if part else path

    write_foreign_lease(lease_path(held), part=held)
    if together:
        with enter(lease_path(requested), requested):
            assert {entry["part"] for entry in lease.holders(path.parent)} == {held, requested}
    else:
        with pytest.raises(UserError, match="at work on its part 1/3" if held else "at work on it:"):
            enter(lease_path(requested), requested).__enter__()
    assert {entry.name for entry in path.parent.iterdir()} == {lease_path(held).name}


def test_a_part_that_enters_together_with_the_whole_sweep_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_lease = enter(path.with_name("lease-1of2.json"), "1/2")
    renew = own_lease._renew
    monkeypatch.setattr(own_lease, "_renew", lambda: (renew(), write_foreign_lease(path)))
    with pytest.raises(UserError, match="on far"):
        own_lease.__enter__()
    assert [h.name for h in path.parent.iterdir()] == ["lease.json"]


def test_a_lease_is_released_when_the_work_fails(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), enter(path):
        raise ZeroDivisionError
    assert not path.exists()


def test_a_second_driver_learns_who_holds_the_lease_where_and_since_when(path: Path) -> None:
    write_foreign_lease(path, since=0)
    with pytest.raises(
        UserError, match=r"^sweep=mine-01234567: .*process 7 \(eve\) on far since (1969|1970)-"
    ) as refused:
        enter(path).__enter__()
    assert "status" in str(refused.value)
    assert read_json(path)["name"] == "other"


def test_a_live_process_blocks_and_a_killed_one_does_not(path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLDS, path.parents[2], path], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    try:
        with pytest.raises(UserError, match=re.escape(f"process {other.pid} ")):
            enter(path).__enter__()
    finally:
        other.kill()
        other.wait()
    assert path.exists()
    with enter(path):
        assert read_json(path)["pid"] == os.getpid()


def test_a_later_process_with_the_same_id_does_not_block(path: Path) -> None:
    write_foreign_lease(path, host=socket.gethostname(), pid=os.getpid(), born=1.0)
    with enter(path):
        pass


@pytest.mark.parametrize("age", [lease.STALE + 5, -lease.STALE - 5, 1e9])
def test_a_stale_or_future_heartbeat_does_not_block(path: Path, monkeypatch: pytest.MonkeyPatch, age: float) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    write_foreign_lease(path, beat=time.time() - age)
    with enter(path):
        pass


@pytest.mark.parametrize("step", [-40 * 86400.0, 3600.0])
def test_a_clock_that_is_set_wrong_does_not_hide_a_live_driver(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """The first driver's clock stays right, as on another host. The boot time that psutil reads moves with it."""
    monkeypatch.setattr(lease, "HEARTBEAT", 0.1)
    first = "from orchestrator.store import lease; lease.HEARTBEAT = 0.1" + HOLDS
    other = subprocess.Popen([sys.executable, "-c", first, path.parents[2], path], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    real, boot = time.time, psutil.boot_time()
    monkeypatch.setattr(time, "time", lambda: real() + step)
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot + step)
    monkeypatch.setattr(lease, "WATCHED", 600)  # it ends as soon as a heartbeat is seen
    try:
        with pytest.raises(UserError, match=re.escape(f"process {other.pid} ")):
            enter(path).__enter__()
    finally:
        other.kill()
        other.wait()
    with enter(path):
        assert read_json(path)["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', "\x00" * 100])
def test_an_unreadable_lease_does_not_block(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with enter(path):
        assert read_json(path)["pid"] == os.getpid()


def test_the_heartbeat_is_renewed_while_the_lease_is_held(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    with enter(path):
        first = read_json(path)["beat"]
        deadline = time.monotonic() + 30
        while read_json(path)["beat"] == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert read_json(path)["beat"] > first


def test_a_holder_that_was_replaced_leaves_the_new_lease_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    with enter(path):
        deadline = time.monotonic() + 30
        # A renewal that read the lease just before it was replaced overwrites it once: it is replaced until it stays.
        while read_json(path)["name"] != "other" and time.monotonic() < deadline:
            write_foreign_lease(path)
            time.sleep(0.1)
        assert read_json(path)["name"] == "other"
    assert read_json(path)["name"] == "other"


def test_the_overwritten_one_of_two_simultaneous_holders_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_lease = enter(path)
    monkeypatch.setattr(own_lease, "_renew", lambda: write_foreign_lease(path))
    with pytest.raises(UserError, match="on far"):
        own_lease.__enter__()
