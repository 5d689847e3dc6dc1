"""Coverage of the intervals at which sweeps with goals stop: `python -m benchmarks.until [SWEEPS [SEED]]`.

Each simulated sweep measures another model (`benchmarks.population`) on lines of 21 points, begins with 3 directions
and grows as `analysis.growth.decide` says, until its goal is met or 100 directions are measured. The true value is the
mean over many new directions with the same probes. The table goes to RESULTS.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.coverage import CLUSTERED, MIXED, PLATEAUS
from benchmarks.population import Model, Population
from benchmarks.results import section, table
from orchestrator.analysis.growth import RADIUS, VISAGE, Goals, Growth, decide
from orchestrator.analysis.intervals import error_over_directions
from orchestrator.sweep.grid import Grid
from orchestrator.utils.choices import GoalOver

PROBES = 40
FRESH = 400
"""Number of new directions from which a true value is estimated."""
GOALS = (
    (VISAGE, 8.0),
    (VISAGE, 4.0),
    (VISAGE, 2.0),
    (RADIUS, 0.08),
    (RADIUS, 0.05),
    (RADIUS, 0.03),
)


@dataclass
class Stops:
    """Outcomes of simulated sweeps with one goal.

    Attributes:
        directions: Number of directions of each sweep that met its goal.
        covered: Whether the interval at the stop contains the true value.
        usual: Whether Student's t interval at the stop contains it, which ignores why the sweep stopped.
        unmet: Number of sweeps that did not meet their goal with the most directions.
        undefined: Number of sweeps whose number is undefined on a line; they stop at once.
    """

    directions: list[int] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)
    usual: list[bool] = field(default_factory=list)
    unmet: int = 0
    undefined: int = 0


def goal(name: str, wanted: float, over: GoalOver = GoalOver.directions) -> Goals:
    """Return one goal by its name."""
    return Goals(wanted if name == VISAGE else None, wanted if name == RADIUS else None, over)


def simulate(population: Population, goals: Goals, sweeps: int, seed: int) -> Stops:
    """Simulate sweeps with one goal."""
    rng, stops = np.random.default_rng(seed), Stops()
    (name,) = goals.given
    for _ in range(sweeps):
        model = Model.draw(rng, population, PROBES)
        normals = model.probes(rng)
        grid, growth, asr = grow_to_its_end(model, normals, goals, rng)
        (progress,) = growth.progress
        if progress.value is None:
            stops.undefined += 1
            continue
        if not progress.met or progress.half_width is None:
            stops.unmet += 1
            continue
        truth = _true_value(name, model, normals, rng)
        if truth is None:
            stops.undefined += 1
            continue
        half = error_over_directions(_values(name, asr), 1.0 / grid.steps).half_width()
        stops.directions.append(grid.lines)
        stops.covered.append(abs(progress.value - truth) <= progress.half_width)
        stops.usual.append(half is not None and abs(progress.value - truth) <= half)
    return stops


def grow_to_its_end(
    model: Model, normals: np.ndarray, goals: Goals, rng: np.random.Generator
) -> tuple[Grid, Growth, list[np.ndarray]]:
    """Measure directions of a model until the goals are met or nothing is added; return the last grid and its ASR."""
    grid, asr = Grid(steps=20, directions=3), list[np.ndarray]()
    while True:
        asr += list(_measure(model, normals, rng, grid.lines - len(asr)))
        growth = decide(grid, asr, goals, resolution=100.0 / PROBES)
        if growth.next is None or growth.next.steps != grid.steps:
            return grid, growth, asr
        grid = growth.next


def _measure(model: Model, normals: np.ndarray, rng: np.random.Generator, lines: int) -> np.ndarray:
    """Return the ASR along new directions, percent, [line, point]."""
    refused = model.refused(rng, model.directions(rng, lines), normals)
    return np.asarray(100.0 - 100.0 * refused.mean(axis=-1))


def _values(name: str, asr: Sequence[np.ndarray]) -> list[float]:
    """Return the number on each line on which it is defined."""
    goals = goal(name, 1.0)  # any: the value does not depend on it
    alone = (decide(Grid(steps=20, directions=1), [line], goals).progress[0].value for line in asr)
    return [value for value in alone if value is not None]


def _true_value(name: str, model: Model, normals: np.ndarray, rng: np.random.Generator) -> float | None:
    """Return the mean of a number over new directions, if it is defined on all of them."""
    values = _values(name, list(_measure(model, normals, rng, FRESH)))
    return float(np.mean(values)) if len(values) == FRESH else None


def report(sweeps: int, seed: int) -> str:
    """Return the table of all goals and populations."""
    header = ["goal", "models", "stopped", "coverage", "Student's t there", "directions, mean", "most"]
    rows = []
    for name, wanted in GOALS:
        goals = goal(name, wanted)
        for population in (MIXED, CLUSTERED, PLATEAUS):
            stops = simulate(population, goals, sweeps, seed)
            shares = [f"{100 * np.mean(each):.1f}" if each else "" for each in (stops.covered, stops.usual)]
            counted = [f"{np.mean(stops.directions):.1f}", str(max(stops.directions))] if stops.directions else ["", ""]
            cells = [f"until.{name}={wanted:g}", population.name, str(len(stops.covered)), *shares, *counted]
            rows.append([*cells, str(stops.unmet), str(stops.undefined)])
            print(*rows[-1], sep=" | ", flush=True)
    return table([*header, "not met", "undefined"], rows)


def main(sweeps: int = 1000, seed: int = 19) -> None:
    """Simulate all goals and write the section of RESULTS.md."""
    text = (
        f"`python -m benchmarks.until {sweeps} {seed}`: {sweeps} simulated sweeps in each row, of lines of 21 points "
        f"with {PROBES} probes, that begin with 3 directions and add some until the half-width is as wanted. Coverage "
        f"is the percentage of intervals at the stop that contain the mean over {FRESH} new directions with the same "
        "probes (the requirement is 93); beside it that of Student's t intervals for the same directions, which ignore "
        "why the sweep stopped. A sweep is undefined if its number, or that of one of the new directions, is.\n\n"
    )
    section("until", f"## Sweeps that stop at a precision\n\n{text}{report(sweeps, seed)}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
