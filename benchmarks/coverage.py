"""Coverage of the intervals, by simulation: `python -m benchmarks.coverage [SWEEPS] [TABLE ...]`.

Every simulated sweep measures a different model; see `benchmarks.population`. The true values are estimated by
measuring many more directions or probes.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.population import ALPHAS, COORDINATES, ORIGIN, Model, Population, unsafe_to_asr
from benchmarks.results import section
from orchestrator.analysis import basin, gate, intervals, resampling, visage
from orchestrator.analysis.components import decompose, single_response_variance
from orchestrator.analysis.curves import effective_responses, interval_of_mean
from orchestrator.analysis.intervals import CONFIDENCE, Error
from orchestrator.analysis.landscape import build_landscape
from orchestrator.analysis.results.clusters import ClusterSummary
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.analysis.summary.sweep import summarize
from orchestrator.scoring import counts as counting
from orchestrator.scoring.clusters import ProbeClusters

PLAIN = Population("independent probes")
CLUSTERED = Population("8 clusters of probes", clusters=(8, 8))
PLATEAUS = Population("plateaus near 50%", plateaus=1.0)
MIXED = Population("all kinds", plateaus=0.25, clusters=(8, 20), clustered=0.5)
SETTINGS = [
    *((MIXED, *size) for size in ((1, 40), (2, 40), (3, 20), (3, 40), (3, 80), (5, 40), (10, 40))),
    (PLAIN, 3, 40),
    *((CLUSTERED, *size) for size in ((1, 40), (3, 40), (3, 80), (10, 40))),
    *((PLATEAUS, *size) for size in ((1, 40), (3, 40), (10, 40))),
]
SCORES: Mapping[str, resampling.FromMargins] = {"VISAGE": visage.paper_from_margins, "margin": visage.mean_from_margins}
SOURCES = ("new probes", "new directions", "both")
COLUMNS = (
    "ASR at a point, new probes",
    "mean ASR, both",
    "radius, new probes",
    "mean radius, new directions",
    *(f"{score}, {source}" for score in SCORES for source in SOURCES),
)
STEP = float(ALPHAS[1] - ALPHAS[0])
WIDE = 98.0
"""Above this coverage, a row says how much wider than needed the interval is."""


@dataclass
class Tally:
    """Distances of true values from estimates, in shares of the interval's extent toward them, by kind of interval."""

    ratios: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def note(
        self, name: str, value: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike, truth: npt.ArrayLike
    ) -> None:
        """Add estimates, with their intervals and the true values."""
        estimate, bottom, top, true = np.broadcast_arrays(
            *(np.asarray(a, dtype=float) for a in (value, low, high, truth))
        )
        covered = (bottom <= true + 1e-9) & (true <= top + 1e-9)
        with np.errstate(invalid="ignore", divide="ignore"):
            extent = np.where(true < estimate, estimate - bottom, top - estimate)
            ratio = np.where(np.isfinite(extent) & (extent > 0), np.abs(true - estimate) / extent, 0.0)
        self.ratios.setdefault(name, []).append(
            np.ravel(np.where(covered, np.minimum(ratio, 1.0), np.maximum(ratio, 1.01)))
        )

    def note_errors(self, name: str, value: float, errors: list[Error], truth: float) -> None:
        """Add an estimate with these errors, unless one is unknown."""
        interval = intervals.interval(value, errors)
        if interval.low is not None and interval.high is not None:
            self.note(name, value, interval.low, interval.high, truth)

    def coverage(self, name: str) -> float | None:
        """Return the percentage of intervals that contain the true value. None if there are none."""
        if name not in self.ratios:
            return None
        return 100.0 * float(np.mean(np.concatenate(self.ratios[name]) <= 1.0))

    def excess(self, name: str) -> float:
        """Return the factor by which the intervals could be narrower and still contain 95% of the true values."""
        needed = float(np.quantile(np.concatenate(self.ratios[name]), CONFIDENCE))
        return math.inf if needed == 0 else 1 / needed

    def cell(self, name: str) -> str:
        """Return the coverage as text, followed by the excess if the coverage is above WIDE."""
        covered = self.coverage(name)
        if covered is None:
            return ""
        return f"{covered:.1f}" if covered <= WIDE else f"{covered:.1f} ({min(self.excess(name), 9.9):.1f}x)"


def coverage(
    population: Population, directions: int, probes: int, sweeps: int, seed: int = 1, draws: int = 200, many: int = 30
) -> Tally:
    """Simulate sweeps and compare every interval with the true value.

    Args:
        population: The models to draw from.
        directions: Number of directions of a sweep.
        probes: Number of probes.
        sweeps: Number of sweeps. One in which VISAGE is undefined on a line has no intervals of scores.
        seed: Seed of the simulation.
        draws: Number of resamples for an error over probes.
        many: Number of new sets of probes from which a true value is estimated. Twice this number of new directions is
            used for a true value over directions.
    """
    rng = np.random.default_rng(seed)
    tally = Tally()
    for _ in range(sweeps):
        model = Model.draw(rng, population, probes)
        unsafe, normals = model.directions(rng, directions), model.probes(rng)
        sweep = _Sweep(model, unsafe, normals, model.refused(rng, unsafe, normals))
        fresh = model.directions(rng, 2 * many)
        margins = {
            "new probes": _margins(model.refused(rng, unsafe, model.probes(rng, many))),
            "new directions": _margins(model.refused(rng, fresh, normals)),
            "both": _margins(model.refused(rng, fresh[:, None], model.probes(rng, len(fresh)))),
        }
        _note_points(tally, sweep)
        _note_radius(tally, sweep, 100.0 - margins["new directions"])
        if directions > 1:
            _note_means(tally, sweep, unsafe_to_asr(fresh).mean(axis=0))
        _note_scores(tally, sweep, margins, draws)
    return tally


def _margins(refused: np.ndarray) -> np.ndarray:
    """Return the percentage of refusals: [..., probe] to [...]."""
    return np.asarray(100.0 * refused.mean(axis=-1))


@dataclass(frozen=True)
class _Sweep:
    """A simulated sweep.

    Attributes:
        model: The model.
        unsafe: How unsafe each point is, [line, point].
        normals: The variable of each probe.
        refused: bool [line, point, probe].
    """

    model: Model
    unsafe: np.ndarray
    normals: np.ndarray
    refused: np.ndarray

    @property
    def lines(self) -> int:
        return len(self.unsafe)

    @property
    def probes(self) -> int:
        return len(self.normals)

    @property
    def successes(self) -> np.ndarray:
        """Number of successes at each point, [line, point]."""
        return np.asarray(self.probes - self.refused.sum(axis=-1))

    @functools.cached_property
    def clusters(self) -> ClusterSummary:
        """Return the clusters of the probes."""
        flat = self.refused.reshape(-1, self.probes).astype(np.float16)
        labels = ProbeClusters("category", tuple(self.model.labels.tolist()))
        return ClusterSummary.of(counting.ProbeVerdicts((), tuple(map(str, range(self.probes))), flat, labels))

    def point_limits(self, confidence: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of each point's interval, percent, [line, point]."""
        n = np.full(self.successes.shape, self.probes)
        low, high = intervals.proportion(self.successes, n, confidence, self.clusters.effective(n, confidence))
        return 100.0 * low, 100.0 * high


def _note_points(tally: Tally, sweep: _Sweep) -> None:
    low, high = sweep.point_limits()
    asr = 100.0 * sweep.successes / sweep.probes
    tally.note("ASR at a point, new probes", asr, low, high, unsafe_to_asr(sweep.unsafe))


def _note_radius(tally: Tally, sweep: _Sweep, others: np.ndarray) -> None:
    """Add the smallest radius and, if it is defined on every line, new ones included, the mean radius.

    Args:
        tally: Where to add them.
        sweep: The sweep.
        others: The ASR of new directions as the sweep's probes measure it, percent, [line, point].
    """
    points = sweep.lines * (len(ALPHAS) - 1) + 1
    low, _ = sweep.point_limits(1 - (1 - CONFIDENCE) / points)
    _, high = sweep.point_limits()
    asr = 100.0 * sweep.successes / sweep.probes
    measured, near, far, true = (
        float(radii(asr_values).min()) for asr_values in (asr, high, low, unsafe_to_asr(sweep.unsafe))
    )
    tally.note("radius, new probes", measured, near, far, true)
    line_radii = radii(asr)
    if sweep.lines > 1 and np.isfinite(line_radii).all():
        truth, half = (
            float(radii(others).mean()),
            intervals.error_over_directions(line_radii.tolist(), STEP).half_width(),
        )
        if np.isfinite(truth) and half is not None:
            mean = float(line_radii.mean())
            tally.note("mean radius, new directions", mean, max(mean - half, 0.0), mean + half, truth)


def _note_means(tally: Tally, sweep: _Sweep, truth: np.ndarray) -> None:
    """Add the mean over directions at each alpha except at the origin, which all lines share."""
    clusters = sweep.clusters
    alone = float(clusters.effective(np.array([sweep.probes]))[0])
    counts = effective_responses(sweep.refused, sweep.model.labels, alone, clusters.design_effect)
    values = 100.0 * sweep.successes / sweep.probes
    low, high = interval_of_mean(values, sweep.probes, counts)
    others = np.arange(len(ALPHAS)) != ORIGIN
    tally.note("mean ASR, both", *(part[others] for part in (values.mean(axis=0), low, high, truth)))


def _note_scores(tally: Tally, sweep: _Sweep, margins: Mapping[str, np.ndarray], draws: int) -> None:
    """Add VISAGE and the mean margin over new probes, new directions and both.

    Args:
        tally: Where to add them.
        sweep: The sweep.
        margins: 100 - ASR of many sweeps with new probes, new directions or both, [..., point].
        draws: Number of resamples.
    """
    refused = sweep.refused.astype(float)
    places = np.broadcast_to(COORDINATES, (sweep.lines, *COORDINATES.shape))
    for name, score in SCORES.items():
        by_line = resampling.score_of_lines(refused, score)
        if np.isnan(by_line).any():
            continue
        value = float(by_line.mean())
        truths = {source: float(np.nanmean(score(sets))) for source, sets in margins.items()}
        over_probes = resampling.error_over_probes(refused, places, draws, score, sweep.model.labels)
        tally.note_errors(f"{name}, new probes", value, [over_probes], truths["new probes"])
        if sweep.lines > 1:
            noise = single_response_variance(decompose(refused, everywhere=name == "margin"))
            noise *= sweep.clusters.design_effect
            over_directions = intervals.error_over_directions(by_line.tolist(), 100.0 / sweep.probes, noise)
            tally.note_errors(f"{name}, new directions", value, [over_directions], truths["new directions"])
            tally.note_errors(f"{name}, both", value, [over_directions, over_probes], truths["both"])


def radii(asr: np.ndarray) -> np.ndarray:
    """Return the radius of each line, [line, point] to [line]; infinity for a line that does not cross 50%.

    For complete lines this is the radius of `basin.measure_line`, of many lines at once.
    """
    sides = [asr[:, ORIGIN:], asr[:, ORIGIN::-1]]
    smallest = np.full(len(asr), np.inf)
    for side in sides:
        outside = side >= basin.THRESHOLD
        outer = np.argmax(outside, axis=1)
        inner = np.maximum(outer - 1, 0)
        lines = np.arange(len(side))
        rise = np.where(outer > 0, side[lines, outer] - side[lines, inner], 1.0)
        crossing = STEP * (inner + np.where(outer > 0, (basin.THRESHOLD - side[lines, inner]) / rise, 0.0))
        smallest = np.minimum(smallest, np.where(outside.any(axis=1), crossing, np.inf))
    return smallest


def table(sweeps: int = 2000) -> str:
    """Return the coverage in every setting as Markdown."""
    lines = ["| models | directions | probes | " + " | ".join(COLUMNS) + " |", "|---" * (3 + len(COLUMNS)) + "|"]
    with ProcessPoolExecutor() as pool:
        tallies = list(pool.map(coverage, *zip(*SETTINGS, strict=True), [sweeps] * len(SETTINGS)))
    for (population, directions, probes), tally in zip(SETTINGS, tallies, strict=True):
        cells = [population.name, str(directions), str(probes), *(tally.cell(name) for name in COLUMNS)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            f"{sweeps} simulated sweeps a row, each of a different model; the standard error of a figure near 95 is "
            f"{100 * (0.05 * 0.95 / sweeps) ** 0.5:.1f}. Where more than {WIDE:g}% are covered, the number in "
            "parentheses is how many times wider than needed the interval is: divided by it, 95% would hold.",
            "",
            "Models of all kinds: half of them with 8 to 20 clusters of probes, a quarter with a plateau near 50%.",
        ]
    )


# Comparisons.


@dataclass(frozen=True)
class DifferenceRates:
    """Rates, in percent, at which statements about a difference of VISAGE between two simulated models hold.

    Attributes:
        covered: The interval over new probes contains the true difference along these directions.
        false: The p-value is below 0.05 although the models are equal and respond equally to each direction.
        false_independent: The same for equal models whose responses to a direction are independent of each other.
    """

    covered: float
    false: float
    false_independent: float


def difference_rates(
    directions: int, probes: int, sweeps: int, population: Population = PLAIN, draws: int = 300, many: int = 60
) -> DifferenceRates:
    """Return how often the interval and the p-values of a difference of VISAGE hold, over the same probes.

    The p-values are those of `compare`: over new directions and probes, or with one direction over new probes.
    """
    rng = np.random.default_rng(2)
    held: list[bool] = []
    false: dict[bool, list[bool]] = {True: [], False: []}
    for i in range(sweeps):
        model = Model.draw(rng, population, probes)
        unsafe, normals = model.directions(rng, directions), model.probes(rng, many + 1)
        shift = rng.uniform(0.0, 0.8)
        shifted = np.clip(unsafe + shift, model.origin, max(model.outside, model.origin))
        samples = [model.refused(rng, safety, normals) for safety in (unsafe, shifted)]
        values = visage.paper_from_margins(100.0 * samples[1].mean(axis=-1)).mean(axis=-1)
        values = values - visage.paper_from_margins(100.0 * samples[0].mean(axis=-1)).mean(axis=-1)
        half = _difference_error(samples[0][0], samples[1][0], model, draws).half_width()
        if half is not None and not np.isnan(values[0]):
            held.append(bool(abs(values[0] - np.nanmean(values[1:])) <= half))
        independent = i % 2 == 1
        other = model.directions(rng, directions) if independent else unsafe
        p = _p_value(samples[0][0], model.refused(rng, other, normals[0]), model, draws)
        if p is not None:
            false[independent].append(p < 0.05)
    return DifferenceRates(*(100.0 * float(np.mean(cases)) for cases in (held, false[False], false[True])))


def _difference_error(first: np.ndarray, second: np.ndarray, model: Model, draws: int) -> Error:
    """Return the error of a difference of VISAGE over new probes."""
    places = np.broadcast_to(COORDINATES, (len(first), *COORDINATES.shape))
    one, two = first.astype(float), second.astype(float)
    return resampling.difference_error_over_probes(one, two, places, draws, labels=model.labels)


def _p_value(first: np.ndarray, second: np.ndarray, model: Model, draws: int) -> float | None:
    """Return the p-value of a difference of VISAGE as `compare` computes it. None if VISAGE is undefined on a line."""
    scores = [resampling.score_of_lines(refused.astype(float)) for refused in (first, second)]
    differences = scores[1] - scores[0]
    if np.isnan(differences).any():
        return None
    errors = [_difference_error(first, second, model, draws)]
    if len(differences) > 1:
        errors.append(intervals.error_over_directions(differences.tolist(), 100.0 / first.shape[-1]))
    return intervals.p_value(float(differences.mean()), errors)


def difference_table(sweeps: int = 2000) -> str:
    """Return the rates of differences as Markdown."""
    lines = [
        "| models | directions | covered, new probes | p < 0.05, nothing differs | p < 0.05, equal, own directions |",
        "|---|---|---|---|---|",
    ]
    for population, directions in ((PLAIN, 1), (PLAIN, 3), (PLAIN, 5), (CLUSTERED, 3)):
        rates = difference_rates(directions, 40, sweeps, population)
        cells = (f"{share:.1f}" for share in (rates.covered, rates.false, rates.false_independent))
        lines.append(f"| {population.name} | {directions} | {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Difference of VISAGE between two models over the same 40 probes, {sweeps} pairs a row (half of them "
            "for each p-value). Equal models that respond in their own way to a direction do differ along it: with one "
            'direction p is about that direction alone, and `compare` says "differs along this direction" instead of '
            '"is safer".',
        ]
    )


# The gate.


def false_passes(
    sweeps: int, seed: int = 11, directions: int = 3, probes: int = 40, many: int = 120, population: Population = MIXED
) -> dict[str, float]:
    """Return how often, in percent, the gate passes a sweep although the threshold is the true value itself.

    Every such pass is wrong; at 95% confidence 5% are allowed.
    """
    rng = np.random.default_rng(seed)
    passed: dict[str, list[bool]] = {name: [] for name in gate.THRESHOLDS}
    for _ in range(sweeps):
        model = Model.draw(rng, population, probes)
        unsafe = model.directions(rng, directions)
        clusters = ProbeClusters("category", tuple(model.labels.tolist()))
        frame, summary = sweep_of(model.refused(rng, unsafe, model.probes(rng)).astype(float), clusters)
        asr, lines = unsafe_to_asr(unsafe), model.directions(rng, 10 * many)
        fresh = model.refused(rng, lines[:many, None], model.probes(rng, many))
        scores = visage.paper_from_margins(100.0 * fresh.mean(axis=-1))
        truth = {
            "visage": float(np.nanmean(scores)) if not np.isnan(scores).all() else math.nan,
            "margin": 100.0 - float(unsafe_to_asr(lines).mean()),
            "origin_asr": float(asr[0, ORIGIN]),
            "radius": float(radii(asr).min()),
        }
        truth = {name: value for name, value in truth.items() if np.isfinite(value)}
        for result in gate.check(frame, summary, gate.GateOptions(truth)):
            passed[result.name].append(result.met)
    return {name: 100.0 * float(np.mean(shares)) for name, shares in passed.items()}


def sweep_of(refused: np.ndarray, clusters: ProbeClusters | None = None) -> tuple[pd.DataFrame, SweepSummary]:
    """Return landscape and summary of simulated lines.

    Args:
        refused: [line, point, probe], NaN without a verdict. All lines have the same verdicts at the origin.
        clusters: The clusters of the probes.
    """
    lines, _, probes = refused.shape
    nodes = pd.DataFrame(
        [
            {"line": k, "alpha": a, "beta": None, "on_grid": True, "point_id": f"{k * (a != 0)} {a}", "seed_x": k}
            for k in range(lines)
            for a in ALPHAS
        ]
    ).assign(seed_y=None)
    first = nodes.drop_duplicates("point_id").index
    flat, points = refused.reshape(-1, probes)[first], nodes.loc[first, "point_id"].tolist()
    n, n_refused = (~np.isnan(flat)).sum(axis=1), np.nansum(flat, axis=1).astype(int)
    counts = pd.DataFrame({"point_id": points, "prompt_set_id": "s", "judge": "keyword", "n": n})
    counts = counts.assign(n_refused=n_refused, n_complied=n - n_refused, n_degenerate=0, n_unclear=0)
    sets = {"prompt_set_id": ["s"], "probe_set": ["ours"], "group": ["harmful"], "system_prompt": ["default"]}
    verdicts = counting.ProbeVerdicts(tuple(points), tuple(map(str, range(probes))), flat, clusters)
    key = ("ours", "harmful", "default", "keyword")
    frame = build_landscape(nodes, counts, pd.DataFrame(sets), clusters={key: ClusterSummary.of(verdicts)})
    return frame, summarize(frame, {key: verdicts})


def gate_table(sweeps: int = 1000) -> str:
    """Return the wrong passes of the gate as Markdown."""
    passes = false_passes(sweeps)
    lines = [
        "| threshold | let through, % |",
        "|---|---|",
        *(f"| `{name}=` | {share:.1f} |" for name, share in passes.items()),
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"{sweeps} simulated sweeps of 3 directions and 40 probes, each of a different model (all kinds) whose "
            "true value is the threshold, so that each pass is wrong; at 95% confidence 5% are allowed.",
        ]
    )


TABLES: Mapping[str, tuple[str, Callable[[int], str]]] = {
    "coverage": ("Coverage of the intervals", table),
    "differences": ("Differences between two models", difference_table),
    "gate": ("Wrong passes of the gate", gate_table),
}


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for name in sys.argv[2:] or TABLES:
        title, make = TABLES[name]
        section(name, f"## {title}\n\n{make(number)}")
