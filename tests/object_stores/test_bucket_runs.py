"""Sweeps in a bucket: run, resumed on another machine, killed, and cut off from the store. By the dummy engine."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import load_studies, load_study
from orchestrator.config.compose import compose
from orchestrator.store.bucket import Bucket, open_bucket, server
from orchestrator.store.files import read_meta
from orchestrator.utils.errors import UserError
from tests.e2e.conftest import Driver, assert_refused, call
from tests.object_stores.ceph import Store
from tests.object_stores.moto import Proxy

Use = Callable[[Store], str]
SMALL = ("engine=dummy", "grid.directions=1", "grid.steps=4", "probes.limit=4")
LONG = ("engine=dummy", "grid.directions=1", "grid.steps=30", "probes.limit=4", "cluster.actors=2")


def bucket(address: str) -> Bucket:
    return open_bucket(address, server())


def generations(address: str) -> list[str]:
    return [name for name in bucket(address).objects() if "/generations/" in name]


def on_machine(folder: Path) -> dict[str, str]:
    """Return the environment of a machine with a cache of its own."""
    return {**os.environ, "SAFETY_LANDSCAPE_CACHE": str(folder)}


def finish(address: str, tmp_path: Path, least: int) -> None:
    """Run the long sweep on a machine with an empty cache: nothing may be lost, and nothing may be twice.

    Args:
        address: The root of studies.
        tmp_path: Where caches of machines are.
        least: The number of tasks that were stored before.
    """
    done = call("run", *LONG, f"out={address}", env=on_machine(tmp_path / "third"))
    assert done.code == 0, done.err
    found = re.search(r"(\d+) of 31 tasks are stored", done.err)
    assert found is not None and int(found[1]) >= least, done.err
    names = generations(address)
    assert len(names) == 31 and len(load_study(address).generations) == 31 * 4


def wait_for(address: str, parts: int, driver: Driver) -> None:
    """Wait until so many parts are in the bucket."""
    while len(generations(address)) < parts:
        assert driver.process.poll() is None, driver.process.communicate()
        time.sleep(0.2)


@pytest.mark.cluster
def test_a_sweep_in_a_bucket_is_that_of_a_folder(moto: Store, use: Use, tmp_path: Path) -> None:
    address = use(moto)
    first = call("run", *SMALL, f"out={address}", env={})
    assert first.code == 0, first.err
    assert f"report  {address}/dummy-" in first.out and f"here    {tmp_path}/machine/" in first.out
    assert f"view {address}/dummy-" in first.out
    assert f"logs: {address}/dummy-" in first.err and str(tmp_path) not in first.err
    stored = {name: entry.etag for name, entry in bucket(address).objects().items()}
    assert not [name for name in stored if ".tmp" in name or "probe" in name]
    assert any("/events/" in name for name in stored) and any("/logs/" in name for name in stored)

    again = call("run", *SMALL, f"out={address}", env=on_machine(tmp_path / "other"))
    assert again.code == 0 and "Nothing to run: 5 of 5 tasks are stored" in again.err, again.err
    local = call("run", *SMALL, f"out={tmp_path}/studies", env={})
    assert local.code == 0, local.err
    there, here = load_study(address), load_study(tmp_path / "studies")
    assert there.landscape.equals(here.landscape)
    for folder in ("prompts", "directions"):
        parts = [{p.name: p.read_bytes() for p in (study.root / folder).iterdir()} for study in (there, here)]
        assert parts[0] == parts[1]
    tasks = [{str(read_meta(p)["tasks"]) for p in (s.root / "generations").iterdir()} for s in (there, here)]
    assert tasks[0] == tasks[1]
    assert len(load_studies(address)) == 1

    shown = call("gate", f"{address}/{there.root.name}/sweeps/{there.sweep.name}", "margin=0", env={})
    assert shown.code == 1 and str(tmp_path) not in shown.out + shown.err, shown


def test_options_that_a_bucket_cannot_have_are_refused() -> None:
    with pytest.raises(UserError, match=r"study.mode=group: .* the bucket's policy decides"):
        compose(["out=s3://bucket/studies", "study.mode=group"])
    assert compose(["out=s3://bucket/studies"]).out == "s3://bucket/studies"


@pytest.mark.cluster
def test_a_killed_driver_is_followed_on_another_machine(
    moto: Store, use: Use, tmp_path: Path, start: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = use(moto)
    driver = start("run", *LONG, f"out={address}", "engine.seconds=1")
    wait_for(address, 8, driver)
    assert_refused(call("run", *LONG, f"out={address}", env=on_machine(tmp_path / "second")), "a driver is at work")
    os.killpg(driver.process.pid, signal.SIGKILL)
    driver.process.communicate()
    finish(address, tmp_path, len(generations(address)))


@pytest.mark.cluster
@pytest.mark.slow
def test_a_run_that_loses_its_bucket_ends_in_one_sentence_and_is_resumed(
    moto: Store, use: Use, tmp_path: Path, start: Callable[..., Driver]
) -> None:
    proxy = Proxy(moto)
    proxy.open()
    address = use(proxy.store)
    driver = start("run", *LONG, f"out={address}", "engine.seconds=1")
    wait_for(address, 8, driver)
    proxy.close()
    ended = driver.wait()
    assert ended.code == 2, ended.err
    assert f"error: out={address}: cannot be used at the moment" in ended.err
    proxy.open()
    finish(address, tmp_path, len(generations(address)))
    proxy.close()
