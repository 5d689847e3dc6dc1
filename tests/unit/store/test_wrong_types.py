"""Documents with a correct hash and values of wrong types are reported as damaged, never with a traceback."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.analysis.gate import GateOptions, check
from orchestrator.analysis.reducer import read_results
from orchestrator.store.files import DamagedFileError, publish_json, publish_table, read_json, read_table
from orchestrator.store.lease import Lease, holders
from orchestrator.store.records import RunRecord
from orchestrator.store.status import examine, lines
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.utils.errors import UserError
from tests.unit.stored import basin, store_sweep

pytestmark = pytest.mark.thorough


WRONG = (None, True, -1, 10**15, 1.5, "x", [], {}, [["a"]], {"a": 1})
ABSENT = object()
Step = str | int


def places(value: Any, at: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """Yield the place of every value in a document; of a list only its first item."""
    if isinstance(value, dict):
        inside: list[tuple[Step, Any]] = list(value.items())
    else:
        inside = list(enumerate(value[:1])) if isinstance(value, list) else []
    for key, item in inside:
        yield (*at, key)
        yield from places(item, (*at, key))


def changed(document: dict[str, Any], at: tuple[Step, ...], new: Any) -> dict[str, Any]:
    """Return a copy with another value at one place, or without that place."""
    document = copy.deepcopy(document)
    inside: Any = document
    for key in at[:-1]:
        inside = inside[key]
    if new is ABSENT:
        del inside[at[-1]]
    else:
        inside[at[-1]] = new
    return document


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    path = store_sweep(tmp_path_factory.mktemp("studies"), basin(0.3), directions=2)
    stored = SweepFolder(Study.open(path.parents[1]), path)
    machine = {"cpu": "a", "cores": 2, "memory_gib": 8, "gpus": ["b"]}
    run = RunRecord(run="r", host="h", pid=1, started_at=1.0, outcome="complete", tasks=3, machines={"h": machine})
    stored.write_run(run)
    return stored


def use(path: Path) -> None:
    """Read a sweep as `status` and `gate` do."""
    study = Study.open(path.parents[1])
    stored = StoredSweep.open(SweepFolder(study, path))
    lines(examine(stored))
    check(*read_results(stored.folder), GateOptions({"visage": 70.0, "radius": 0.1}))


@pytest.mark.parametrize("name", ["study.json", "sweep.json", "runs/r.json", "summary.json"])
def test_any_value_of_another_type_is_told(folder: SweepFolder, name: str) -> None:
    path = (folder.study.root if name == "study.json" else folder.path) / name
    document, original = read_json(path), path.read_bytes()
    cases = [(at, new) for at in places(document) for new in (*WRONG, ABSENT)]
    for at, new in cases[:: max(1, len(cases) // 250)]:
        publish_json(folder.study.out, path, changed(document, at, new))
        try:
            with contextlib.suppress(UserError, DamagedFileError):
                use(folder.path)
        except Exception as error:
            raise AssertionError(f"{name}: {new!r} at {at}") from error
        finally:
            path.write_bytes(original)
    use(folder.path)


def test_a_summary_of_another_type_says_what_to_do(folder: SweepFolder) -> None:
    path = folder.path / "summary.json"
    document, original = read_json(path), path.read_bytes()
    try:
        publish_json(folder.study.out, path, document | {"results": 3})
        with pytest.raises(UserError, match="`reduce` makes it"):
            read_results(folder)
    finally:
        path.write_bytes(original)


def test_a_landscape_with_other_columns_says_what_to_do(folder: SweepFolder) -> None:
    path = folder.path / "landscape.parquet"
    table, original = read_table(path), path.read_bytes()
    texts = table.set_column(table.column_names.index("asr"), "asr", [["x"] * table.num_rows])
    try:
        for other, why in ((table.drop_columns(["asr"]), "lacks the column asr"), (texts, "the column asr")):
            publish_table(folder.study.out, path, other, {"schema": "landscape/3", "study_id": folder.study.id})
            with pytest.raises(UserError, match=why):
                read_results(folder)
    finally:
        path.write_bytes(original)


def test_a_grid_that_no_machine_could_hold_is_refused(folder: SweepFolder) -> None:
    path = folder.path / "sweep.json"
    document, original = read_json(path), path.read_bytes()
    try:
        publish_json(folder.study.out, path, changed(document, ("request", "grid", "steps"), 10**12))
        with pytest.raises(UserError, match="nodes"):
            StoredSweep.open(folder)
    finally:
        path.write_bytes(original)


def test_a_lease_of_other_types_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "studies" / "model" / "sweeps" / "mine" / "lease.json"
    with Lease(tmp_path / "studies", path):
        document = read_json(path)
        assert holders(path.parent)
    for at in places(document):
        for new in (*WRONG, ABSENT):
            publish_json(tmp_path / "studies", path, changed(document, at, new))
            holders(path.parent)


def test_events_of_other_types_are_skipped(folder: SweepFolder) -> None:
    log = folder.study.events("e")
    log.path.parent.mkdir(exist_ok=True)
    log.path.write_text('3\n[]\n{"at": "x", "event": "a"}\n{"at": 1e999, "event": "a"}\n{"event": "a"}\n{"at": 1}\n'
                        '{"at": 2, "event": "visit_done", "tokens": "x"}\n')  # fmt: skip
    assert [event["event"] for event in log.read()] == ["visit_done"]
    folder.write_run(RunRecord(run="e", host="h", pid=1, outcome="running"))
    use(folder.path)
