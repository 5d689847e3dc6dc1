"""Caches of GPU kernels on machines whose home folders are on a network file system."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import pytest

from workers.engines.local_caches import CACHES, file_system, keep_caches_local

Mount = namedtuple("Mount", "mountpoint fstype")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home" / "me"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    for variable in CACHES:
        monkeypatch.setenv(variable, "")  # so that the test's own values are removed afterwards
        monkeypatch.delenv(variable)
    return folder


def mount(monkeypatch: pytest.MonkeyPatch, home: Path, kind: str) -> None:
    mounts = [Mount("/", "ext4"), Mount(str(home.parent), kind), Mount(str(home.parent / "mine"), "tmpfs")]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: mounts)


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "gpfs"])
def test_a_home_on_a_network_file_system_moves_caches_to_this_machine(
    kind: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount(monkeypatch, home, kind)
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/chosen")
    keep_caches_local()
    assert os.environ["VLLM_CACHE_ROOT"] == "/chosen"
    triton = Path(os.environ["TRITON_CACHE_DIR"])
    assert triton.parts[-2:] == ("caches", "triton") and not triton.is_relative_to(home)
    assert triton.parents[1].stat().st_mode & 0o077 == 0, "nobody else may enter"


def test_a_local_home_keeps_the_caches(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount(monkeypatch, home, "xfs")
    keep_caches_local()
    assert os.environ.keys().isdisjoint(CACHES)


def test_the_innermost_mount_decides(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount(monkeypatch, home, "nfs")
    assert (file_system(home), file_system(Path("/etc")), file_system(home.parent / "mine")) == ("nfs", "ext4", "tmpfs")
    monkeypatch.setattr("psutil.disk_partitions", lambda all: [])
    assert file_system(home) == ""
