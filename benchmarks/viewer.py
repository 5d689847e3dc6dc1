"""Measure how long the viewer takes to list many sweeps: `python -m benchmarks.viewer [SWEEPS [POINTS]]`.

SWEEPS is 1,000 and POINTS, the points of a sweep with a part each, 100 by default. The sweeps are in 10 studies.

Each round starts a new list and measures how long requests wait: while everything is read for the first time, which is
what each list would cost without an index, then with nothing new, by six readers at once, and after one new part. From
then on, requests wait for a whole new reading here, however long it takes.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.results import machine, section, table
from orchestrator.analysis.landscape import to_table
from orchestrator.analysis.reducer import reduce_landscape, reduce_summary
from orchestrator.report.viewer.open_studies import OpenStudies
from orchestrator.report.viewer.sweep_list import PATIENCE, SweepList
from orchestrator.store.files import publish_table, read_meta
from orchestrator.store.part_index import TICK
from orchestrator.store.records import SweepRecord
from orchestrator.store.schemas import GENERATIONS
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.grid import Grid, Sweep
from orchestrator.sweep.points import ORIGIN
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.utils.hashing import content_id, text_id

STUDIES, READERS, ROUNDS = 10, 6, 3
NOTE = f"""The last three cases wait for a whole new reading of the disk. The viewer waits {PATIENCE} s for one
and then shows what it knows. If the machine had other work, the CPU seconds are nearer to what it takes alone.

Goal: at most 0.3 s for each, apart from reading everything."""
PROMPTS = PromptSet("harmful", (Prompt("question"),), ("question",), ((1,),), Sampling(8))


class PartWriter:
    """Writes parts of one task without rows, because the list reads their metadata alone.

    All are copies of one part with another task of the same length: writing each through Parquet would take minutes.
    """

    def __init__(self, study: Study) -> None:
        self._folder = study.generations.path
        path = study.generations.part_path("template")
        meta = {"schema": "generations/1", "engine_id": "e", "engine": {"engine": "dummy"}, "study_id": study.id}
        tasks = [[ORIGIN.id, PROMPTS.id, 1, text_id(ORIGIN.id)]]
        publish_table(study.out, path, GENERATIONS.empty_table(), {**meta, "tasks": tasks})
        self._meta, self._bytes = read_meta(path), path.read_bytes()

    def write(self, point_id: str) -> None:
        """Write the part of a point."""
        meta = {**self._meta, "tasks": [[point_id, PROMPTS.id, 1, text_id(point_id)]]}
        (self._folder / f"{point_id}.parquet").write_bytes(self._bytes.replace(stamp(self._meta), stamp(meta)))


def stamp(meta: Mapping[str, Any]) -> bytes:
    """Return metadata as a part holds it."""
    return json.dumps({**meta, "check": content_id(dict(meta))}, ensure_ascii=False).encode()


def write_studies(out: Path, sweeps: int, points: int) -> None:
    """Write studies with that many sweeps, all of whose points are stored in parts of their own, and with results."""
    with mock.patch("orchestrator.store.files._flush"):  # they need not survive a power failure
        for number in range(STUDIES):
            study = Study.create(out, StudyInfo(f"model{number}", f"fingerprint {number}", "float32", 1))
            study.prompt_sets.write(PROMPTS)
            writer = PartWriter(study)
            for seed in range(sweeps // STUDIES):
                sweep = Sweep(Grid(steps=points - 1, directions=1, seed=seed), (PROMPTS.id,))
                stored = StoredSweep(SweepFolder.of(study, sweep), sweep)
                record = SweepRecord(sweep_id=sweep.id, name=sweep.name, request=sweep.to_json())
                stored.folder.write_record(record)
                if seed == 0:
                    frame = reduce_landscape(stored)
                    landscape, summary = to_table(frame), reduce_summary(stored, frame).to_json()
                stored.folder.write_landscape(landscape)
                stored.folder.write_summary(summary)
                for task in sweep.tasks():
                    writer.write(task.point.id)


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


@dataclass
class Case:
    """Times of one case in each round.

    Attributes:
        waited: Seconds.
        computed: Seconds of this process's CPU time, which other programs on the machine change little. Empty where
            other work of this process ran meanwhile.
    """

    waited: list[float] = field(default_factory=list)
    computed: list[float] = field(default_factory=list)

    def row(self, name: str) -> list[str]:
        """Return the case's row of the table."""
        cpu = f"{statistics.median(self.computed):.3f}" if self.computed else ""
        return [name, f"{statistics.median(self.waited):.3f}", f"{max(self.waited):.3f}", cpu]


def slowest_of_readers(request: Callable[[], object]) -> float:
    """Return how long the slowest of several readers waits that ask at the same time."""
    waits: list[float] = []
    threads = [threading.Thread(target=lambda: waits.append(seconds(request))) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(waits)


def measure_first(sweeps: SweepList, cases: Mapping[str, Case]) -> None:
    """Measure how long requests wait while everything is read, and how long the reading takes."""
    began, used = time.perf_counter(), time.process_time()
    cases["first answer"].waited.append(seconds(sweeps.listing))
    waits = []
    while True:
        listing = sweeps.listing()
        if listing.total == len(listing.rows):
            break
        waits.append(slowest_of_readers(sweeps.listing))
        time.sleep(0.5)
    taken, computed = time.perf_counter() - began, time.process_time() - used
    assert all(row["done"] == row["tasks"] for row in listing.rows)
    cases[f"meanwhile, slowest of {READERS} readers at once"].waited += waits
    case = cases["until everything has been read"]
    case.waited.append(taken)
    case.computed.append(computed)


def measure_later(sweeps: SweepList, writer: PartWriter, new: str, cases: Mapping[str, Case]) -> None:
    """Measure how long whole new readings take. `new` names the point of a part that is written."""

    def read() -> object:
        return sweeps.listing(patience=None)

    def measure(name: str, request: Callable[[], float]) -> None:
        began = time.process_time()
        cases[name].waited.append(request())
        cases[name].computed.append(time.process_time() - began)

    read()
    time.sleep(TICK + 0.5)
    read()  # from now on, unchanged folders are trusted
    measure("again, nothing new", lambda: seconds(read))
    measure(f"again, slowest of {READERS} readers at once", lambda: slowest_of_readers(read))
    writer.write(text_id(new))
    measure("after one new part", lambda: seconds(read))


def main() -> None:
    """Run the benchmark and write its section of RESULTS.md."""
    count, points = (int(argument) for argument in (*sys.argv[1:], *("1000", "100")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        out, where = Path(folder) / "studies", machine()
        write_studies(out, count, points)
        writer = PartWriter(Study.open(next(out.glob("*/study.json")).parent))
        cases: dict[str, Case] = defaultdict(Case)
        for number in range(ROUNDS):
            sweeps = SweepList(OpenStudies(out))
            measure_first(sweeps, cases)
            measure_later(sweeps, writer, f"new{number}", cases)
    headings = ["list", "seconds, median", "seconds, longest", "CPU seconds, median"]
    text = table(headings, [case.row(name) for name, case in cases.items()])
    source = f"`python -m benchmarks.viewer`, {where}; {ROUNDS} rounds"
    title = f"## The viewer's list of {count:,} sweeps with {count * points:,} parts"
    section("viewer", f"{title}\n\n{source}.\n\n{text}\n\n{NOTE}")
    print(text)


if __name__ == "__main__":
    main()
