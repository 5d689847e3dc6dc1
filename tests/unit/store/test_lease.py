"""A second driver is told who is at work; a dead one never blocks."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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


def written(path: Path, **changes: Any) -> None:
    """A lease as another driver, on another host, would have left it."""
    now = time.time()
    document = {"name": "other", "user": "eve", "host": "far", "pid": 7, "born": 1.0, "since": now - 60, "beat": now}
    publish_json(path.parents[2], path, {**document, **changes})


def test_is_held_and_given_up(path: Path) -> None:
    with enter(path):
        held = holder(path)
        assert held is not None and (held["pid"], held["host"]) == (os.getpid(), socket.gethostname())
    assert not path.exists() and holder(path) is None


@pytest.mark.parametrize(
    ("held", "asked", "together"),
    [("1/3", "2/3", True), ("1/3", "1/3", False), ("1/3", "2/4", False), ("1/3", None, False), (None, "1/3", False)],
)
def test_parts_of_one_division_are_held_beside_each_other(
    path: Path, held: str | None, asked: str | None, together: bool
) -> None:
    def of(part: str | None) -> Path:
        return path.with_name(f"lease-{part.replace('/', 'of')}.json") if part else path

    written(of(held), part=held)
    if together:
        with enter(of(asked), asked):
            assert {h["part"] for h in lease.holders(path.parent)} == {held, asked}
    else:
        with pytest.raises(UserError, match="at work on its part 1/3" if held else "at work on it:"):
            enter(of(asked), asked).__enter__()
    assert {h.name for h in path.parent.iterdir()} == {of(held).name}


def test_who_enters_beside_the_whole_at_once_leaves_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = enter(path.with_name("lease-1of2.json"), "1/2")
    beat = mine._beat
    monkeypatch.setattr(mine, "_beat", lambda: (beat(), written(path)))
    with pytest.raises(UserError, match="on far"):
        mine.__enter__()
    assert [h.name for h in path.parent.iterdir()] == ["lease.json"]


def test_is_given_up_when_the_work_fails(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), enter(path):
        raise ZeroDivisionError
    assert not path.exists()


def test_a_second_driver_is_told_who_where_and_since_when(path: Path) -> None:
    written(path, since=0)
    with pytest.raises(
        UserError, match=r"^sweep=mine-01234567: .*process 7 \(eve\) on far since (1969|1970)-"
    ) as refused:
        enter(path).__enter__()
    assert "status" in str(refused.value)
    assert read_json(path)["name"] == "other"


def test_a_living_process_blocks_and_a_killed_one_does_not(path: Path) -> None:
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


def test_a_process_of_the_same_number_born_later_does_not_block(path: Path) -> None:
    written(path, host=socket.gethostname(), pid=os.getpid(), born=1.0)
    with enter(path):
        pass


@pytest.mark.parametrize("age", [lease.STALE + 5, -lease.STALE - 5, 1e9])
def test_a_heartbeat_that_stopped_or_comes_from_the_future_does_not_block(path: Path, age: float) -> None:
    written(path, beat=time.time() - age)
    with enter(path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', "\x00" * 100])
def test_a_lease_that_cannot_be_read_does_not_block(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with enter(path):
        assert read_json(path)["pid"] == os.getpid()


def test_beats_while_it_is_held(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    with enter(path):
        first = read_json(path)["beat"]
        until = time.monotonic() + 30
        while read_json(path)["beat"] == first and time.monotonic() < until:
            time.sleep(0.01)
        assert read_json(path)["beat"] > first


def test_who_was_thought_dead_leaves_the_new_holder_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    with enter(path):
        written(path)
        time.sleep(0.1)
        assert read_json(path)["name"] == "other"
    assert read_json(path)["name"] == "other"


def test_of_two_that_enter_at_once_the_overwritten_one_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = enter(path)
    monkeypatch.setattr(mine, "_beat", lambda: written(path))
    with pytest.raises(UserError, match="on far"):
        mine.__enter__()
