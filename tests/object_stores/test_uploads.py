"""Tests that growing files reach their bucket: after a few seconds, at a run's end, and after an outage."""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.store import uploads
from orchestrator.store.bucket import Bucket, open_bucket, server
from orchestrator.store.errors import StorageError
from orchestrator.store.files import publish_json
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.uploads import LogUploads
from orchestrator.store.working_copy import open_root, pull
from tests.object_stores.ceph import Store
from tests.unit.store.studies import INFO

RUN, OTHER = "20260101T000000-00000000", "20260101T000000-11111111"
JUDGING = "20260101T000000-22222222"


class Run:
    """A sweep in a bucket with a run of this host and one of another host, and what the bucket has of their files."""

    def __init__(self, address: str) -> None:
        study = Study.create(open_root(address), INFO)
        self.folder = SweepFolder(study, study.root / "sweeps" / "mine-01234567")
        self.bucket = open_bucket(address, server())
        for run, host in ((RUN, socket.gethostname()), (OTHER, "elsewhere")):
            publish_json(study.out, self.folder.path / "runs" / f"{run}.json", {"host": host})
        ray_log, tracker = self.folder.ray_logs_path(RUN) / "raylet.out", self.folder.path / "tracking" / "x" / "data"
        self.files = (study.events(RUN).path, self.folder.log_path(RUN), ray_log, tracker)

    def append(self, text: str = "a line\n") -> None:
        for path in self.files:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(text)

    def stored(self, path: Path) -> bytes | None:
        return self.bucket.read(path.relative_to(self.folder.study.out).as_posix())

    def is_whole(self) -> bool:
        return all(self.stored(path) == path.read_bytes() for path in self.files)


@pytest.fixture
def run(moto: Store, use: Callable[[Store], str]) -> Run:
    return Run(use(moto))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Let the files be looked at all the time; the semaphore is released after each look."""
    monkeypatch.setattr(uploads, "INTERVAL", 0.01)
    done, upload = threading.Semaphore(0), LogUploads._upload

    def counted(self: LogUploads, at_once: bool = False) -> None:
        try:
            upload(self, at_once)
        finally:
            done.release()

    monkeypatch.setattr(LogUploads, "_upload", counted)
    return done


def wait_for_a_look(looks: threading.Semaphore) -> None:
    """Wait until a look that began after this call has ended."""
    while looks.acquire(blocking=False):
        pass
    for _ in range(2):
        assert looks.acquire(timeout=60)


def test_files_arrive_while_the_run_goes_on_and_whole_at_its_end(run: Run, looks: threading.Semaphore) -> None:
    others = run.folder.log_path(OTHER)
    with LogUploads(run.folder):
        for _ in range(2):
            run.append()
            others.write_text("a log that this machine has pulled")
            wait_for_a_look(looks)
            assert run.is_whole()
        run.append()
    assert run.is_whole() and run.stored(others) is None


def test_a_large_file_is_uploaded_seldom_and_whole_at_the_end(
    run: Run, looks: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SPEED", 1e-6)
    with LogUploads(run.folder):
        run.append()
        wait_for_a_look(looks)
        first = [run.stored(path) for path in run.files]
        run.append()
        wait_for_a_look(looks)
        assert [run.stored(path) for path in run.files] == first == [b"a line\n"] * 4
    assert run.is_whole()


def test_a_store_that_refuses_for_a_while_loses_nothing(
    run: Run, looks: threading.Semaphore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Bucket, source: Path, name: str) -> None:
        raise StorageError("out", self.address, "cannot be used at the moment")

    with LogUploads(run.folder):
        with monkeypatch.context() as outage:
            outage.setattr(Bucket, "upload", fail)
            run.append()
            wait_for_a_look(looks)
            assert not any(map(run.stored, run.files))
        wait_for_a_look(looks)
        assert run.is_whole()
    with monkeypatch.context() as outage, LogUploads(run.folder):
        run.append()
        outage.setattr(Bucket, "upload", fail)
    assert "the last lines of the logs are on this machine only: " in caplog.text and not run.is_whole()
    pull(run.folder.path)
    with LogUploads(run.folder):  # of the next run on this machine
        pass
    assert run.is_whole() and [path.read_text() for path in run.files] == ["a line\n" * 2] * 4


def test_the_end_waits_for_the_last_upload(
    run: Run, looks: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the upload of an earlier state, which is slow, would replace the last one."""
    begun, goes_on, order = threading.Event(), threading.Event(), list[bytes]()

    def slow(self: Bucket, source: Path, name: str) -> None:
        content = source.read_bytes()
        if not begun.is_set():
            begun.set()
            assert goes_on.wait(60)
        self._fs.pipe_file(self._path(name), content)
        order.append(content)

    monkeypatch.setattr(Bucket, "upload", slow)
    with LogUploads(run.folder):
        run.append()
        assert begun.wait(60)
        run.append()
        threading.Timer(0.5, goes_on.set).start()
    assert order[0] == b"a line\n" and run.is_whole()


def test_a_run_without_a_record_has_its_own_files_uploaded(run: Run) -> None:
    """Such as that of a model judge, whose events are in another study."""
    answers = Study.create(run.folder.study.out, dataclasses.replace(INFO, model="judge", fingerprint="other"))
    files = answers.events(JUDGING).path, run.folder.log_path(JUDGING), run.folder.ray_logs_path(JUDGING) / "raylet.out"
    with LogUploads(run.folder, JUDGING, answers):
        run.append()
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("a line\n")
    assert [run.stored(path) for path in files] == [b"a line\n"] * 3
    assert not any(map(run.stored, run.files))


def test_nothing_is_done_on_a_file_system(tmp_path: Path) -> None:
    study = Study.create(tmp_path, INFO)
    before = threading.active_count()
    with LogUploads(SweepFolder(study, study.root / "sweeps" / "mine-01234567")):
        assert threading.active_count() == before
