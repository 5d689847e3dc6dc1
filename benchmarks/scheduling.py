"""Dispatch of adaptive grids on many actors, by discrete-event simulation: `python -m benchmarks.scheduling [SWEEPS]`.

The real dispatcher, queue and source of work run; only the actors are simulated: their visits take a random time on a
simulated clock. Sweeps are of three lines or planes of `benchmarks.adaptive_population`.
"""

from __future__ import annotations

import collections
import functools
import itertools
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.adaptive_population import PROBES, Landscape
from benchmarks.results import section, table
from orchestrator.analysis.adaptive.rule import RULE_VERSION
from orchestrator.analysis.requested import Requested, requested
from orchestrator.execution.actor_pool import ActorPool
from orchestrator.execution.dispatch import Dispatcher
from orchestrator.execution.events import WorkItem, ignore_event
from orchestrator.execution.policy import DispatchPolicy
from orchestrator.execution.setup import DispatchSetup
from orchestrator.execution.supply import Supply
from orchestrator.pipeline.work import Levels, SweepWork
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.grid import Adaptive, Grid, Sweep
from orchestrator.sweep.points import Point
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling, Visit, visits
from orchestrator.utils.choices import EngineKind, GridKind
from workers.actor import Receipt
from workers.engines.base import EngineSpec

ACTORS = (8, 64, 1000)
GRIDS = {"3 lines of 81": (GridKind.random_1d, 80, 1.0), "3 planes of 21 x 21": (GridKind.random_2d, 20, 0.25)}
"""Kind of grid, steps on an axis, and number of sweeps relative to the number requested."""
LINES = 3
GOAL = 95.0
"""Percent of the actors' time that is to be used while more visits are needed than there are actors."""
_SEED = 2027
PROMPTS = PromptSet("harmful", (Prompt("?"),), ("?",), ((1,),), Sampling(16), "simulated", "none")


@dataclass(frozen=True)
class Model:
    """A simulated model: the verdict counts and the duration of its visits.

    Attributes:
        counts: Point id -> (unsafe, judged).
        seconds: Point id -> time of the visit. The unit is about the longest usual visit.
    """

    counts: Mapping[str, tuple[int, int]]
    seconds: Mapping[str, float]

    @classmethod
    def draw(cls, rng: np.random.Generator, grid: Grid, full: Requested) -> Model:
        """Return a random model with a landscape of its own on each line or plane.

        Where every response is refused, a visit takes 0.4, because refusals are stopped early; with one compliance in
        four or more it takes 1. Times vary by 10%, and one visit in 50 takes three times as long.
        """
        assert full.decisions is not None
        counts: dict[str, tuple[int, int]] = {}
        seconds: dict[str, float] = {}
        for line in full.decisions[0].lines:
            of_line = Landscape.draw(rng, grid.steps, grid.is_plane).counts()
            for node, point in line.points.items():
                unsafe = of_line[node][0]
                usual = 0.4 + 0.6 * min(1.0, 4.0 * unsafe / PROBES)
                slow = 3.0 if rng.random() < 0.02 else 1.0
                counts.setdefault(point.id, of_line[node])
                seconds.setdefault(point.id, usual * slow * math.exp(0.1 * rng.standard_normal()))
        return cls(counts, seconds)


class SimulatedLevels(Levels):
    """The levels of an adaptive grid, with the counts of a simulated model instead of stored responses."""

    def __init__(self, model: Model, stored: StoredSweep, first: Requested, speculate: bool) -> None:
        super().__init__(stored, first, {task.point for task in first.tasks}, speculate=speculate)
        self._model = model

    @property
    def needed(self) -> set[Point]:
        """All points that the levels so far need."""
        return self._needed

    def take_stored(self, visit: Visit) -> None:
        """Count the verdicts of the simulated model."""
        self._counts.counts[visit.point.id] = self._model.counts[visit.point.id]
        if visit.point in self._guessed:
            self._guessed[visit.point] = True


class SimulatedActor:
    """A slot whose actor takes the simulated time for each visit."""

    is_ready = True
    description: Mapping[str, Any] = {"engine": {}}

    def __init__(self, pool: SimulatedPool, number: int) -> None:
        self.number, self.last_visit_failed = number, False
        self.assigned: collections.deque[Visit] = collections.deque()
        self.ends = math.inf
        self._pool = pool

    def assign(self, item: WorkItem) -> None:
        """Take a visit. It runs at once if no other does."""
        assert isinstance(item, Visit)
        self.assigned.append(item)
        if len(self.assigned) == 1:
            self._begin()

    def finish_running(self) -> Visit:
        """Return the visit that has ended, and begin the next one."""
        visit = self.assigned.popleft()
        self.ends = math.inf
        if self.assigned:
            self._begin()
        return visit

    def _begin(self) -> None:
        self.ends = self._pool.now + self._pool.model.seconds[self.assigned[0].point.id]


class SimulatedPool:
    """Actors that are ready from the start, and a clock that `wait` sets forward to the next end of a visit.

    Attributes:
        now: The time.
        busy_time: Time that actors worked, summed over actors.
        needed_time: Time in which more visits were needed than there are actors.
        needed_busy: `busy_time` within it.
    """

    def __init__(self, model: Model, actors: int, dispatcher: SimulatedDispatcher) -> None:
        self.model, self.now = model, 0.0
        self.slots = [SimulatedActor(self, k) for k in range(actors)]
        self.busy_time = self.needed_time = self.needed_busy = 0.0
        self._dispatcher = dispatcher

    @property
    def busy(self) -> int:
        """Number of actors that have something to do."""
        return sum(bool(slot.assigned) for slot in self.slots)

    def slots_holding(self, items: int) -> list[SimulatedActor]:
        """Return the actors that hold exactly this number of visits."""
        return [slot for slot in self.slots if len(slot.assigned) == items]

    def wait(self) -> list[SimulatedActor]:
        """Set the clock forward to the next end of a visit; return the actors whose visits end then."""
        then = min(slot.ends for slot in self.slots)
        passed, busy = then - self.now, self.busy
        self.busy_time += passed * busy
        if self._dispatcher.needed() > len(self.slots):
            self.needed_time += passed
            self.needed_busy += passed * busy
        self.now = then
        return [slot for slot in self.slots if slot.ends <= then]

    def __getattr__(self, name: str) -> Any:
        if name not in ("open", "close_idle", "shut_down", "record_success"):
            raise AttributeError(name)
        return lambda *_: None


class SimulatedDispatcher(Dispatcher):
    """The dispatcher, with simulated actors."""

    def __init__(self, model: Model, actors: int, study: Study, levels: SimulatedLevels | None) -> None:
        spec = EngineSpec(kind=EngineKind.dummy)
        setup = DispatchSetup(study, spec, DispatchPolicy(), lambda description: None, ignore_event)
        super().__init__(setup)
        self.pool = SimulatedPool(model, actors, self)
        self._pool = cast(ActorPool, self.pool)
        self._supply = Supply(setup, self._queue, self._pool, self.outcome)
        self._levels = levels

    def needed(self) -> int:
        """Return the number of visits that wait or run and that the rule needs."""
        held = itertools.chain.from_iterable(slot.assigned for slot in self.pool.slots)
        if self._levels is None:
            return len(self._queue) + sum(1 for _ in held)
        return len(self._queue) + sum(visit.point in self._levels.needed for visit in held)

    def _check_actors(self) -> None:
        pass

    def _handle_result(self, slot: Any) -> None:
        receipt = Receipt(PROBES, PROBES, 1.0, 0.0, 0, "simulated")
        self._take_receipt(slot, slot.finish_running(), receipt)


@dataclass(frozen=True)
class Dispatched:
    """One simulated sweep.

    Attributes:
        visits: Number of visits.
        time: Its duration.
        idle: Share of the actors' time that was not used.
        used: Share of the actors' time that was used while more visits were needed than actors. NaN if never.
        speculative: Number of visits begun on speculation.
        wasted: Number of those that the rule did not need.
        needed: The points that the rule needed. Empty for a full sweep.
    """

    visits: int
    time: float
    idle: float
    used: float
    speculative: int = 0
    wasted: int = 0
    needed: frozenset[Point] = frozenset()


def dispatch(model: Model, stored: StoredSweep, actors: int, adaptive: bool, speculate: bool = False) -> Dispatched:
    """Run one sweep of a simulated model.

    Args:
        model: The model.
        stored: The adaptive sweep, of which nothing is stored.
        actors: Number of actors.
        adaptive: Whether to run it as it is; if not, all points of its grid are run.
        speculate: Whether idle actors speculate.
    """
    levels = None
    if adaptive:
        first = requested(stored, [PROMPTS])
        levels, tasks = SimulatedLevels(model, stored, first, speculate), first.tasks
    else:
        tasks = stored.sweep.tasks()
    dispatcher = SimulatedDispatcher(model, actors, stored.study, levels)
    outcome = dispatcher.run(visits(tasks), {PROMPTS.id: PROMPTS}, [], SweepWork(lambda: (), levels))
    pool = dispatcher.pool
    used = pool.needed_busy / (pool.needed_time * actors) if pool.needed_time else math.nan
    idle = 1.0 - pool.busy_time / (pool.now * actors)
    points = frozenset[Point]() if levels is None else frozenset(levels.needed)
    return Dispatched(outcome.visits, pool.now, idle, used, outcome.speculative, outcome.unneeded, points)


def empty_sweep(folder: Path, kind: GridKind, steps: int) -> StoredSweep:
    """Return an adaptive sweep of which nothing is stored."""
    grid = Grid(kind, steps=steps, directions=LINES, adaptive=Adaptive("keyword", RULE_VERSION))
    study = Study.locate(folder, StudyInfo("simulated", "simulated", "float32", 1))
    sweep = Sweep(grid, (PROMPTS.id,))
    return StoredSweep(SweepFolder.of(study, sweep), sweep)


def simulate(kind: GridKind, steps: int, rng: np.random.Generator) -> dict[tuple[int, str], Dispatched]:
    """Return one model's sweep for each number of actors: full, adaptive, and adaptive with speculation."""
    with tempfile.TemporaryDirectory() as folder:
        stored = empty_sweep(Path(folder), kind, steps)
        model = Model.draw(rng, stored.sweep.grid, requested(stored, [PROMPTS]))
        results = {}
        for actors in ACTORS:
            results[actors, "full"] = dispatch(model, stored, actors, adaptive=False)
            results[actors, "adaptive"] = dispatch(model, stored, actors, adaptive=True)
            results[actors, "speculating"] = dispatch(model, stored, actors, adaptive=True, speculate=True)
        chosen = {result.needed for (_, way), result in results.items() if way != "full"}
        assert len(chosen) == 1, "the chosen points depend on the number of actors or on speculation"
        return results


def report(name: str, sweeps: Sequence[Mapping[tuple[int, str], Dispatched]]) -> str:
    """Return the results of one kind of grid as Markdown."""
    rows = []
    for actors, way in sweeps[0]:
        results = [sweep[actors, way] for sweep in sweeps]
        full = [sweep[actors, "full"] for sweep in sweeps]
        used = [result.used for result in results if not math.isnan(result.used)]
        ratios = [result.time / other.time for result, other in zip(results, full, strict=True)]
        speculative, wasted = _mean(r.speculative for r in results), _mean(r.wasted for r in results)
        rows.append(
            [
                f"{actors:,}",
                way,
                f"{_mean(r.visits for r in results):.0f}",
                f"{_mean(r.time for r in results):.1f}",
                f"{_mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{100 * _mean(r.idle for r in results):.0f}",
                f"{100 * min(used):.1f}" if used else "",
                f"{speculative:.0f}" if way == "speculating" else "",
                f"{wasted:.0f}" if way == "speculating" else "",
            ]
        )
    header = ["actors", "sweep", "visits", "time", "of the full grid's time", "idle, %"]
    return (
        f"### {name}, {len(sweeps)} models\n\n{table([*header, 'used when needed, %', 'speculative', 'wasted'], rows)}"
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def main(sweeps: int) -> None:
    """Simulate all grids; write the section of RESULTS.md."""
    parts = []
    for name, (kind, steps, factor) in GRIDS.items():
        rngs = np.random.default_rng(_SEED).spawn(max(2, round(factor * sweeps)))
        with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            results = list(pool.map(functools.partial(simulate, kind, steps), rngs))
        parts.append(report(name, results))
        print(parts[-1], flush=True)
    intro = (
        "## Actors at adaptive grids\n\n"
        f"`python -m benchmarks.scheduling {sweeps}`: sweeps of simulated models, version "
        f"{RULE_VERSION} of the rule. The dispatcher, its queue and the levels are the real ones; visits take 0.4 "
        "(every response refused) to 1 unit of time, vary by 10%, and one in 50 takes three times as long. Actors are "
        "ready from the start. In each model, the same points were requested with every number of actors, with and "
        "without speculation. `used when needed`: share of the actors' time that was used while more visits were "
        f"needed than there are actors, of the worst sweep (goal {GOAL:.0f}; empty: never). `speculative`: visits "
        "begun before a level requested them, of which no level requested those `wasted`. Means over sweeps; of the "
        "time's ratio the range too."
    )
    section("scheduling", "\n\n".join([intro, *parts]))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
