"""The viewer's list: unchanged sweeps are not read again, every change shows, and few requests work at a time."""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.analysis.landscape import to_table
from orchestrator.analysis.reducer import reduce_landscape, reduce_summary
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.report.viewer import app, sweep_list
from orchestrator.report.viewer.listing_page import listing_environment
from orchestrator.report.viewer.open_studies import OpenStudies
from orchestrator.report.viewer.sweep_list import SweepList
from orchestrator.report.viewer.sweep_view import SweepView
from orchestrator.scoring.text_judges import score_with_text_judges
from orchestrator.store.files import read_table
from orchestrator.store.lease import Lease
from orchestrator.store.records import RunRecord
from orchestrator.store.schemas import GENERATIONS
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from tests.unit.stored import basin, store_sweep
from tests.viewing import viewing

pytestmark = pytest.mark.thorough


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


def list_of(root: Path) -> SweepList:
    return SweepList(OpenStudies(root))


def rows_of(sweeps: SweepList) -> list[dict[str, Any]]:
    """Return the rows of all sweeps, however long reading them takes."""
    listing = sweeps.listing(patience=None)
    assert listing.total == len(listing.rows)
    return listing.rows


def uncached(studies: Path) -> list[dict[str, Any]]:
    """Return the rows that a list without memory gives."""
    return rows_of(list_of(studies))


def reduce_again(folder: SweepFolder) -> None:
    """Judge and reduce a sweep, as `judge` does."""
    stored = StoredSweep.open(SweepFolder(Study.open(folder.study.root), folder.path))
    score_with_text_judges(stored)
    frame = reduce_landscape(stored)
    folder.write_landscape(to_table(frame))
    folder.write_summary(reduce_summary(stored, frame).to_json())


def test_a_list_without_changes_opens_no_file(studies: Path, opened: list[str]) -> None:
    sweeps = list_of(studies)
    rows = rows_of(sweeps)
    assert len(rows) == 4 and len(opened) > 8
    opened.clear()
    assert rows_of(sweeps) == rows and opened == []


def test_both_intervals_are_over_directions_and_probes(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path / "studies", basin(0.15))
    summary = SweepSummary.from_json(json.loads((folder / "summary.json").read_text()))
    (row,) = rows_of(list_of(tmp_path / "studies"))
    assert summary.visage.over and summary.margin
    assert summary.visage.over.both.low != summary.visage.low, "the two kinds must differ for this test to see one"
    for key, both in (("interval", summary.visage.over.both), ("margin_interval", summary.margin.over.both)):
        assert row[key] == f"{both.low:.1f} to {both.high:.1f}"
    page = listing_environment().get_template("sweeps.html")
    assert "95% intervals over new directions and probes" in page.render(
        sweeps=[], total=0, count="", root="/", index=""
    )


def test_a_new_part_is_the_only_file_that_is_opened(studies: Path, opened: list[str]) -> None:
    sweeps = list_of(studies)
    rows = rows_of(sweeps)
    study = Study.open(next(studies.glob("one-*")))
    (table, engine), *_ = [(read_table(p.path, GENERATIONS), p.meta["engine"]) for p in study.generations.parts()]
    study.generations.write("again", table, engine)
    opened.clear()
    assert rows_of(sweeps) == rows
    assert {Path(path).name for path in opened} <= {"again.parquet"}, "the rows' numbers of tasks are as they were"


def test_every_change_of_a_sweep_shows(studies: Path) -> None:
    sweeps = list_of(studies)
    folders = {f.path: f for f, _ in OpenStudies(studies).sweeps()}
    first, second, third, _ = sorted(folders)
    sweep_id = StoredSweep.open(folders[third]).sweep.id
    part = next(p.path for p in folders[third].study.generations.parts() if p.name.startswith(sweep_id))
    changes: list[Callable[[], object]] = [
        lambda: part.rename(studies / "kept"),
        lambda: reduce_again(folders[third]),
        lambda: (studies / "kept").rename(part),
        lambda: reduce_again(folders[third]),
        lambda: (folders[third].path / "landscape.parquet").unlink(),
        lambda: folders[first].write_run(RunRecord(run="20260101T000000-1", outcome="complete", seconds=5.0)),
        lambda: folders[first].study.events("20260101T000000-1").write("run_started"),
        lambda: (folders[first].path / "summary.json").unlink(),
        lambda: folders[second].study.generations.parts()[0].path.unlink(),
        lambda: (folders[first].path / "sweep.json").write_text("{}"),
        lambda: (folders[first].path / "sweep.json").unlink(),
        lambda: store_sweep(studies, basin(0.25), model="three", steps=4, directions=1),
        lambda: (next(studies.glob("two-*")) / "study.json").unlink(),
    ]
    seen = [rows_of(sweeps)]
    for change in changes:
        change()
        seen.append(rows_of(sweeps))
        assert seen[-1] == uncached(studies)
    assert sum(before != after for before, after in itertools.pairwise(seen)) >= 11


def test_a_driver_shows_while_it_holds_a_lease_and_no_longer(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_list, "RUNNING_EVERY", 0.0)
    sweeps = list_of(studies)
    folder, _ = OpenStudies(studies).sweeps()[0]
    run = RunRecord(run="20260101T000000-1", outcome="running", host=os.uname().nodename, pid=os.getpid())
    folder.write_run(run)

    def states() -> set[str]:
        return {row["state"] for row in rows_of(sweeps)}

    assert states() == {"complete"}
    with Lease(studies, folder.lease_path()):
        assert states() == {"complete", "running"}
    assert states() == {"complete"}


def test_the_list_of_one_study_or_one_sweep(studies: Path) -> None:
    study = next(studies.glob("one-*"))
    sweep = sorted((study / "sweeps").iterdir())[0]
    assert [len(uncached(root)) for root in (studies, study, study / "sweeps", sweep)] == [4, 2, 2, 1]
    found = OpenStudies(studies).find(study.name, sweep.name)
    assert found is not None and found.path == sweep
    other = next(folder for folder in sweep.parent.iterdir() if folder != sweep)
    assert OpenStudies(sweep).find(study.name, other.name) is None
    for name in ("..", "", ".", "sweeps", f"../{study.name}/sweeps/{sweep.name}"):
        assert OpenStudies(studies).find(study.name, name) is None
    assert uncached(studies / "nowhere") == []


class Gate:
    """Lets the readings of a list pass one by one, each when it is opened.

    Attributes:
        begun: Number of entries that were begun.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Semaphore(0)
        self._open = threading.Semaphore(0)
        original = SweepList._entry

        def entry(*arguments: Any) -> Any:
            self.begun.release()
            assert self._open.acquire(timeout=60)
            return original(*arguments)

        monkeypatch.setattr(SweepList, "_entry", entry)

    def pass_entries(self, number: int) -> None:
        self._open.release(number)


def test_the_first_list_shows_what_has_been_read(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, gate, sweeps = uncached(studies), Gate(monkeypatch), list_of(studies)
    assert sweeps.listing(patience=0.0).rows == []
    for number in range(4):
        assert gate.begun.acquire(timeout=60)
        listing = sweeps.listing(patience=0.0)
        assert (listing.rows, listing.total) == (expected[:number], 4), "the most recently used sweeps come first"
        gate.pass_entries(1)
    gate.pass_entries(100)
    assert rows_of(sweeps) == expected


def test_a_later_list_shows_the_earlier_rows_until_newer_ones_are_read(
    studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps = list_of(studies)
    earlier = rows_of(sweeps)
    folder = OpenStudies(studies).sweeps()[0][0].path
    (folder / "summary.json").unlink()
    gate = Gate(monkeypatch)
    assert sweeps.listing(patience=0.0).rows == earlier
    gate.pass_entries(100)
    assert rows_of(sweeps) == uncached(studies) != earlier


def test_readers_share_a_reading_that_began_after_they_came(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps = list_of(studies)
    gate = Gate(monkeypatch)
    with ThreadPoolExecutor(7) as pool:
        first = pool.submit(sweeps.listing, None)
        assert gate.begun.acquire(timeout=60)  # the first reading is at work
        (studies / "new").mkdir()
        store_sweep(studies / "new", basin(0.25), model="new", steps=4, directions=1)
        (new,) = (studies / "new").glob("new-*")
        new.rename(studies / new.name)
        others = [pool.submit(sweeps.listing, None) for _ in range(6)]
        while len(sweeps._changed._waiters) < 7:  # type: ignore[attr-defined]
            threading.Event().wait(0.01)
        gate.pass_entries(100)
        assert first.result().rows
        assert [len(other.result().rows) for other in others] == [5] * 6
    begun = 1
    while gate.begun.acquire(blocking=False):
        begun += 1
    assert begun == 4 + 5, "one reading for the first reader, and one for all others"


def test_an_error_is_raised_where_the_list_is_requested(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps = list_of(studies)
    with monkeypatch.context() as patch:
        patch.setattr(SweepList, "_entry", lambda *_: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                sweeps.listing(patience=None)
    assert len(rows_of(sweeps)) == 4


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
    folder, _ = OpenStudies(studies).sweeps()[0]
    path = f"/sweeps/{folder.study.root.name}/{folder.path.name}/search"
    with viewing(studies, tmp_path / "scratch") as address, ThreadPoolExecutor(16) as pool:
        searches = [pool.submit(urllib.request.urlopen, address + path, timeout=120) for _ in range(16)]
        assert all_work.wait(60)
        with urllib.request.urlopen(f"{address}/sweeps", timeout=60) as response:
            assert response.status == 200, "the list is answered while all searches work"
        release.set()
        assert [search.result().status for search in searches] == [200] * 16
    assert most == app.MAX_SWEEPS
