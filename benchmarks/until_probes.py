"""Coverage of the intervals at which sweeps with goals over new probes stop: `python -m benchmarks.until_probes`.

As in `benchmarks.until`, simulated sweeps on lines of 21 points begin with 3 directions and 40 probes and grow as
`analysis.growth.decide` says, with `until.over=both`: by directions, and by blocks of 40 probes of a file in random
order. The true value is the mean over many new directions, each with as many new probes as the sweep has at its end,
in new clusters. The table goes to RESULTS.md.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field

import numpy as np

from benchmarks.coverage import MIXED, PLATEAUS
from benchmarks.population import Model, Population
from benchmarks.results import section, table
from benchmarks.until import goal
from orchestrator.analysis.growth import RADIUS, VISAGE, Goals, Growth, decide
from orchestrator.analysis.intervals import CONFIDENCE
from orchestrator.analysis.probe_blocks import LeftOut, ProbeBlocks
from orchestrator.sweep.grid import Grid
from orchestrator.utils.choices import GoalOver

BLOCK, BLOCKS = 40, 16
FILE = BLOCK * BLOCKS
"""Number of probes of a file."""
FRESH = 200
"""Number of new directions, with new probes each, from which a true value is estimated."""
TEXT_CLUSTERS = FILE // 5, FILE // 3
TEXTS = Population("near-duplicate texts", clusters=TEXT_CLUSTERS)
GOALS = (
    (VISAGE, 12.0, (MIXED, PLATEAUS, TEXTS)),
    (VISAGE, 8.0, (MIXED, PLATEAUS, TEXTS)),
    (VISAGE, 6.0, (MIXED, PLATEAUS, TEXTS)),
    (RADIUS, 0.12, (MIXED, TEXTS)),
    (RADIUS, 0.08, (MIXED, TEXTS)),
)
OF_RADIUS = 3
"""Factor by which more sweeps are simulated for a radius, because it is undefined in most of them."""


@dataclass
class Stops:
    """Outcomes of simulated sweeps with one goal.

    Attributes:
        directions: Number of directions of each sweep that met its goal.
        probes: Number of its probes.
        errors: Distance of its value from the true one, relative to the half-width at the stop.
        unmet: Number of sweeps that did not meet their goal with all probes or the most directions.
        undefined: Number of sweeps whose number is undefined on a line, or on a new one.
    """

    directions: list[int] = field(default_factory=list)
    probes: list[int] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    unmet: int = 0
    undefined: int = 0


def simulate(population: Population, goals: Goals, sweeps: int, seed: int) -> Stops:
    """Simulate sweeps with one goal."""
    rng, stops = np.random.default_rng(seed), Stops()
    (name,) = goals.given
    for _ in range(sweeps):
        file = File.draw(rng, population)
        grid, growth = grow_to_its_end(file, goals, rng)
        (progress,) = growth.progress
        truth = None if progress.value is None else _true_value(name, file, BLOCK * growth.blocks, rng)
        if progress.value is None or truth is None:
            stops.undefined += 1
        elif not progress.met or progress.half_width is None:
            stops.unmet += 1
        else:
            stops.directions.append(grid.lines)
            stops.probes.append(BLOCK * growth.blocks)
            stops.errors.append(abs(progress.value - truth) / progress.half_width)
    return stops


@dataclass(frozen=True)
class File:
    """A file of probes in random order, for one model.

    Attributes:
        model: The model.
        clusters: The cluster of each probe.
        normals: The variable of each probe.
    """

    model: Model
    clusters: np.ndarray
    normals: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, population: Population) -> File:
        """Return a random model with a file."""
        model = Model.draw(rng, population, FILE)
        return cls.of(model, rng)

    @classmethod
    def of(cls, model: Model, rng: np.random.Generator) -> File:
        """Return a random file for a model."""
        order = rng.permutation(FILE)
        return cls(model, model.labels[order], model.probes(rng)[order])

    def refused(self, rng: np.random.Generator, directions: int, probes: int) -> np.ndarray:
        """Return whether each of the first probes refuses on new directions, float [line, point, probe]."""
        order = np.argsort(self.clusters[:probes], kind="stable")
        labels = np.unique(self.clusters[:probes], return_inverse=True)[1][order]  # sorted, as `Model.probes` needs it
        first = dataclasses.replace(self.model, labels=labels)
        refused = first.refused(rng, first.directions(rng, directions), self.normals[:probes][order])
        return refused[..., np.argsort(order)].astype(np.float32)


def grow_to_its_end(file: File, goals: Goals, rng: np.random.Generator) -> tuple[Grid, Growth]:
    """Measure directions and blocks of a model until the goals are met or nothing is added."""
    grid, refused = Grid(steps=20, directions=3), list[np.ndarray]()
    supply = ProbeBlocks(1, (BLOCK,) * BLOCKS, tuple(map(tuple, file.clusters.reshape(BLOCKS, BLOCK).tolist())))
    while True:
        if len(refused) < grid.lines:
            refused += list(file.refused(rng, grid.lines - len(refused), FILE))
        used = [line[:, : BLOCK * supply.used] for line in refused]
        asr = [100.0 - 100.0 * line.mean(axis=-1, dtype=np.float64) for line in used]
        growth = decide(grid, asr, goals, supply, LeftOut.of(supply, used), 100.0 / (BLOCK * supply.used))
        if growth.next is None or growth.next.steps != grid.steps:
            return grid, growth
        grid, supply = growth.next, dataclasses.replace(supply, used=growth.blocks)


def _true_value(name: str, file: File, probes: int, rng: np.random.Generator) -> float | None:
    """Return the mean of a number over new directions with new probes each, if it is defined on all of them."""
    asr = []
    for _ in range(FRESH):
        (refused,) = File.of(file.model, rng).refused(rng, 1, probes)
        asr.append(100.0 - 100.0 * refused.mean(axis=-1, dtype=float))
    whole = decide(Grid(steps=20, directions=FRESH), asr, goal(name, 1.0))  # any goal: the value does not depend on it
    return whole.progress[0].value


def report(sweeps: int, seed: int) -> str:
    """Return the table of all goals and populations."""
    header = ["goal", "models", "stopped", "coverage", "times wider than needed"]
    header += ["directions, mean", "most", "probes, mean", "most", "not met", "undefined"]
    rows = []
    for name, wanted, populations in GOALS:
        for population in populations:
            number = sweeps * (OF_RADIUS if name == RADIUS else 1)
            stops = simulate(population, goal(name, wanted, GoalOver.both), number, seed)
            errors = np.array(stops.errors)
            counted = [f"{100 * np.mean(errors <= 1):.1f}", f"{1 / np.quantile(errors, CONFIDENCE):.1f}"]
            for sizes in (stops.directions, stops.probes):
                counted += [f"{np.mean(sizes):.1f}", str(max(sizes))]
            rows.append([f"until.{name}={wanted:g}", population.name, str(len(errors)), *counted])
            rows[-1] += [str(stops.unmet), str(stops.undefined)]
            print(*rows[-1], sep=" | ", flush=True)
    return table(header, rows)


def main(sweeps: int = 200, seed: int = 19) -> None:
    """Simulate all goals and write the section of RESULTS.md."""
    text = (
        f"`python -m benchmarks.until_probes {sweeps} {seed}`: {sweeps} simulated sweeps in each row "
        f"({OF_RADIUS} times as many for a radius) with `until.over=both`, of lines of 21 points, that begin with 3 "
        f"directions and {BLOCK} probes and add directions and blocks of {BLOCK} probes, {BLOCKS} at most, of a file "
        "in random order, until the half-width is as wanted. Coverage is the percentage of intervals at the stop that "
        "contain the mean "
        f"over {FRESH} new directions, each with as many new probes as the sweep has at its end, in new clusters (the "
        "requirement is 93); divided by the number beside it, the intervals would cover 95%. In the near-duplicate "
        f"texts, {FILE} probes form {TEXT_CLUSTERS[0]} to {TEXT_CLUSTERS[1]} clusters. A sweep is undefined if its "
        "number, or that of one of the new directions, is.\n\n"
    )
    section("until probes", f"## Sweeps that stop at a precision over new probes\n\n{text}{report(sweeps, seed)}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
