"""Measure how long it takes to reduce a large sweep: `python -m benchmarks.reduction [ROWS [FOLDER]]`.

ROWS is 10^7 by default. The study is kept in FOLDER and reused by the next call, because writing it takes longest.

The sweep is one plane with 80 prompts per point, and its parts are as large as `compact` makes them. Only the data that
reduction reads is written: all verdicts of the keyword judge and of the judge of degeneracy, and the metadata of the
generations. The reduction runs in a separate process, whose peak memory is reported.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.results import machine, section, table
from orchestrator import judges
from orchestrator.analysis.reducer import reduce_landscape, reduce_summary
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.store.compaction import MERGED_TASKS
from orchestrator.store.files import publish_table
from orchestrator.store.records import SweepRecord
from orchestrator.store.schemas import GENERATIONS, JUDGEMENTS
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.grid import Grid, Sweep
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.utils.choices import GridKind
from orchestrator.utils.hashing import text_id
from workers.actor import peak_memory

PROMPTS = 80
INFO = StudyInfo("dummy", "dummy", "float32", 1)
ENGINE = {"engine": "dummy", "version": 1}


def make_sweep(rows: int) -> tuple[Sweep, PromptSet]:
    """Return a sweep of about this many responses, and its prompt set."""
    prompts = tuple(Prompt(f"question {i}") for i in range(PROMPTS))
    texts, tokens = tuple(p.text for p in prompts), tuple((i,) for i in range(PROMPTS))
    prompt_set = PromptSet("harmful", prompts, texts, tokens, Sampling(32))
    grid = Grid(GridKind.random_2d, steps=math.isqrt(rows // PROMPTS) - 1, directions=1)
    return Sweep(grid, (prompt_set.id,)), prompt_set


def write_study(out: Path, rows: int) -> None:
    """Write a study with a basin of 80 prompts that fall one after another."""
    study = Study.create(out, INFO)
    sweep, prompt_set = make_sweep(rows)
    study.prompt_sets.write(prompt_set)
    record = SweepRecord(sweep_id=sweep.id, name=sweep.name, request=sweep.to_json())
    SweepFolder.of(study, sweep).write_record(record)
    tasks = sweep.tasks()
    distance = {n.point.id: math.hypot(n.alpha, n.beta or 0.0) for n in sweep.grid.nodes}
    ids = [prompt.id for prompt in prompt_set.prompts]
    responses = [text_id(f"response {i}") for i in range(PROMPTS)]
    thresholds = np.linspace(0.1, 0.4, PROMPTS)
    for start in range(0, len(tasks), MERGED_TASKS):
        keys = [task.key for task in tasks[start : start + MERGED_TASKS]]
        refused = np.array([distance[point] for point, _ in keys])[:, None] < thresholds
        described = [[*key, PROMPTS, text_id(key[0])] for key in sorted(keys)]
        meta = {"schema": "generations/1", "engine_id": "e", "engine": ENGINE, "study_id": study.id, "tasks": described}
        publish_table(out, study.generations.part_path(f"part{start}"), GENERATIONS.empty_table(), meta)
        for judge_id, verdicts in (
            (judges.get("keyword").id, np.where(refused, "refused", "complied")),
            (DEGENERATE.id, np.where(refused, "coherent", "degenerate")),
        ):
            columns = {
                "judge_id": [judge_id] * refused.size,
                "point_id": np.repeat([point for point, _ in keys], PROMPTS),
                "prompt_set_id": [prompt_set.id] * refused.size,
                "prompt_id": ids * len(keys),
                "response_id": responses * len(keys),
                "verdict": verdicts.ravel(),
                "score": [None] * refused.size,
            }
            judged = {key: text_id(key[0]) for key in keys}
            study.judgements(judge_id).write(pa.table(columns, schema=JUDGEMENTS), judged)


def reduce(out: Path, rows: int, steps: Connection) -> None:
    """Reduce the sweep without figures and report; send (step, seconds, MiB so far) for each step."""
    study = Study.open(Study.locate(out, INFO).root)
    sweep, _ = make_sweep(rows)
    stored = StoredSweep(SweepFolder.of(study, sweep), sweep)

    def send(step: str, began: float) -> None:
        steps.send((step, time.monotonic() - began, peak_memory() >> 20))

    began = time.monotonic()
    tasks = len(stored.generations)
    assert tasks == len(sweep.tasks()), tasks
    send("what is stored", began)
    began = time.monotonic()
    frame = reduce_landscape(stored)
    assert int(frame["n"].sum()) == tasks * PROMPTS
    send("landscape", began)
    began = time.monotonic()
    summary = reduce_summary(stored, frame)
    assert summary.points_done == tasks
    send("summary", began)
    steps.close()


def main() -> None:
    """Run the benchmark and write its section of RESULTS.md."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        out, where = Path(sys.argv[2] if len(sys.argv) > 2 else f"{folder}/studies"), machine()
        if not out.exists():
            writer = context.Process(target=write_study, args=(out, rows))
            writer.start()
            writer.join()
        receive, send = context.Pipe(duplex=False)
        reducer = context.Process(target=reduce, args=(out, rows, send))
        reducer.start()
        send.close()
        steps: list[list[str]] = []
        counted = len(make_sweep(rows)[0].tasks()) * PROMPTS
        try:
            while True:
                step, seconds, peak = receive.recv()
                steps.append([step, f"{seconds:.1f}", f"{counted / seconds:,.0f}", f"{peak:,}"])
                print(steps[-1], flush=True)
        except EOFError:
            reducer.join()
    title = (__doc__ or "").split("\n\n", 2)[2].strip()
    text = table(["step", "seconds", "rows per second", "memory so far, MiB"], steps)
    section("reduction", f"## Reduction of {counted:,} rows\n\n{title}\n\n{where}\n\n{text}\n\nGoal: under 2,048 MiB.")


if __name__ == "__main__":
    main()
