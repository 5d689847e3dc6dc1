"""How far a number may be off, and why: errors, intervals, p-values. Pure numbers; docs/statistics.md derives each.

An `Error` belongs to one source of chance: new directions, or new probes. The two are crossed (every probe is asked on
every direction), so what both together do is not found by resampling one of them; `interval` adds their half-widths
in squares (Zou and Donner 2008). Nothing here is NaN: what is unknown is None, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, special

from orchestrator.analysis import visage
from orchestrator.utils.records import JsonRecord

CONFIDENCE = 0.95
DRAWS = 2000
MOST_DIRECTIONS = 1000
_SEED = 2405  # resampling is part of the answer: the same verdicts give the same interval
_LESS_ROBUST, _MORE_ROBUST = 1.0, 0.1  # how many unseen probes of either kind stand in for all that were not drawn
_CELLS = 4_000_000  # numbers in memory at once
_BLOCK = 1 << 16  # cells that are weighed at a time


@dataclass(frozen=True)
class Error:
    """A standard error with its degrees of freedom; None where unknown, and then `reason`."""

    se: float | None
    df: float | None = None
    reason: str | None = None

    def half(self, confidence: float = CONFIDENCE) -> float | None:
        """Half of the two-sided interval's width, by Student's t. One-sided at c is two-sided at 2c - 1."""
        if self.se is None or self.df is None:
            return None
        return float(special.stdtrit(self.df, (1 + confidence) / 2)) * self.se


@dataclass(frozen=True, kw_only=True)
class Interval(JsonRecord):
    """The two-sided 95% interval of a value. None where unknown, and then `reason` says why."""

    low: float | None
    high: float | None
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class ErrorInterval(Interval):
    """An interval over one source of chance, with the standard error `se` and degrees of freedom `df` behind it."""

    se: float | None
    df: float | None


def half_width(errors: Sequence[Error], confidence: float = CONFIDENCE) -> float | None:
    """Of an estimate that is off for several independent reasons; None where one of them is unknown."""
    halves = [error.half(confidence) for error in errors]
    known = [half for half in halves if half is not None]
    return math.hypot(*known) if len(known) == len(halves) else None


def interval(
    value: float | None,
    errors: Sequence[Error],
    bounds: tuple[float, float] = (0.0, 100.0),
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the interval of a value that is off for these independent reasons, cut at `bounds`."""
    half = half_width(errors, confidence)
    if value is None or half is None:
        reasons = [error.reason for error in errors if error.reason]
        return Interval(low=None, high=None, reason="; ".join(reasons) or "there is no value")
    return Interval(low=max(value - half, bounds[0]), high=min(value + half, bounds[1]), reason=None)


def error_interval(value: float | None, error: Error, bounds: tuple[float, float] = (0.0, 100.0)) -> ErrorInterval:
    """Return the interval over one source of chance, together with its standard error."""
    only = interval(value, [error], bounds)
    return ErrorInterval(low=only.low, high=only.high, reason=only.reason, se=error.se, df=error.df)


def p_value(difference: float, errors: Sequence[Error]) -> float | None:
    """One minus the largest confidence at which the interval leaves out 0."""
    if half_width(errors) is None:
        return None
    if difference == 0.0:
        return 1.0
    low, high = 0.0, 1.0  # the interval at `low` leaves out 0, that at `high` does not
    for _ in range(60):
        middle = (low + high) / 2
        half = half_width(errors, middle)
        assert half is not None
        low, high = (middle, high) if half < abs(difference) else (low, middle)
    return 1.0 - low


# Proportions.


def proportion(k: np.ndarray, n: np.ndarray, confidence: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray]:
    """Clopper and Pearson's (1934) interval for k of n, as proportions; NaN where n is 0.

    Exact: covers at least `confidence` at every true proportion, 0 and 1 included. `k`, `n`: integers, same shape.
    """
    pairs, inverse = np.unique(np.stack([np.ravel(k), np.ravel(n)]), axis=1, return_inverse=True)
    hits, total = pairs.astype(float)
    tail = (1 - confidence) / 2
    low = np.where(hits == 0, 0.0, special.betaincinv(np.maximum(hits, 1), total - hits + 1, tail))
    misses = total - hits
    high = np.where(misses == 0, 1.0, special.betaincinv(hits + 1, np.maximum(misses, 1), 1 - tail))
    low, high = np.where(total == 0, np.nan, low), np.where(total == 0, np.nan, high)
    inverse = np.ravel(inverse)
    return low[inverse].reshape(np.shape(k)), high[inverse].reshape(np.shape(k))


def matched(
    gained: np.ndarray, lost: np.ndarray, n: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(low, high, p) of the difference of two proportions over the same n > 0 probes.

    `gained`, `lost`: probes with a success only in the second, only in the first. The interval is Agresti and Min's
    (2005): Wald's with half a probe more in each of the table's cells. p: McNemar's exact test, two-sided.
    """
    total = n + 2.0
    difference = (gained - lost) / total
    spread = np.sqrt(gained + lost + 1.0 - total * difference**2) / total
    half = special.ndtri((1 + confidence) / 2) * spread
    fewer, flips = np.minimum(gained, lost), gained + lost
    p = np.minimum(1.0, 2.0 * special.bdtr(fewer, flips, 0.5))
    return np.maximum(difference - half, -1.0), np.minimum(difference + half, 1.0), p


def unmatched(
    first: np.ndarray, n: np.ndarray, second: np.ndarray, m: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(low, high, p) of second/m - first/n over different probes; n, m > 0.

    The interval squares and adds Clopper and Pearson's (Newcombe 1998, method 10, with exact limits). p: Fisher's.
    """
    from scipy.stats import fisher_exact

    one, two = first / n, second / m
    (low1, high1), (low2, high2) = proportion(first, n, confidence), proportion(second, m, confidence)
    low = two - one - np.hypot(two - low2, high1 - one)
    high = two - one + np.hypot(high2 - two, one - low1)
    p = [fisher_exact([[a, b - a], [c, d - c]])[1] for a, b, c, d in zip(first, n, second, m, strict=True)]
    return np.maximum(low, -1.0), np.minimum(high, 1.0), np.array(p, dtype=float)


# Over new directions.


def over_directions(values: Sequence[float], step: float = 0.0) -> Error:
    """The error of a mean over directions that were drawn at random: Student's t on K - 1 degrees of freedom.

    `step`: the finest difference that one value can show (100 / probes, for a percentage). Its rounding error,
    step / sqrt(12), is added: values that agree to the last digit are not known without error.
    """
    k = len(values)
    if k < 2:
        return Error(None, None, "with one direction the spread between directions is unknown" if k else "no direction")
    variance = float(np.var(values, ddof=1)) + step**2 / 12
    return Error(math.sqrt(variance / k), k - 1)


def more_directions(spread: float, directions: int, confidence: float = CONFIDENCE) -> int | None:
    """How many more directions would halve the interval, were the spread between them to stay; None: over a thousand.

    The half-width is t(K - 1) spread / sqrt(K): with 3 directions it halves at 5, with 10 at 33.
    """
    if directions < 2 or spread <= 0.0:
        return None if directions < 2 else 0
    k = np.arange(2, directions + MOST_DIRECTIONS + 1)
    widths = special.stdtrit(k - 1, (1 + confidence) / 2) / np.sqrt(k)
    enough = k[widths <= widths[directions - 2] / 2]
    return int(enough[0]) - directions if len(enough) else None


# Over new probes.


def over_probes(refused: np.ndarray, coordinates: np.ndarray, draws: int = DRAWS) -> Error:
    """The error of VISAGE, a mean over lines, over new sets of as many probes on these directions: resampling probes.

    `refused` [line, point, probe]: 1 refused, 0 not, NaN where it was not asked. `coordinates` [line, point, axis]: of
    the points that count; a point that is NaN throughout pads a shorter line. Whole probes are drawn, with all they
    said at every point, so that their correlation along and across lines stays. A resample can't hold what no probe
    did, and VISAGE jumps where a first refusal brings a point in; so unseen probes stand among those drawn: one that
    refuses nowhere, and a tenth of one that refuses one grid step further out than any did. Their weights are by
    simulation (benchmarks/coverage.py).
    """
    farthest, inside = _hulls(refused, coordinates)
    unseen = [(_LESS_ROBUST, [np.zeros_like(inside)]), (_MORE_ROBUST, [farthest])]
    return _error(_resampled([refused], unseen, draws)[0], refused.shape[-1])


def difference_over_probes(first: np.ndarray, second: np.ndarray, coordinates: np.ndarray, draws: int = DRAWS) -> Error:
    """The error of VISAGE(second) - VISAGE(first) over new sets of as many probes; the same probes asked of both.

    Arrays as `over_probes` takes them, of equal shape: line, point and probe i of one are those of the other.
    """
    assert first.shape == second.shape
    (far1, in1), (far2, in2) = _hulls(first, coordinates), _hulls(second, coordinates)
    nowhere = np.zeros_like(in1)
    unseen = [
        (_LESS_ROBUST / 2, [nowhere, in2]),
        (_LESS_ROBUST / 2, [in1, nowhere]),
        (_MORE_ROBUST / 2, [far1, in2]),
        (_MORE_ROBUST / 2, [in1, far2]),
    ]
    drawn = _resampled([first, second], unseen, draws)
    return _error(drawn[1] - drawn[0], first.shape[-1])


def visage_of(refused: np.ndarray) -> np.ndarray:
    """The paper's VISAGE of each line, [line], from who refused what; NaN where no probe refused at any point."""
    known = (~np.isnan(refused)).sum(axis=-1)
    return visage.papers(100.0 * np.nansum(refused, axis=-1, dtype=np.float64) / np.maximum(known, 1))


def _error(values: np.ndarray, probes: int) -> Error:
    if probes < 2:
        return Error(None, None, "with one probe the spread between probes is unknown")
    defined = values[~np.isnan(values)]
    if len(defined) < 0.95 * len(values):
        return Error(None, None, "VISAGE hangs on a few probes: it is undefined in more than 5% of the resamples")
    return Error(float(defined.std(ddof=1)) * math.sqrt(probes / (probes - 1)), probes - 1)


def _hulls(refused: np.ndarray, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(one grid step around, just) the points of each line at which some probe refused; bool [line, point]."""
    inside = (refused == 1).any(axis=-1)
    around = inside.copy()
    for k, where in enumerate(coordinates):
        real = ~np.isnan(where).any(axis=-1)
        ranks = tuple(np.unique(axis, return_inverse=True)[1] for axis in where[real].T)
        grid = np.zeros([int(rank.max()) + 1 for rank in ranks], dtype=bool)
        grid[ranks] = inside[k, real]
        around[k, real] = ndimage.binary_dilation(grid, np.ones((3,) * grid.ndim))[ranks]
    return around, inside


def _resampled(
    sweeps: Sequence[np.ndarray], unseen: Sequence[tuple[float, Sequence[np.ndarray]]], draws: int
) -> list[np.ndarray]:
    """VISAGE of each sweep in each draw, [draw]: all sweeps from the same draws of probes, unseen ones among them."""
    probes = sweeps[0].shape[-1]
    masses = np.array([1.0] * probes + [mass for mass, _ in unseen])
    tables = []
    for i, refused in enumerate(sweeps):
        lines, points, _ = refused.shape
        known = ~np.isnan(refused)
        asked = known.any(axis=-1, keepdims=True)
        strangers = np.stack([patterns[i] for _, patterns in unseen], axis=-1) & asked
        said = np.concatenate([refused == 1, strangers], axis=-1).reshape(lines * points, -1)
        heard = np.concatenate([known, np.broadcast_to(asked, strangers.shape)], axis=-1).reshape(said.shape)
        heard = heard[:1] if heard.all() else heard  # one row says it, but for interrupted sweeps
        tables.append((said, heard, (lines, points)))
    rng = np.random.default_rng(_SEED)
    found: list[list[np.ndarray]] = [[] for _ in sweeps]
    step = max(1, _CELLS // max(len(t[0]) for t in tables))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        # How often each probe is drawn: whole numbers, of which sums are exact in single precision too.
        weights = rng.multinomial(probes, masses / masses.sum(), size=size).astype(np.float32)
        for values, (said, asked, shape) in zip(found, tables, strict=True):
            refusals, answers = _weighed(weights, said), _weighed(weights, asked)
            margins = 100.0 * refusals / np.maximum(answers, 1.0)
            values.append(_mean_over_lines(visage.papers(margins.reshape(size, *shape))))
    return [np.concatenate(values) for values in found]


def _weighed(weights: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """[draw, cell]: the weights of the probes that are true there, a block of cells at a time."""
    found = np.empty((len(weights), len(flags)))
    for start in range(0, len(flags), _BLOCK):
        part = slice(start, start + _BLOCK)
        found[:, part] = weights @ flags[part].T.astype(np.float32)
    return found


def _mean_over_lines(scores: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is defined; NaN where nothing is."""
    known = ~np.isnan(scores)
    total = known.sum(axis=-1)
    return np.where(total > 0, np.nansum(scores, axis=-1) / np.maximum(total, 1), np.nan)
