"""A bucket: exclusive creation, listings, and refusals in one sentence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock, call

import pytest

from orchestrator.store.bucket import Bucket
from orchestrator.store.errors import StorageError
from orchestrator.utils.errors import UserError
from tests.object_stores.ceph import Store

Use = Callable[[Store], str]


def test_an_object_is_created_once(server: Store, use: Use) -> None:
    bucket = Bucket(use(server))
    bucket.check_usable()
    assert bucket.create("a/lease", b"one")
    assert not bucket.create("a/lease", b"two")
    assert bucket.create("a/lease", b"one"), "the answer to the first creation was lost, and it was repeated"
    assert bucket.read("a/lease") == b"one" and bucket.read("a/none") is None
    assert {name: entry.size for name, entry in bucket.objects("a").items()} == {"a/lease": 3}
    bucket.delete("a/lease")
    bucket.delete("a/lease")
    assert bucket.objects() == {}, "the probe of check_usable is deleted too"


def test_of_many_who_create_at_once_one_wins(ceph: Store, use: Use) -> None:
    address = use(ceph)
    buckets = [Bucket(address) for _ in range(4)]
    for number in range(20):
        barrier, won = threading.Barrier(len(buckets)), list[int]()

        def create(i: int, name: str = f"{number}", barrier: Any = barrier, won: list[int] = won) -> None:
            barrier.wait()
            if buckets[i].create(name, f"{i}".encode()):
                won.append(i)

        threads = [threading.Thread(target=create, args=(i,)) for i in range(len(buckets))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1 and buckets[0].read(f"{number}") == f"{won[0]}".encode()


def test_a_server_that_ignores_conditions_is_refused(moto: Store, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(use(moto))
    pipe_file = bucket._fs.pipe_file
    monkeypatch.setattr(bucket._fs, "pipe_file", lambda path, value, mode: pipe_file(path, value))
    with pytest.raises(UserError, match="two drivers could not be kept apart"):
        bucket.check_usable()
    assert bucket.objects() == {}


def test_a_missing_bucket_and_a_missing_server_are_named(
    moto: Store, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(moto)
    missing = Bucket("s3://nobody-has-this/studies")
    for request in (missing.check_usable, missing.folders, lambda: missing.read("a"), lambda: missing.objects()):
        with pytest.raises(StorageError, match="there is no such bucket: create it first"):
            request()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"cannot be used at the moment \(EndpointConnectionError\)"):
        Bucket("s3://bucket/studies").folders()


def test_a_server_that_cannot_be_reached_is_not_taken_for_a_missing_object(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket("s3://bucket/studies")
    info = Mock(side_effect=[FileNotFoundError(), PermissionError(), ConnectionError()])
    monkeypatch.setattr(bucket._fs, "info", info)
    assert not bucket.exists("a") and not bucket.exists("a")
    with pytest.raises(StorageError, match=r"cannot be used at the moment \(ConnectionError\)"):
        bucket.exists("a")
    assert info.call_args_list == [call("bucket/studies/a")] * 3


def test_a_wrong_key_is_refused_and_never_shown(ceph: Store, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    address = use(ceph)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(StorageError, match="access is denied") as refused:
        Bucket(address).check_usable()
    assert "wrong-secret" not in str(refused.value) and ceph.key not in str(refused.value)


def test_missing_credentials_are_named(moto: Store, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    address = use(moto)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match="export AWS_ACCESS_KEY_ID"):
        Bucket(address).folders()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="needs the package gcsfs, which is not installed: pip install gcsfs"):
        Bucket("gs://bucket/studies")
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(UserError, match=r"pip install 'safety-landscape\[s3\]'"):
        Bucket("s3://bucket/studies")
