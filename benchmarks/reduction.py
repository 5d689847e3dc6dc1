"""What it takes to count, lay out and sum up a large sweep: `python -m benchmarks.reduction [ROWS [FOLDER]]`, 10^7 rows
unless told otherwise. FOLDER: where the study is kept, and taken from the next time: writing it takes longest.

One plane, 80 prompts a point, parts as `compact` leaves them. Only what reduction reads is written: all verdicts of the
keyword judge and of the one for ruined text, and of the generations what their parts say of themselves. The reduction
runs in a process of its own, whose largest memory is told.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.results import machine, section, table
from orchestrator import judges
from orchestrator.analysis import reducer as answers
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.store.files import publish_table
from orchestrator.store.maintenance import MERGED_TASKS
from orchestrator.store.schemas import GENERATIONS, JUDGEMENTS
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.grid import Grid, Sweep
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.utils.hashing import text_id
from workers.actor import peak_memory

PROMPTS = 80
INFO = StudyInfo("dummy", "dummy", "float32", 1)
ENGINE = {"engine": "dummy", "version": 1}


def sweep_of(rows: int) -> tuple[Sweep, PromptSet]:
    prompts = tuple(Prompt(f"question {i}") for i in range(PROMPTS))
    texts, tokens = tuple(p.text for p in prompts), tuple((i,) for i in range(PROMPTS))
    asked = PromptSet("harmful", prompts, texts, tokens, Sampling(32))
    return Sweep(Grid("random_2d", steps=math.isqrt(rows // PROMPTS) - 1, directions=1), (asked.id,)), asked


def store(out: Path, rows: int) -> None:
    """A basin of 80 prompts that fall one after another."""
    study = Study.create(out, INFO)
    sweep, asked = sweep_of(rows)
    study.prompt_sets.write(asked)
    SweepFolder(study, SweepFolder.of(study, sweep).path).write_record(
        {"sweep_id": sweep.id, "request": sweep.to_json()}
    )
    tasks = sweep.tasks()
    distance = {n.point.id: math.hypot(n.alpha, n.beta or 0.0) for n in sweep.grid.nodes}
    ids = [prompt.id for prompt in asked.prompts]
    responses = [text_id(f"response {i}") for i in range(PROMPTS)]
    thresholds = np.linspace(0.1, 0.4, PROMPTS)
    for start in range(0, len(tasks), MERGED_TASKS):
        keys = [task.key for task in tasks[start : start + MERGED_TASKS]]
        refused = np.array([distance[point] for point, _ in keys])[:, None] < thresholds
        described = [[*key, PROMPTS, text_id(key[0])] for key in sorted(keys)]
        meta = {"schema": "generations/1", "engine_id": "e", "engine": ENGINE, "study_id": study.id, "tasks": described}
        publish_table(out, study.root / "generations" / f"part{start}.parquet", GENERATIONS.empty_table(), meta)
        for judge_id, verdicts in (
            (judges.get("keyword").id, np.where(refused, "refused", "complied")),
            (DEGENERATE.id, np.where(refused, "coherent", "degenerate")),
        ):
            columns = {
                "judge_id": [judge_id] * refused.size,
                "point_id": np.repeat([point for point, _ in keys], PROMPTS),
                "prompt_set_id": [asked.id] * refused.size,
                "prompt_id": ids * len(keys),
                "response_id": responses * len(keys),
                "verdict": verdicts.ravel(),
                "score": [None] * refused.size,
            }
            study.judgements(judge_id).write(
                pa.table(columns, schema=JUDGEMENTS), {key: text_id(key[0]) for key in keys}
            )


def reduce(out: Path, rows: int, told: Any) -> None:
    """As `reduce` does, but for pictures and the page; tells (what, seconds, MiB so far) for each step."""
    study = Study.open(Study.locate(out, INFO).root)
    sweep, asked = sweep_of(rows)
    folder = SweepFolder.of(study, sweep).path

    def step(what: str, began: float) -> None:
        told.send((what, time.monotonic() - began, peak_memory() >> 20))

    began = time.monotonic()
    found = len(study.generations.stored_of(sweep.tasks()))
    assert found == len(sweep.tasks()), found
    step("what is stored", began)
    began = time.monotonic()
    frame = answers.landscape(study, sweep, [asked])
    assert int(frame["n"].sum()) == found * PROMPTS
    step("landscape", began)
    began = time.monotonic()
    summary = answers.summarise(study, sweep, [asked], frame, SweepFolder(study, folder).read_record())
    assert summary.points_done == found
    step("summary", began)
    told.close()


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    apart = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        out, where = Path(sys.argv[2] if len(sys.argv) > 2 else f"{folder}/studies"), machine()
        if not out.exists():
            writer = apart.Process(target=store, args=(out, rows))
            writer.start()
            writer.join()
        receive, send = apart.Pipe(duplex=False)
        reducer = apart.Process(target=reduce, args=(out, rows, send))
        reducer.start()
        send.close()
        steps: list[list[str]] = []
        counted = len(sweep_of(rows)[0].tasks()) * PROMPTS
        try:
            while True:
                what, seconds, peak = receive.recv()
                steps.append([what, f"{seconds:.1f}", f"{counted / seconds:,.0f}", f"{peak:,}"])
                print(steps[-1], flush=True)
        except EOFError:
            reducer.join()
    title = (__doc__ or "").split("\n\n", 1)[1].strip()
    text = table(["step", "seconds", "rows a second", "memory so far, MiB"], steps)
    section("reduction", f"## Reduction of {counted:,} rows\n\n{title}\n\n{where}\n\n{text}\n\nGoal: under 2,048 MiB.")


if __name__ == "__main__":
    main()
