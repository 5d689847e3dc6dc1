"""Fixtures of object stores."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.object_stores.ceph import CephUnavailableError, Store, ceph_gateway, ceph_programs
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
