"""Growth of a sweep with goals (`until.visage`, `until.radius`): by directions, finer points, probes, or no further.

Everything here is a pure function of a grid and of the verdict counts at its points, so that a run that was killed goes
through the same grids again. docs/howto/until.md describes the rule.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.analysis import basin, visage
from orchestrator.analysis.adaptive import until
from orchestrator.analysis.adaptive.inference import infer
from orchestrator.analysis.probe_blocks import UNKNOWN_PROBES, Crossed, LeftOut, ProbeBlocks, ProbeCounts
from orchestrator.analysis.requested import AdaptiveLine
from orchestrator.scoring.deciding import PointCounts
from orchestrator.sweep.grid import Grid
from orchestrator.sweep.until import GoalProgress
from orchestrator.utils.choices import GoalOver, GridKind

VISAGE, RADIUS = "visage", "radius"
GROWING_KINDS = (GridKind.random_1d, GridKind.random_2d, GridKind.interpolate_random)
"""Kinds of grids to which further random directions can be added."""
MOST_DIRECTIONS = 100
"""Number of directions beyond which a sweep does not grow."""
MOST_POINTS = 20_000
"""Number of points beyond which a sweep does not grow."""
MOST_BLOCKS = 16
"""Number of blocks of probes beyond which a sweep does not grow."""
_HOPELESS = 2.0  # ratio to the wanted half-width from which nothing is added, as it is only expected
_FROM_NOTHING = 100.0  # factor by which the first known half-width is taken to be better than none


@dataclass(frozen=True)
class Goals:
    """Wanted half-widths of 95% intervals over new directions, and over new probes too if wanted.

    Attributes:
        visage: That of VISAGE, in percent. None if it does not matter.
        radius: That of the mean radius, in units of alpha. None if it does not matter.
        over: What the intervals are over.
    """

    visage: float | None = None
    radius: float | None = None
    over: GoalOver = GoalOver.directions

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
        blocks: Number of blocks of probes to measure it with.
    """

    progress: tuple[GoalProgress, ...]
    next: Grid | None
    blocks: int = 1

    @property
    def is_met(self) -> bool:
        """True if every goal is met."""
        return all(goal.met for goal in self.progress)


def grow(
    grid: Grid,
    counts: Mapping[str, PointCounts],
    goals: Goals,
    supply: ProbeBlocks = UNKNOWN_PROBES,
    verdicts: Callable[[str], np.ndarray | None] | None = None,
) -> Growth:
    """Return how far a grid's goals are met, and the grid to measure next.

    Args:
        grid: A grid that is measured as far as it is asked for.
        counts: (unsafe, judged) by point id, (0, 0) without a verdict. Points of an adaptive grid without counts are
            inferred; those of other grids are unknown.
        goals: The wanted half-widths.
        supply: The probes. Goals over directions alone need none, and add none.
        verdicts: Returns the verdicts at a point by its id, as `DecidingCounts.verdicts` does. Only for goals over
            probes, whose grids are not adaptive.
    """
    asr = [_asr(grid, number, counts) for number in range(grid.lines)]
    resolution = 100.0 / max((judged for _, judged in counts.values()), default=1)
    if goals.over == GoalOver.directions or verdicts is None:
        return decide(grid, asr, goals, resolution=resolution)
    unknown, refused = np.full(supply.now.probes, np.nan, np.float32), []
    for line in (AdaptiveLine(grid, number) for number in range(grid.lines)):
        at = {node: verdicts(point.id) for node, point in line.points.items()}
        of_line = np.full((*line.shape.sizes, len(unknown)), np.nan, np.float32)
        for node, known in at.items():
            of_line[node] = unknown if known is None else known
        refused.append(of_line)
    return decide(grid, asr, goals, supply, LeftOut.of(supply, refused), resolution)


def decide(
    grid: Grid,
    asr: Sequence[np.ndarray],
    goals: Goals,
    supply: ProbeBlocks = UNKNOWN_PROBES,
    left_out: LeftOut | None = None,
    resolution: float = 0.0,
) -> Growth:
    """Do the same as `grow`, given the ASR of each line or plane.

    Args:
        grid: The grid.
        asr: Percent, NaN where unknown, [node on each axis] for each line or plane.
        goals: The wanted half-widths.
        supply: The probes, for goals over probes.
        left_out: The ASR without some of them, for goals over probes.
        resolution: The smallest difference between two values of the ASR: 100 / probes. 0 if it is exact.
    """
    sample = _Sample(asr, supply, left_out, resolution)
    known = [_Goal.of(name, wanted, grid, sample) for name, wanted in goals.given.items()]
    progress = tuple(goal.progress for goal in known)
    unmet = [goal for goal in known if not goal.progress.met]
    if not unmet or any(goal.progress.reason for goal in unmet):
        return Growth(progress, None, supply.used)
    now = _Extent(grid, supply.used)
    candidates = [_more_directions(grid, unmet, supply), _finer(grid)]
    extents = [_Extent(candidate, supply.used) for candidate in candidates if candidate is not None]
    if left_out is not None and (blocks := _more_blocks(grid.lines, unmet, supply)) is not None:
        extents.append(_Extent(grid, blocks))
    gains = {extent: _gain(now, extent, unmet, supply) for extent in extents}
    best = max(extents, key=lambda extent: gains[extent], default=None)
    if best is None or gains[best] <= 0.0:
        limits = f"at {grid.lines} directions and {grid.steps} steps nothing can be added that narrows it"
        if left_out is not None:
            limits = f"with {supply.now.probes} probes, {limits}"
        progress = tuple(goal if goal.met else dataclasses.replace(goal, reason=limits) for goal in progress)
        return Growth(progress, None, supply.used)
    return Growth(progress, best.grid, best.blocks)


@dataclass(frozen=True)
class _Extent:
    """A grid with a number of blocks of probes."""

    grid: Grid
    blocks: int


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
class _Sample:
    """Measurements of a grid: those arguments of `decide`."""

    asr: Sequence[np.ndarray]
    supply: ProbeBlocks
    left_out: LeftOut | None
    resolution: float


@dataclass(frozen=True)
class _Goal:
    """A goal, with what is needed to predict its half-width on other grids.

    Attributes:
        progress: The goal with what is known.
        spread: Standard deviation of the number between directions. That of VISAGE contains the variance of rounding
            to whole probes, resolution^2 / 12, as in `intervals.error_over_directions`: values that happen to agree
            are not known without error. None with fewer than two directions.
        rounding: The smallest half-width on this grid, from the distance between its points. 0 for VISAGE.
        over_directions: Whether the half-width is over new directions too, and not only from the points' distance.
        crossed: The variances of directions and probes. None if the half-width is not over new probes.
    """

    progress: GoalProgress
    spread: float | None
    rounding: float
    over_directions: bool
    crossed: Crossed | None = None

    @classmethod
    def of(cls, name: str, wanted: float, grid: Grid, sample: _Sample) -> _Goal:
        supply, left_out = sample.supply, sample.left_out
        values = _values(name, grid, sample.asr)
        over = GoalOver.directions if left_out is None else GoalOver.both
        progress = GoalProgress(name=name, wanted=wanted, over=str(over))
        rounding = 0.0 if name == VISAGE else step(grid) / 2.0
        drawn = grid.kind in GROWING_KINDS
        undefined = [(number, reason) for number, (value, reason) in enumerate(values) if value is None]
        if undefined:
            number, why = undefined[0]
            reason = f"it is undefined on line {number}: {why}"
            return cls(dataclasses.replace(progress, reason=reason), None, rounding, drawn)
        known = [value for value, _ in values if value is not None]
        least = sample.resolution / math.sqrt(12) if name == VISAGE else 0.0
        spread = math.hypot(float(np.std(known, ddof=1)), least) if len(known) > 1 else None
        progress = dataclasses.replace(progress, value=float(np.mean(known)))
        crossed = None
        if left_out is not None:
            pseudo = _pseudo_values(name, grid, np.array(known), left_out)
            if np.isnan(pseudo).any():
                number = int(np.isnan(pseudo).any(axis=1).argmax())
                reason = f"it is undefined on line {number} without some of the probes"
                return cls(dataclasses.replace(progress, reason=reason), None, rounding, drawn)
            change = _change_by_added(name, grid, np.array(known), left_out)
            crossed = Crossed.of(pseudo, change, left_out, supply.now)
        goal = cls(progress, spread, rounding, drawn, crossed)
        half = goal.expected(grid.lines, supply.now, 1.0)
        met = half <= wanted
        if crossed is not None and not met:
            progress = dataclasses.replace(progress, reason=_why_too_few(crossed, wanted, supply))
        progress = dataclasses.replace(progress, half_width=half if half < math.inf else None, met=met)
        return dataclasses.replace(goal, progress=progress)

    def parts(self, lines: int, probes: ProbeCounts) -> list[float]:
        """Return the half-widths over new directions and over new probes, of those that matter.

        Infinity if there are too few directions, or groups of probes, for any.
        """
        parts = []
        if self.over_directions:
            width = until.relative_half_width(lines)
            change = 1.0 if self.crossed is None else self.crossed.change_of_spread(probes)
            parts.append(math.inf if width is None else width * (self.spread or 0.0) * change)
        if self.crossed is not None:
            parts.append(self.crossed.half_width(lines, probes))
        return parts

    def expected(self, lines: int, probes: ProbeCounts, finer: float) -> float:
        """Return the half-width to expect; that of the present grid is known. Infinity if there are too few of either.

        Args:
            lines: Number of directions.
            probes: The probes.
            finer: Distance between points divided by that of the present grid.
        """
        return max(math.hypot(*self.parts(lines, probes)), self.rounding * finer)

    def is_enough(self, lines: int, probes: ProbeCounts) -> bool:
        """Return whether the goal is expected to be met by this many, as far as the distance of points allows."""
        return self.expected(lines, probes, 0.0) <= max(self.progress.wanted, self.rounding)


def _why_too_few(crossed: Crossed, wanted: float, supply: ProbeBlocks) -> str | None:
    """Return why the probes rule a goal out, with any number of directions. None if they do not."""
    most = supply.counts[-1]
    in_clusters = f" in {most.clusters} clusters" if most.clusters < most.probes else ""
    least = crossed.half_width(math.inf, most)
    if least == math.inf:
        return f"the {most.probes} probes{in_clusters} are too few for any interval, and there are no more"
    if supply.used == len(supply.counts) and least > wanted:
        return f"the {most.probes} probes{in_clusters} alone leave ± {least:.3g}, and there are no more"
    if least > _HOPELESS * wanted:
        return f"all {most.probes} probes{in_clusters} are expected to leave ± {least:.3g}, whatever the directions"
    return None


def _pseudo_values(name: str, grid: Grid, values: np.ndarray, left_out: LeftOut) -> np.ndarray:
    """Return the jackknife's pseudo-values of a number, [line, group of probes]; NaN where it is undefined.

    Their mean over groups, weighted by size, is about the number. With the share w of the probes in each of G groups,
    its variance is about the mean of (pseudo-value - mean)^2 w / (1 - w) (F. Busing, E. Meijer, R. van der Leeden,
    "Delete-m jackknife for unequal m", Statistics and Computing 9, 1999).
    """
    if len(left_out.shares) == 1:
        return values[:, None]
    ratio = 1.0 / left_out.shares
    without = np.array([_of_samples(name, grid, asr) for asr in left_out.asr])
    return np.asarray(ratio * values[:, None] - (ratio - 1.0) * without)


def _change_by_added(name: str, grid: Grid, values: np.ndarray, left_out: LeftOut) -> float:
    """Return the mean change of a number by one more cluster of probes. Where it becomes undefined, none is counted."""
    changes = np.array([_of_samples(name, grid, asr[None])[0] for asr in left_out.added]) - values
    return float(np.nan_to_num(changes).mean())


def _of_samples(name: str, grid: Grid, asr: np.ndarray) -> np.ndarray:
    """Return the number on one line with each of several samples of probes, [sample]; NaN where it is undefined.

    Args:
        name: The number.
        grid: The grid.
        asr: Percent, [sample, node on each axis].
    """
    if name == VISAGE:  # `_values` has checked that the points cover the range
        inside = visage.in_range(np.array(places_of(grid)))
        return visage.paper_from_margins(100.0 - asr.reshape(len(asr), -1)[:, inside])
    return np.array([math.nan if value is None else value for value, _ in _values(name, grid, list(asr))])


def places_of(grid: Grid) -> list[tuple[float, ...]]:
    """Return the coordinates of the nodes of each line or plane, those of the last axis fastest."""
    return list(itertools.product(*grid.coordinates()))


def step(grid: Grid) -> float:
    """Return the distance between neighboring points of a grid; of a plane, along the axis where it is larger."""
    ranges = [grid.range, grid.range_y or grid.range] if grid.is_plane else [grid.range]
    return max(high - low for low, high in ranges) / grid.steps


def _more_directions(grid: Grid, unmet: Sequence[_Goal], supply: ProbeBlocks) -> Grid | None:
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
    enough = (n for n in range(now + 1, most) if all(goal.is_enough(n, supply.now) for goal in unmet))
    return dataclasses.replace(grid, directions=next(enough, most))


def _more_blocks(lines: int, unmet: Sequence[_Goal], supply: ProbeBlocks) -> int | None:
    """Return the number of blocks that the goals seem to need, at most twice as many as now. None: no more.

    A sweep of fewer groups of probes than any interval needs grows to that number first.
    """
    now, most = supply.used, min(2 * supply.used, len(supply.counts))
    while most < len(supply.counts) and until.relative_half_width(supply.counts[most - 1].groups) is None:
        most += 1
    if most <= now:
        return None
    enough = (n for n in range(now + 1, most) if all(goal.is_enough(lines, supply.counts[n - 1]) for goal in unmet))
    return next(enough, most)


def _finer(grid: Grid) -> Grid | None:
    """Return the grid with half the distance between points. None if it is as fine as it gets."""
    finer = dataclasses.replace(grid, steps=2 * grid.steps)
    return finer if finer.size <= MOST_POINTS else None


def finest_step(grid: Grid) -> float:
    """Return the distance between neighboring points of the finest grid to which a grid can grow."""
    while (finer := _finer(grid)) is not None:
        grid = finer
    return step(grid)


def _gain(extent: _Extent, candidate: _Extent, unmet: Sequence[_Goal], supply: ProbeBlocks) -> float:
    """Return by how much a larger grid, or more blocks, are expected to narrow the intervals, for each added response.

    The gain is the sum over the goals of the logarithm of (half-width now / half-width then), where narrower than
    wanted counts as wanted. Responses take about as long as each other, so this is also the gain for each second.
    """
    finer = extent.grid.steps / candidate.grid.steps
    probes = supply.counts[candidate.blocks - 1]
    gain = 0.0
    for goal in unmet:
        then, wanted = goal.expected(candidate.grid.lines, probes, finer), goal.progress.wanted
        now = goal.progress.half_width
        if now is None:
            unknown = goal.parts(extent.grid.lines, supply.now).count(math.inf)
            still_unknown = goal.parts(candidate.grid.lines, probes).count(math.inf)
            gain += math.log(_FROM_NOTHING) if still_unknown < unknown else 0.0
        else:
            gain += math.log(now / max(then, wanted)) if then < now else 0.0
    responses = [each.grid.size * sum(supply.responses[: each.blocks]) for each in (extent, candidate)]
    return gain / (responses[1] - responses[0])
