"""The sweeps that are disturbed, and what each gives if nothing disturbs it."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tests.cluster.chaos.hosts import PORT
from tests.cluster.chaos.reader import Key, read_responses

FIRST_SEED = 123
COSTS = {
    *("seconds", "tokens", "restarts", "actors", "actors_at_once", "gpu_hours", "ready_seconds", "idle_seconds"),
    *("engines", "versions", "peak_memory"),
}
"""Fields of a summary that depend on how often work was repeated, or on the machine."""

RowKey = tuple[int, float, str, str, str]
"""Line, coordinate, probe set, system prompt and judge of a row of a landscape."""


@dataclass(frozen=True)
class Subject:
    """Sweeps to disturb one after the other: they differ in their random directions and share a study.

    Attributes:
        options: The overrides of `run` that all sweeps share, without `out`.
        pauses: Shortest and longest time between two disturbances, in seconds.
    """

    options: tuple[str, ...]
    pauses: tuple[float, float]

    def overrides(self, number: int) -> tuple[str, ...]:
        """Return the overrides of sweep `number`, without `out`."""
        return (*self.options, f"grid.seed={FIRST_SEED + 100 * number}")


def subject(engine: str) -> Subject:
    """Return sweeps with the dummy engine, which is fast, or with the embedded model, whose actors load slowly."""
    common = ("grid.directions=2", "cluster=ray", f"cluster.address=10.77.0.1:{PORT}", "cluster.cpus_per_actor=1",
              "cluster.max_attempts=10", "cluster.grace=5", "retry=failed")  # fmt: skip
    if engine == "dummy":
        own = ("engine=dummy", "engine.seconds=0.3", "grid.steps=80", "probe_sets=[harmful,benign]", "probes.limit=6",
               "sampling.max_tokens=16", "cluster.actors=4", "cluster.deadline_floor=4")  # fmt: skip
        return Subject((*own, *common), (1.5, 5))
    real = ("grid.steps=20", "probes.limit=6", "sampling.max_tokens=8", "engine.kv_cache_gib=0.1", "engine.threads=1",
            "cluster.actors=2", "cluster.deadline_floor=30")  # fmt: skip
    return Subject((*real, *common), (20, 50))


@dataclass(frozen=True)
class Expected:
    """A sweep that was run by one actor without Ray, and judged and reduced.

    Attributes:
        study: Name of the study's folder.
        sweep: Name of the sweep's folder.
        responses: All responses.
        landscape: The other columns of each row of the landscape.
        summary: The summary without costs.
    """

    study: str
    sweep: str
    responses: Mapping[Key, str]
    landscape: Mapping[RowKey, Mapping[str, Any]]
    summary: Mapping[str, Any]

    @property
    def tasks(self) -> set[tuple[str, str]]:
        """Point and prompt set of each task."""
        return {(point, prompts) for point, prompts, _ in self.responses}


def undisturbed(out: Path, overrides: tuple[str, ...]) -> Expected:
    """Run a sweep by one actor in this process, without Ray, and return everything it gives."""
    from rich.console import Console

    from orchestrator.analysis.reducer import reduce_landscape, reduce_summary
    from orchestrator.config.compose import compose
    from orchestrator.config.presets import Presets
    from orchestrator.execution.resources import engine_spec
    from orchestrator.pipeline.execute import open_sweep
    from orchestrator.pipeline.judge import judge_sweep
    from orchestrator.pipeline.prepare import prepare
    from orchestrator.scoring.verdicts import refusals_by_probe
    from orchestrator.store.temporary import create_disk_token
    from orchestrator.sweep.tasks import visits
    from workers.actor import Actor

    prepared = prepare(compose([*overrides, f"out={out}"]), Presets())
    spec = dataclasses.replace(engine_spec(prepared.config, prepared.model, "cpu", prepared.targets), seconds=0.0)
    with open_sweep(prepared, overrides) as stored:
        study, directions = stored.study, stored.sweep.grid.directions_used
        actor = Actor(spec, str(study.root), study.id, create_disk_token(study.out))
        actor.load()
        actor.set_inputs({s.id: s for s in prepared.prompt_sets}, {d.id: actor.measure(d) for d in directions})
        for visit in visits(stored.sweep.tasks()):
            actor.visit(visit)
        judge_sweep(prepared.config, stored, Console(quiet=True), run_models=False)
        refusals = refusals_by_probe(stored)
        frame = reduce_landscape(stored, refusals)
        summary = reduce_summary(stored, frame, refusals, prepared.config.report.target).to_json()
        summary = json.loads(json.dumps(summary))  # as it is stored, with lists instead of tuples
        responses, _ = read_responses(study, stored.generations)
        name = stored.folder.path.name
    return Expected(study.root.name, name, responses, landscape_rows(frame), without_costs(summary))


def landscape_rows(frame: pd.DataFrame) -> dict[RowKey, dict[str, Any]]:
    """Return the rows of a landscape of lines by their key. Missing values are None."""
    rows: dict[RowKey, dict[str, Any]] = {}
    for record in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        row = {str(name): value for name, value in record.items()}
        line, alpha, *others = (row.pop(name) for name in ("line", "alpha", "probe_set", "system_prompt", "judge"))
        rows[line, alpha, others[0], others[1], others[2]] = row
    return rows


def without_costs(document: Any) -> Any:
    """Return a summary without the fields that depend on how often work was repeated."""
    if isinstance(document, dict):
        return {key: without_costs(value) for key, value in document.items() if key not in COSTS | {"check"}}
    return [without_costs(value) for value in document] if isinstance(document, list) else document


def difference(one: Any, other: Any, place: str = "") -> str | None:
    """Return the first place where two documents differ, with both values; None if they are equal."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        found = (difference(one[key], other[key], f"{place}.{key}") for key in one)
        return next(filter(None, found), None)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return next(
            filter(None, (difference(*pair, f"{place}.{i}") for i, pair in enumerate(zip(one, other, strict=True)))),
            None,
        )
    if isinstance(one, dict) and isinstance(other, dict):
        more, missing = sorted(one.keys() - other.keys()), sorted(other.keys() - one.keys())
        return f"{place.strip('.')} has {more} too, and lacks {missing}"
    return None if one == other else f"{place.strip('.')} is {one!r:.100}, true is {other!r:.100}"


class Expectations:
    """Context manager: what the sweeps give, each computed in a process of its own, one ahead of its use."""

    def __init__(self, subject: Subject, out: Path) -> None:
        self._subject, self._out = subject, out
        self._futures: list[concurrent.futures.Future[Expected]] = []
        spawn = multiprocessing.get_context("spawn")  # an engine's memory is freed only with its process
        self._pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1)

    def __enter__(self) -> Expectations:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def of(self, number: int) -> Expected:
        """Return what sweep `number` gives. Waits for it, and begins the next one."""
        for ahead in range(len(self._futures), number + 2):
            self._futures.append(self._pool.submit(undisturbed, self._out, self._subject.overrides(ahead)))
        return self._futures[number].result()
