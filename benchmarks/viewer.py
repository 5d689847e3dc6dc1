"""Measure how long the viewer takes to list many sweeps: `python -m benchmarks.viewer [SWEEPS [POINTS]]`.

SWEEPS is 1,000 and POINTS, the points of a sweep with a part each, 100 by default. The sweeps are in 10 studies.

Each round starts a new list, which reads everything, and asks it again: with nothing new, after one new part, and by
six readers at once. The first list is what each one costs without an index.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.results import machine, section, table
from orchestrator.analysis.landscape import to_table
from orchestrator.analysis.reducer import reduce_landscape, reduce_summary
from orchestrator.report.viewer.sweep_list import SweepList
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


def slowest_of_readers(sweeps: SweepList) -> float:
    """Return how long the slowest of several readers waits that ask at the same time."""
    waits: list[float] = []
    threads = [threading.Thread(target=lambda: waits.append(seconds(sweeps.rows))) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(waits)


def measure_round(sweeps: SweepList, writer: PartWriter, new: str) -> Iterator[tuple[str, float]]:
    """Yield each case with its seconds. `new` names the point of a part that is written."""
    yield "first list: everything is read", seconds(sweeps.rows)
    assert all(row["done"] == row["tasks"] for row in sweeps.rows())
    yield "again at once", seconds(sweeps.rows)
    time.sleep(TICK + 0.5)
    sweeps.rows()  # from now on, unchanged folders are trusted
    yield "again, nothing new", seconds(sweeps.rows)
    yield f"slowest of {READERS} readers at once", slowest_of_readers(sweeps)
    writer.write(text_id(new))
    yield "after one new part", seconds(sweeps.rows)


def main() -> None:
    """Run the benchmark and write its section of RESULTS.md."""
    count, points = (int(argument) for argument in (*sys.argv[1:], *("1000", "100")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        out, where = Path(folder) / "studies", machine()
        write_studies(out, count, points)
        writer = PartWriter(Study.open(next(out.glob("*/study.json")).parent))
        measured: dict[str, list[float]] = {}
        for number in range(ROUNDS):
            for case, taken in measure_round(SweepList(out), writer, f"new{number}"):
                measured.setdefault(case, []).append(taken)
    medians = {case: statistics.median(times) for case, times in measured.items()}
    first = next(iter(medians.values()))
    rows = [[case, f"{median:.3f}", f"{median / first:.4f}"] for case, median in medians.items()]
    text = table(["list", "seconds", "relative to the first"], rows)
    source = f"`python -m benchmarks.viewer`, {where}; medians of {ROUNDS} rounds"
    title = f"## The viewer's list of {count:,} sweeps with {count * points:,} parts"
    section("viewer", f"{title}\n\n{source}.\n\n{text}\n\nGoal: at most 0.3 s after the first list.")
    print(text)


if __name__ == "__main__":
    main()
