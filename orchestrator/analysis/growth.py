"""Growth of a sweep with goals (`until.visage`, `until.radius`): by directions, by finer points, or no further.

Everything here is a pure function of a grid and of the verdict counts at its points, so that a run that was killed goes
through the same grids again. docs/howto/until.md describes the rule.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.analysis import basin, visage
from orchestrator.analysis.adaptive import until
from orchestrator.analysis.adaptive.inference import infer
from orchestrator.analysis.requested import AdaptiveLine
from orchestrator.scoring.deciding import PointCounts
from orchestrator.sweep.grid import Grid
from orchestrator.sweep.until import GoalProgress
from orchestrator.utils.choices import GridKind

VISAGE, RADIUS = "visage", "radius"
GROWING_KINDS = (GridKind.random_1d, GridKind.random_2d, GridKind.interpolate_random)
"""Kinds of grids to which further random directions can be added."""
MOST_DIRECTIONS = 100
"""Number of directions beyond which a sweep does not grow."""
MOST_POINTS = 20_000
"""Number of points beyond which a sweep does not grow."""
_FROM_NOTHING = 100.0  # factor by which the first known half-width is taken to be better than none


@dataclass(frozen=True)
class Goals:
    """Wanted half-widths of 95% intervals over new directions, with the same probes.

    Attributes:
        visage: That of VISAGE, in percent. None if it does not matter.
        radius: That of the mean radius, in units of alpha. None if it does not matter.
    """

    visage: float | None = None
    radius: float | None = None

    @property
    def given(self) -> dict[str, float]:
        """The goals by name, without those that do not matter."""
        named = {VISAGE: self.visage, RADIUS: self.radius}
        return {name: wanted for name, wanted in named.items() if wanted is not None}


@dataclass(frozen=True)
class Growth:
    """The progress of a grid's goals by the counts of the whole grid, and the grid that follows.

    Attributes:
        progress: Each goal with what is known.
        next: The grid to measure next. None if every goal is met, or if nothing can be added that helps.
    """

    progress: tuple[GoalProgress, ...]
    next: Grid | None

    @property
    def is_met(self) -> bool:
        """True if every goal is met."""
        return all(goal.met for goal in self.progress)


def grow(grid: Grid, counts: Mapping[str, PointCounts], goals: Goals) -> Growth:
    """Return how far a grid's goals are met, and the grid to measure next.

    Args:
        grid: A grid that is measured as far as it is asked for.
        counts: (unsafe, judged) by point id, (0, 0) without a verdict. Points of an adaptive grid without counts are
            inferred; those of other grids are unknown.
        goals: The wanted half-widths.
    """
    return decide(grid, [_asr(grid, number, counts) for number in range(grid.lines)], goals)


def decide(grid: Grid, asr: Sequence[np.ndarray], goals: Goals) -> Growth:
    """Do the same as `grow`, given the ASR of each line or plane: percent, NaN where unknown, [node on each axis]."""
    known = [_Goal.of(name, wanted, grid, asr) for name, wanted in goals.given.items()]
    progress = tuple(goal.progress for goal in known)
    unmet = [goal for goal in known if not goal.progress.met]
    if not unmet or any(goal.progress.reason for goal in unmet):
        return Growth(progress, None)
    candidates = [candidate for candidate in (_more_directions(grid, unmet), _finer(grid)) if candidate is not None]
    gains = {candidate: _gain(grid, candidate, unmet) for candidate in candidates}
    best = max(candidates, key=lambda candidate: gains[candidate], default=None)
    if best is None or gains[best] <= 0.0:
        limits = f"at {grid.lines} directions and {grid.steps} steps nothing can be added that narrows it"
        progress = tuple(goal if goal.met else dataclasses.replace(goal, reason=limits) for goal in progress)
        return Growth(progress, None)
    return Growth(progress, best)


def _asr(grid: Grid, number: int, counts: Mapping[str, PointCounts]) -> np.ndarray:
    """Return the ASR of a line or plane in percent, measured or inferred; NaN where unknown. [node on each axis]."""
    line = AdaptiveLine(grid, number)
    of_line = line.counts(counts)
    asr = np.full(line.shape.sizes, math.nan)
    for node, (unsafe, judged) in of_line.items():
        if judged:
            asr[node] = 100.0 * unsafe / judged
    if grid.adaptive is not None and of_line:
        for node, inferred in infer(line.shape, of_line).items():
            asr[node] = inferred.asr
    return asr


def _values(name: str, grid: Grid, asr: Sequence[np.ndarray]) -> list[tuple[float | None, str | None]]:
    """Return the number on each line or plane, with the reason if it has none there."""
    places = places_of(grid)
    values = []
    for percent in asr:
        flat = percent.ravel()
        if name == VISAGE:
            score = visage.measure(places, flat)
            values.append((score.paper, score.reason))
            continue
        known = [None if math.isnan(value) else value for value in flat.tolist()]
        if grid.is_plane:
            measured = basin.measure_plane([x for x, _ in places], [y for _, y in places], known)
        else:
            measured = basin.measure_line([x for (x,) in places], known)
        values.append((measured.radius, measured.reason or f"ASR does not cross {basin.THRESHOLD:g}%"))
    return values


@dataclass(frozen=True)
class _Goal:
    """A goal, with what is needed to predict its half-width on other grids.

    Attributes:
        progress: The goal with what is known.
        spread: Standard deviation of the number between directions. None with fewer than two directions.
        rounding: The smallest half-width on this grid, from the distance between its points. 0 for VISAGE.
        over_directions: Whether the half-width is over new directions too, and not only from the points' distance.
    """

    progress: GoalProgress
    spread: float | None
    rounding: float
    over_directions: bool

    @classmethod
    def of(cls, name: str, wanted: float, grid: Grid, asr: Sequence[np.ndarray]) -> _Goal:
        values = _values(name, grid, asr)
        undefined = [(number, reason) for number, (value, reason) in enumerate(values) if value is None]
        rounding = 0.0 if name == VISAGE else step(grid) / 2.0
        drawn = grid.kind in GROWING_KINDS
        if undefined:
            number, why = undefined[0]
            reason = f"it is undefined on line {number}: {why}"
            return cls(GoalProgress(name=name, wanted=wanted, reason=reason), None, rounding, drawn)
        known = [value for value, _ in values if value is not None]
        half = until.half_width(known, least=rounding) if drawn else rounding
        progress = GoalProgress(
            name=name,
            wanted=wanted,
            value=float(np.mean(known)),
            half_width=half,
            met=half is not None and half <= wanted,
        )
        return cls(progress, float(np.std(known, ddof=1)) if len(known) > 1 else None, rounding, drawn)

    def expected(self, grid: Grid, finer: float) -> float:
        """Return the half-width to expect on another grid.

        Args:
            grid: The other grid.
            finer: Its distance between points divided by that of the present grid.
        """
        if not self.over_directions:
            return self.rounding * finer
        width = until.relative_half_width(grid.lines)
        if width is None:
            return math.inf
        return max(width * (self.spread or 0.0), self.rounding * finer)


def places_of(grid: Grid) -> list[tuple[float, ...]]:
    """Return the coordinates of the nodes of each line or plane, those of the last axis fastest."""
    return list(itertools.product(*grid.coordinates()))


def step(grid: Grid) -> float:
    """Return the distance between neighboring points of a grid; of a plane, along the axis where it is larger."""
    ranges = [grid.range, grid.range_y or grid.range] if grid.is_plane else [grid.range]
    return max(high - low for low, high in ranges) / grid.steps


def _more_directions(grid: Grid, unmet: Sequence[_Goal]) -> Grid | None:
    """Return the grid with as many directions as the goals seem to need, at most twice as many as now. None: no more.

    A sweep of fewer directions than any interval needs grows to that number first.
    """
    if grid.kind not in GROWING_KINDS or grid.lines >= MOST_DIRECTIONS:
        return None
    now, most = grid.lines, min(2 * grid.lines, MOST_DIRECTIONS, MOST_POINTS * grid.lines // grid.size)
    if now < until.FEWEST:
        return dataclasses.replace(grid, directions=until.FEWEST)
    if most <= now:
        return None
    spreads = [(goal.spread or 0.0, max(goal.progress.wanted, goal.rounding)) for goal in unmet]
    enough = (
        n
        for n in range(now + 1, most)
        if all((until.relative_half_width(n) or math.inf) * spread <= wanted for spread, wanted in spreads)
    )
    return dataclasses.replace(grid, directions=next(enough, most))


def _finer(grid: Grid) -> Grid | None:
    """Return the grid with half the distance between points. None if it is as fine as it gets."""
    finer = dataclasses.replace(grid, steps=2 * grid.steps)
    return finer if finer.size <= MOST_POINTS else None


def finest_step(grid: Grid) -> float:
    """Return the distance between neighboring points of the finest grid to which a grid can grow."""
    while (finer := _finer(grid)) is not None:
        grid = finer
    return step(grid)


def _gain(grid: Grid, candidate: Grid, unmet: Sequence[_Goal]) -> float:
    """Return by how much a larger grid is expected to narrow the intervals, for each point that it adds.

    The gain is the sum over the goals of the logarithm of (half-width now / half-width then), where narrower than
    wanted counts as wanted. Points take about as long as each other, so this is also the gain for each second.
    """
    finer = grid.steps / candidate.steps
    gain = 0.0
    for goal in unmet:
        then, wanted = goal.expected(candidate, finer), goal.progress.wanted
        now = goal.progress.half_width
        if now is None:
            gain += math.log(_FROM_NOTHING) if then < math.inf else 0.0
        else:
            gain += math.log(now / max(then, wanted)) if then < now else 0.0
    return gain / (candidate.size - grid.size)
