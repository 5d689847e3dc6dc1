"""Cost of dispatch and store, measured with the dummy engine: `python -m benchmarks.dispatch [NAME ...]`.

Each name measures one thing and replaces one section of RESULTS.md. Dispatches use real Ray processes and write Parquet
files that are flushed to disk. The driver's share is the CPU time of its process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.results import machine, section, table
from orchestrator.execution import cluster
from orchestrator.execution.dispatch import Dispatcher
from orchestrator.execution.outcome import Outcome
from orchestrator.execution.policy import DispatchPolicy
from orchestrator.execution.setup import DispatchSetup
from orchestrator.store.files import META
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.temporary import create_disk_token
from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import Point
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling, Visit
from orchestrator.utils.choices import EngineKind
from orchestrator.utils.hashing import content_id
from workers.actor import Actor, peak_memory
from workers.engines.base import EngineSpec

Event = dict[str, Any]

PROMPTS = 80
DIRECTION = RandomDirection(1)


def prompt_set(n: int = PROMPTS) -> PromptSet:
    """Return a prompt set of n short prompts."""
    prompts = tuple(Prompt(f"question {i}") for i in range(n))
    return PromptSet("harmful", prompts, tuple(p.text for p in prompts), tuple((i,) for i in range(n)), Sampling(32))


def make_visits(n: int, prompts: PromptSet) -> list[Visit]:
    """Return visits of n points on one line."""
    return [Visit(Point.from_coefficients([(DIRECTION, (k + 1) / n)]), (prompts.id,)) for k in range(n)]


class Run:
    """One dispatch into a study of its own. `events` has every event with the time at which the driver reported it."""

    def __init__(self, out: Path, visits: int, seconds: float = 0.0, prompts: int = PROMPTS, **policy: Any) -> None:
        self.events: list[Event] = []
        self.on_event: Callable[[Event], None] = lambda event: None
        self.prompt_set = prompt_set(prompts)
        self.visits = make_visits(visits, self.prompt_set)
        self.study = Study.create(out, StudyInfo("dummy", "dummy", "float32", 1))
        spec = EngineSpec(kind=EngineKind.dummy, seconds=seconds)
        settings = DispatchPolicy(**{"cpus_per_actor": 0, **policy})
        self.log = self.study.events("benchmark")
        self.dispatcher = Dispatcher(DispatchSetup(self.study, spec, settings, lambda description: None, self._observe))

    def _observe(self, event: str, **fields: Any) -> None:
        self.log.write(event, **fields)  # as `run` does
        self.events.append({"event": event, "at": time.monotonic(), **fields})
        self.on_event(self.events[-1])

    def go(self) -> Outcome:
        """Run all visits."""
        return self.dispatcher.run(self.visits, {self.prompt_set.id: self.prompt_set}, [DIRECTION])

    def times(self, name: str) -> list[float]:
        """Return the times of the events with this name."""
        return [event["at"] for event in self.events if event["event"] == name]


def driver(out: Path) -> str:
    """The driver's CPU time per task, receipts per second with every part written, and growth of its memory."""
    header = ["actors", "tasks", "responses a task", "driver CPU, us a task", "receipts a second"]
    header += ["driver's peak, MiB", "its growth, MiB"]
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir="/dev/shm") as memory:
        places = {"disk": out, "memory": Path(memory)}
        settings = ((2, 1000, 80, "disk"), (4, 3000, 80, "disk"), (2, 20_000, 8, "memory"))
        rows = [_measure_driver(places, *setting) for setting in settings]
    capacity = 1e6 / max(float(row[3]) for row in rows)
    return (
        f"{table(header, rows)}\n\nEach part is written as Parquet, flushed and acknowledged. Actors and driver share "
        "the machine's cores, which limit the receipts per second. Small tasks in a file system in memory show best "
        "how fast the driver is while actors write elsewhere. By the largest of its CPU times its limit is "
        f"{capacity:.0f} receipts per second; 1,000 GPUs with visits of 4 seconds send 250. Goal: 500."
    )


def _measure_driver(places: Mapping[str, Path], actors: int, visits: int, prompts: int, place: str) -> list[str]:
    """Return one row of `driver`."""
    run = Run(places[place] / f"{actors}", visits, prompts=prompts, actors=actors)
    run.events = _LastOnly()
    peaks: list[int] = []
    began: list[float] = []
    done: list[float] = []

    def watch(event: Event) -> None:
        if event["event"] == "direction_measured":
            began.append(time.process_time())
        if event["event"] == "visit_done":
            done.append(event["at"])
            if len(done) % 100 == 0:  # reading it takes half a millisecond
                peaks.append(peak_memory() >> 20)

    run.on_event = watch
    run.go()
    spent = time.process_time() - began[0]
    rate = (len(done) - 100) / (done[-1] - done[99])  # the first ones wait for the actors' imports
    grown = peaks[-1] - peaks[len(peaks) // 5]
    row = [str(actors), f"{visits:,}", f"{prompts} to {place}", f"{spent / visits * 1e6:.0f}", f"{rate:.0f}"]
    return [*row, str(peaks[-1]), f"{grown:+d}"]


def utilization(out: Path) -> str:
    """Utilization of 64 actors with visits of one second, from the time when all are loaded until work runs out."""
    actors = 64
    run = Run(out, actors * 90, seconds=1.0, actors=actors, deadline_floor=1e6)
    run.go()
    window = max(run.times("actor_ready")[-1], run.times("visit_done")[actors - 1]), run.times("visit_given")[-1]
    done = [event for event in run.events if event["event"] == "visit_done" and window[0] <= event["at"] < window[1]]
    seconds = window[1] - window[0]
    busy = sum(event["seconds"] for event in done) / (actors * seconds)
    nominal = len(done) / (actors * seconds)
    header = ["actors", "window, s", "visits in it", "busy with visits, %", "visits x 1 s, %", "goal, %"]
    row = [
        str(actors),
        f"{seconds:.1f}",
        str(len(done)),
        f"{100 * busy:.1f}",
        f"{100 * nominal:.1f}",
        "98",
    ]
    return f"{table(header, [row])}\n\n{PROMPTS} responses per visit; each part is written by its actor."


def scan(out: Path) -> str:
    """The start-up scan of many parts, which are copies of one part with another point's id in the metadata."""
    study = Study.create(out, StudyInfo("dummy", "dummy", "float32", 1))
    actor = Actor(EngineSpec(kind=EngineKind.dummy), str(study.root), study.id, create_disk_token(study.out))
    actor.load()
    prompts = prompt_set()
    (visit,) = make_visits(1, prompts)
    actor.set_inputs({prompts.id: prompts}, {DIRECTION.id: actor.measure(DIRECTION)})
    actor.visit(visit)
    (path,) = (study.root / "generations").iterdir()
    data = path.read_bytes()
    start = data.index(META + b"\x18") + len(META)
    start = data.index(b"{", start)
    meta, length = json.JSONDecoder().raw_decode(data[start:].decode("latin-1"))
    rows = []
    for n in (10_000, 100_000):
        for k in range(len(list(path.parent.iterdir())), n):
            point = f"{k:016x}"
            stamped = {**meta, "tasks": [[point, *meta["tasks"][0][1:]]]}
            del stamped["check"]
            text = json.dumps({**stamped, "check": content_id(stamped)}, ensure_ascii=False).encode()
            assert len(text) == length
            (path.parent / f"{point}.parquet").write_bytes(data[:start] + text + data[start + length :])
        before = peak_memory()
        began, cpu = time.monotonic(), time.process_time()
        parts = len(Study.open(study.root).generations.stored())
        seconds, spent = time.monotonic() - began, time.process_time() - cpu
        grown = peak_memory() - before
        rows.append([f"{parts:,}", f"{seconds:.1f}", f"{spent:.1f}", f"{grown >> 20}"])
    return table(["parts", "seconds", "CPU seconds", "memory, MiB"], rows) + "\n\nGoal: 100,000 in under 10 s."


def replacement(out: Path) -> str:
    """Time from the kill of an actor to the first receipt of its replacement, without loading the engine."""
    run = Run(out, 200, seconds=0.2, actors=2)
    kills: list[tuple[float, int]] = []

    def kill(event: Event) -> None:
        if event["event"] == "visit_done" and len(kills) < 5 and len(run.times("visit_done")) % 20 == 0:
            pid = next(e["pid"] for e in reversed(run.events) if e.get("pid") and e["slot"] == event["slot"])
            kills.append((time.monotonic(), event["slot"]))
            os.kill(pid, signal.SIGKILL)

    run.on_event = kill
    run.go()
    waits = []
    for at, slot in kills:
        mine = [event for event in run.events if event["at"] > at and event.get("slot") == slot]
        ready = next((event for event in mine if event["event"] == "actor_ready"), None)
        if ready:
            first = next(e for e in mine if e["event"] == "visit_done" and e["at"] > ready["at"])
            waits.append(first["at"] - at - ready["load_seconds"] - first["seconds"])
    header = ["kills", "median, s", "longest, s", "goal, s"]
    return table(header, [[str(len(waits)), f"{sorted(waits)[len(waits) // 2]:.1f}", f"{max(waits):.1f}", "5"]])


def large(out: Path) -> str:
    """100,000 tasks on 64 actors, from an empty study to the last part (takes 15 minutes; run by name only)."""
    run = Run(out, 100_000, actors=64, prompts=8)
    peaks: list[int] = []
    run.on_event = lambda event: peaks.append(peak_memory() >> 20)
    began, cpu = time.monotonic(), time.process_time()
    run.events = _LastOnly()
    outcome = run.go()
    seconds, spent = time.monotonic() - began, time.process_time() - cpu
    stored = len(run.study.generations.stored())
    header = [
        "tasks stored",
        "seconds",
        "tasks a second",
        "driver CPU, us a task",
        "driver at 10%, MiB",
        "at the end, MiB",
    ]
    row = [f"{stored:,}", f"{seconds:.0f}", f"{outcome.visits / seconds:.0f}", f"{spent / outcome.visits * 1e6:.0f}"]
    return table(header, [[*row, str(peaks[len(peaks) // 10]), str(peaks[-1])]])


class _LastOnly(list[Event]):
    """Keeps only the last event, so that the list does not grow as a real driver's memory would not."""

    def append(self, event: Event) -> None:
        self[:] = [event]


DEFAULT = (driver, utilization, replacement, scan)
MEASURES = {f.__name__: f for f in (*DEFAULT, large)}


def main() -> None:
    """Run the named measurements, or the default ones."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    names = sys.argv[1:] or [f.__name__ for f in DEFAULT]
    for name in names:
        session = contextlib.nullcontext() if name == "scan" else cluster.session(cluster.ClusterSpec())
        with session, tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            this_machine, text = machine(), MEASURES[name](Path(folder) / "studies")
        title = (MEASURES[name].__doc__ or "").strip()
        print(f"{title}\n{text}\n", flush=True)
        section(f"dispatch {name}", f"## Dispatch: {name}\n\n{title}\n\n{this_machine}\n\n{text}")


if __name__ == "__main__":
    main()
