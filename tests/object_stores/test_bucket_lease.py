"""A lease in a bucket: one driver holds it, a dead one never blocks, and a paused one finds that it has lost it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store import lease
from orchestrator.store.bucket import Bucket, open_bucket, server
from orchestrator.store.files import json_bytes
from orchestrator.store.lease import Lease, holders
from orchestrator.store.working_copy import LeaseChain, WorkingCopy, open_root, pull, working_copy
from orchestrator.utils.errors import UserError
from tests.object_stores.ceph import Store

Use = Callable[[Store], str]
SWEEP = "tiny-01234567/sweeps/mine-01234567"


@pytest.fixture
def address(server: Store, use: Use) -> str:
    return use(server)


@pytest.fixture
def path(address: str) -> Path:
    return open_root(address) / SWEEP / "lease.json"


def bucket(address: str) -> Bucket:
    return open_bucket(address, server())


def copy_of(path: Path) -> WorkingCopy:
    copy = working_copy(path.parents[3])
    assert copy is not None
    return copy


def enter(path: Path, part: str | None = None) -> Lease:
    return Lease(path.parents[3], path, part)


def append_foreign(path: Path, **changes: Any) -> LeaseChain:
    """Renew the lease as a driver on another host would."""
    chain, now = LeaseChain(copy_of(path), path), time.time()
    chain.look()
    document = {"name": "other", "user": "eve", "host": "far", "pid": 7, "born": 1.0, "since": now - 60, "beat": now}
    assert chain.append(json_bytes({**document, **changes}))
    return chain


def numbers(address: str) -> list[int]:
    return sorted(int(name[-9:]) for name in bucket(address).objects(SWEEP))


def test_a_lease_is_held_by_one_and_released(address: str, path: Path) -> None:
    with enter(path):
        with pytest.raises(UserError, match=f"a driver is at work on it: process {os.getpid()} .* on "):
            enter(path).__enter__()
        pull(path.parent)
        assert [held["host"] for held in holders(path.parent)] == [socket.gethostname()]
    assert numbers(address) == [1, 2]
    pull(path.parent)
    assert holders(path.parent) == [] and not path.exists()
    with enter(path):
        assert numbers(address) == [1, 2, 3]
    assert numbers(address) == [2, 3, 4], "only the last few are kept, and numbers only grow"


def test_a_holder_on_another_host_is_named_and_a_dead_one_is_followed(
    address: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.1)
    append_foreign(path)
    with pytest.raises(UserError, match=r"process 7 \(eve\) on far since"):
        enter(path).__enter__()
    append_foreign(path, beat=time.time() - 100)
    with enter(path):
        assert numbers(address)[-1] >= 3


def test_a_slow_clock_is_no_death(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 1.0)
    chain = append_foreign(path, beat=time.time() - 100)
    renewed = threading.Timer(0.5, lambda: append_foreign(path, beat=time.time() - 99))
    renewed.start()
    with pytest.raises(UserError, match="on far since"):
        enter(path).__enter__()
    renewed.join()
    assert not chain.append(b"late"), "its number is taken"


def test_parts_are_held_together_and_not_with_the_whole(path: Path) -> None:
    with (
        enter(path.with_name("lease-1of2.json"), "1/2"),
        enter(path.with_name("lease-2of2.json"), "2/2"),
        pytest.raises(UserError, match="at work on its part"),
    ):
        enter(path).__enter__()


def test_a_paused_driver_loses_its_lease_and_stops(
    address: str, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its next number is taken; or it was deleted already, and there are higher ones."""
    monkeypatch.setattr(lease, "HEARTBEAT", 0.2)
    for renewals in (1, 6):
        stopped = list[int]()
        previous = signal.signal(signal.SIGINT, lambda number, _, stopped=stopped: stopped.append(number))
        try:
            driver = enter(path)
            monkeypatch.setattr(driver, "_renew_until_released", lambda: None)
            driver._thread = threading.Thread(target=lambda: None)
            with driver:
                last = numbers(address)[-1]
                for _ in range(renewals):
                    append_foreign(path)
                Lease._renew_until_released(driver)
                assert stopped == [signal.SIGINT]
            assert numbers(address)[-1] == last + renewals, "it has neither released nor renewed what is not its own"
        finally:
            signal.signal(signal.SIGINT, previous)
        append_foreign(path, beat=time.time() - 100)
    assert "Another driver has taken over this sweep" in caplog.text


def test_a_number_that_was_deleted_meanwhile_is_no_lease(address: str, path: Path) -> None:
    paused = append_foreign(path)
    for _ in range(LeaseChain.KEPT + 1):
        append_foreign(path)
    kept = numbers(address)
    assert kept[0] > 2 and not paused.append(b"late")
    assert numbers(address) == kept


def test_two_that_follow_a_dead_driver_at_once_do_not_both_win(ceph: Store, use: Use) -> None:
    path = open_root(use(ceph)) / SWEEP / "lease.json"
    for _ in range(10):
        append_foreign(path, beat=time.time() - 100)
        chains, barrier, won = [LeaseChain(copy_of(path), path) for _ in range(3)], threading.Barrier(3), list[int]()

        def follow(i: int, chains: Any = chains, barrier: threading.Barrier = barrier, won: list[int] = won) -> None:
            chains[i].look()
            barrier.wait()
            if chains[i].append(b"%d" % i):
                won.append(i)

        threads = [threading.Thread(target=follow, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
