"""Fixtures of object stores."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from orchestrator.store.working_copy import open_root
from tests.e2e.conftest import start as start  # a fixture
from tests.object_stores.ceph import CephUnavailableError, Store, ceph_gateway, ceph_programs
from tests.object_stores.moto import moto_server
from tests.tools.environment import cache_folder


@pytest.fixture(scope="session")
def ceph() -> Iterator[Store]:
    """A gateway of Ceph on loopback. Skips where its packages cannot be had."""
    try:
        programs = ceph_programs(cache_folder())
    except CephUnavailableError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="ceph-") as folder, ceph_gateway(programs, Path(folder)) as store:
        yield store


@pytest.fixture(scope="session")
def moto() -> Iterator[Store]:
    """moto's server on loopback."""
    with moto_server() as store:
        yield store


@pytest.fixture(params=["moto", "ceph"])
def server(request: pytest.FixtureRequest) -> Store:
    """Each store, for what depends on conditional requests."""
    store: Store = request.getfixturevalue(request.param)
    return store


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Store], str]:
    """Return a function that lets the environment name a store, and returns the address of a new bucket in it."""

    def use_store(store: Store) -> str:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.secret)
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "machine"))
        bucket = f"test-{uuid.uuid4().hex}"
        _files(store).mkdir(bucket)
        return f"s3://{bucket}/studies"

    return use_store


@pytest.fixture
def other_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that lets this process have the empty cache of another machine; it opens an address there."""

    def move(address: str, name: str = "other") -> Path:
        monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / name))
        return open_root(address)

    return move


def _files(store: Store) -> Any:
    """Return the file system of a store; fsspec keeps one for each."""
    return fsspec.filesystem("s3", key=store.key, secret=store.secret, endpoint_url=store.endpoint)
