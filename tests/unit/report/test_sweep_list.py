"""The viewer's list: unchanged sweeps are not read again, every change shows, and few requests work at a time."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.viewer import app, sweep_list
from orchestrator.report.viewer.sweep_list import SweepList
from orchestrator.report.viewer.sweep_view import SweepView
from orchestrator.store.files import read_table
from orchestrator.store.lease import Lease
from orchestrator.store.records import RunRecord
from orchestrator.store.schemas import GENERATIONS
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from tests.unit.stored import basin, store_sweep
from tests.viewing import viewing

WATCHED: dict[str, list[str]] = {}
"""Folder -> the files below it that this process has opened, for as long as a test watches the folder."""


def _record_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and WATCHED and isinstance(arguments[0], str | os.PathLike):
        path = os.fspath(arguments[0])
        for folder, opened in WATCHED.items():
            if isinstance(path, str) and path.startswith(folder):
                opened.append(path.removeprefix(f"{folder}/"))


sys.addaudithook(_record_opened)


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Return a folder with two studies of two sweeps each."""
    for model in ("one", "two"):
        for steps in (4, 6):
            store_sweep(tmp_path / "studies", basin(0.25), model=model, steps=steps, directions=1)
    return tmp_path / "studies"


@pytest.fixture
def opened(studies: Path) -> Iterator[list[str]]:
    WATCHED[str(studies)] = files = []
    yield files
    del WATCHED[str(studies)]


def uncached(studies: Path) -> list[dict[str, Any]]:
    """Return the rows that a list without memory gives."""
    return SweepList(studies).rows()


def test_a_list_without_changes_opens_no_file(studies: Path, opened: list[str]) -> None:
    sweeps = SweepList(studies)
    rows = sweeps.rows()
    assert len(rows) == 4 and len(opened) > 8
    opened.clear()
    assert sweeps.rows() == rows and opened == []


def test_a_new_part_is_the_only_file_that_is_opened(studies: Path, opened: list[str]) -> None:
    sweeps = SweepList(studies)
    rows = sweeps.rows()
    study = Study.open(next(studies.glob("one-*")))
    (table, engine), *_ = [(read_table(p.path, GENERATIONS), p.meta["engine"]) for p in study.generations.parts()]
    study.generations.write("again", table, engine)
    opened.clear()
    assert sweeps.rows() == rows
    assert {Path(path).name for path in opened} <= {"again.parquet"}, "the rows' numbers of tasks are as they were"


def test_every_change_of_a_sweep_shows(studies: Path) -> None:
    sweeps = SweepList(studies)
    folders = {f.path.name: f for f in sweeps.folders()}
    first, second, *_ = sorted(folders)
    changes: list[Callable[[], object]] = [
        lambda: folders[first].write_run(RunRecord(run="20260101T000000-1", outcome="complete", seconds=5.0)),
        lambda: folders[first].study.events("20260101T000000-1").write("run_started"),
        lambda: (folders[first].path / "summary.json").unlink(),
        lambda: folders[second].study.generations.parts()[0].path.unlink(),
        lambda: (folders[first].path / "sweep.json").write_text("{}"),
        lambda: (folders[first].path / "sweep.json").unlink(),
        lambda: store_sweep(studies, basin(0.25), model="three", steps=4, directions=1),
        lambda: (next(studies.glob("two-*")) / "study.json").unlink(),
    ]
    seen = [sweeps.rows()]
    for change in changes:
        change()
        seen.append(sweeps.rows())
        assert seen[-1] == uncached(studies)
    assert sum(before != after for before, after in itertools.pairwise(seen)) >= 6


def test_a_driver_shows_while_it_holds_a_lease_and_no_longer(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_list, "RUNNING_EVERY", 0.0)
    sweeps = SweepList(studies)
    folder = sweeps.folders()[0]
    run = RunRecord(run="20260101T000000-1", outcome="running", host=os.uname().nodename, pid=os.getpid())
    folder.write_run(run)

    def states() -> set[str]:
        return {row["state"] for row in sweeps.rows()}

    assert states() == {"complete"}
    with Lease(studies, folder.lease_path()):
        assert states() == {"complete", "running"}
    assert states() == {"complete"}


def test_the_list_of_one_study_or_one_sweep(studies: Path) -> None:
    study = next(studies.glob("one-*"))
    sweep = sorted((study / "sweeps").iterdir())[0]
    assert [len(SweepList(root).rows()) for root in (studies, study, study / "sweeps", sweep)] == [4, 2, 2, 1]
    found = SweepList(studies).find(study.name, sweep.name)
    assert found is not None and found.path == sweep
    for name in ("..", "", ".", "sweeps", f"../{study.name}/sweeps/{sweep.name}"):
        assert SweepList(studies).find(study.name, name) is None
    assert SweepList(studies / "nowhere").rows() == []


def test_readers_that_wait_share_what_one_of_them_reads(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps = SweepList(studies)
    rows, reads = sweeps.rows(), []
    came = threading.Barrier(7)

    def read() -> list[dict[str, Any]]:
        reads.append(1)
        if len(reads) == 1:
            came.wait(30)  # until all others have come
            threading.Event().wait(0.5)  # and have read the clock
        return rows

    monkeypatch.setattr(sweeps, "_read", read)

    def come(reader: int) -> list[dict[str, Any]]:
        if reader:
            came.wait(30)
        return sweeps.rows()

    with ThreadPoolExecutor(7) as pool:
        assert list(pool.map(come, range(7))) == [rows] * 7
    assert len(reads) == 2, "one for the first reader, and one that began after all others had come"


def test_few_requests_work_at_a_time_and_sweeps_do_not_keep_the_list_waiting(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, release = threading.Lock(), threading.Event()
    working, most = 0, 0
    all_work = threading.Event()

    def slow(self: SweepView, **query: str) -> dict[str, Any]:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
            if working == app.MAX_SWEEPS:
                all_work.set()
        release.wait(60)
        with lock:
            working -= 1
        return {"total": 0, "found": []}

    monkeypatch.setattr(SweepView, "search", slow)
    folder: SweepFolder = SweepList(studies).folders()[0]
    path = f"/sweeps/{folder.study.root.name}/{folder.path.name}/search"
    with viewing(studies, tmp_path / "scratch") as address, ThreadPoolExecutor(16) as pool:
        searches = [pool.submit(urllib.request.urlopen, address + path, timeout=120) for _ in range(16)]
        assert all_work.wait(60)
        with urllib.request.urlopen(f"{address}/sweeps", timeout=60) as response:
            assert response.status == 200, "the list is answered while all searches work"
        release.set()
        assert [search.result().status for search in searches] == [200] * 16
    assert most == app.MAX_SWEEPS
