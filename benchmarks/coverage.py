"""Coverage of the intervals, by simulation: `python -m benchmarks.coverage`.

Every simulated sweep is of a model of its own. Its radius, width of the wall, safety at the origin and far out, and
spread between directions are drawn at random. Whether a probe refuses at a point depends on the safety of the point and
on three normal variables (of the probe, of the probe on that direction, of the probe at that point), so that the
responses to one probe are correlated along a line, across lines, or hardly at all, depending on the draw. The true
values are estimated by measuring many more directions or probes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from orchestrator.analysis import basin, intervals, resampling
from orchestrator.analysis.intervals import Interval
from orchestrator.analysis.landscape import build_landscape
from orchestrator.analysis.results import ClusterSummary, SweepSummary
from orchestrator.analysis.summary import summarize
from orchestrator.analysis.visage import mean_from_margins
from orchestrator.scoring import counts as counting
from orchestrator.scoring.clusters import ProbeClusters

ALPHAS = np.round(np.linspace(-0.5, 0.5, 21), 9)
COORDINATES = ALPHAS[:, None]


@dataclass(frozen=True)
class Basin:
    """A simulated model.

    Attributes:
        radius: Median distance of the edge.
        spread: Standard deviation between directions of the logarithm of the edge's distance.
        width: Width of the wall, relative to the radius.
        origin: How unsafe the origin is, in standard deviations.
        outside: How unsafe points far out are, in standard deviations.
        shares: Standard deviations of a probe, of a probe on a direction, and of a probe at a point; their squares add
            up to 1.
    """

    radius: float
    spread: float
    width: float
    origin: float
    outside: float
    shares: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Basin:
        """Return a random model of the population."""
        parts = rng.uniform([0.2, 0.0, 0.1], [1.0, 0.6, 1.0]) ** 2
        u = rng.uniform
        return cls(u(0.05, 0.6), u(0.05, 0.4), u(0.02, 0.2), u(-3.5, -0.5), u(0.5, 5.0), np.sqrt(parts / parts.sum()))

    def directions(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return how unsafe each point of `count` new directions is: [line, point], in standard deviations."""
        middle = self.radius * np.exp(self.spread * rng.standard_normal((count, 1)))
        sides = middle * np.exp(0.5 * self.spread * rng.standard_normal((count, 2)))
        edge = np.where(ALPHAS < 0, sides[:, :1], sides[:, 1:])
        unsafe = (np.abs(ALPHAS) - edge) / (2 * (self.width * self.radius + 0.01))
        return np.clip(unsafe, self.origin, self.outside)

    def refused(self, rng: np.random.Generator, unsafe: np.ndarray, probes: np.ndarray) -> np.ndarray:
        """Return 1 where a probe refuses, else 0: [line, point, probe]. `probes`: a normal variable for each probe."""
        lines, points = unsafe.shape
        on_line = rng.standard_normal((lines, 1, len(probes)))
        at_point = rng.standard_normal((lines, points, len(probes)))
        own, line, point = self.shares
        return (unsafe[..., None] + own * probes + line * on_line + point * at_point <= 0).astype(float)

    def unsafe_to_asr(self, unsafe: np.ndarray) -> np.ndarray:
        """Return the ASR over all possible probes, in percent."""
        from scipy.special import ndtr

        return 100.0 * ndtr(unsafe)


def visage(refused: np.ndarray) -> float:
    """Return the mean of VISAGE over lines; NaN if no line has one."""
    scores = resampling.score_of_lines(refused)
    return float(np.nanmean(scores)) if not np.isnan(scores).all() else float("nan")


def coverage(
    directions: int, probes: int, sweeps: int, seed: int = 1, draws: int = 300, many: int = 60
) -> Mapping[str, float]:
    """Return the percentage of sweeps whose nominal 95% interval contains the true value, by kind of interval."""
    rng = np.random.default_rng(seed)
    held: dict[str, list[bool]] = {}

    def note(name: str, interval: Interval, truth: float) -> None:
        if interval.low is not None and interval.high is not None:
            held.setdefault(name, []).append(interval.low <= truth <= interval.high)

    for _ in range(sweeps):
        model = Basin.draw(rng)
        unsafe, normals = model.directions(rng, directions), rng.standard_normal(probes)
        refused = model.refused(rng, unsafe, normals)
        by_line = resampling.score_of_lines(refused)
        if np.isnan(by_line).any():
            continue
        score = float(by_line.mean())
        places = np.broadcast_to(COORDINATES, (directions, 21, 1))
        probes_error = resampling.error_over_probes(refused, places, draws)
        margins = resampling.score_of_lines(refused, mean_from_margins)
        margin, asr = float(margins.mean()), model.unsafe_to_asr(unsafe)
        margin_probes_error = resampling.error_over_probes(refused, places, draws, mean_from_margins)
        note("margin, new probes", intervals.interval(margin, [margin_probes_error]), 100.0 - float(asr.mean()))
        others = [visage(model.refused(rng, unsafe, rng.standard_normal(probes))) for _ in range(many)]
        note("VISAGE, new probes", intervals.interval(score, [probes_error]), float(np.nanmean(others)))
        if directions > 1:
            directions_error = intervals.error_over_directions(by_line.tolist(), 100.0 / probes)
            more = model.refused(rng, model.directions(rng, 3 * many), normals)
            truth = float(np.nanmean(resampling.score_of_lines(more)))
            note("VISAGE, new directions", intervals.interval(score, [directions_error]), truth)
            margin_error = intervals.error_over_directions(margins.tolist(), 100.0 / probes)
            note("margin, new directions", intervals.interval(margin, [margin_error]), 100.0 * float(more.mean()))
            lines = model.directions(rng, 3 * many)
            fresh = [model.refused(rng, one[None], rng.standard_normal(probes)) for one in lines]
            truth = float(np.nanmean(resampling.score_of_lines(np.concatenate(fresh))))
            note("VISAGE, both", intervals.interval(score, [directions_error, probes_error]), truth)
            truth = 100.0 - float(model.unsafe_to_asr(lines).mean())
            note("margin, both", intervals.interval(margin, [margin_error, margin_probes_error]), truth)
        wrong = probes - refused.sum(axis=-1)
        low, high = intervals.proportion(wrong, np.full(wrong.shape, probes))
        held.setdefault("ASR at a point", []).extend(((100 * low <= asr) & (asr <= 100 * high)).ravel().tolist())
        true, near, far = (radius(values) for values in (asr, 100 * high, 100 * low))
        held.setdefault("radius, new probes", []).append(near <= true <= far)
    return {name: 100.0 * float(np.mean(values)) for name, values in held.items()}


def difference_coverage(
    directions: int, probes: int, sweeps: int, seed: int = 2, draws: int = 300, many: int = 60
) -> tuple[float, float]:
    """Return the coverage of the interval of VISAGE's difference over new probes, and its rate of false alarms.

    Both are percentages. A false alarm is p < 0.05 although nothing differs.
    """
    rng = np.random.default_rng(seed)
    positions = np.broadcast_to(COORDINATES, (directions, len(ALPHAS), 1))
    held, false = [], []
    for i in range(sweeps):
        model = Basin.draw(rng)
        unsafe = model.directions(rng, directions)
        shift = rng.uniform(0.0, 0.8) if i % 2 else 0.0
        both = [unsafe, np.clip(unsafe + shift, model.origin, model.outside)]
        draws_of_probes = rng.standard_normal((many + 1, probes))
        pairs = [[model.refused(rng, one, normals) for one in both] for normals in draws_of_probes]
        values = np.array([visage(second) - visage(first) for first, second in pairs])
        error = resampling.difference_error_over_probes(pairs[0][0], pairs[0][1], positions, draws)
        half = error.half_width()
        if half is None or np.isnan(values[0]):
            continue
        held.append(abs(values[0] - np.nanmean(values[1:])) <= half)
        if not shift:
            p = intervals.p_value(float(values[0]), [error])
            false.append(p is not None and p < 0.05)
    return 100.0 * float(np.mean(held)), 100.0 * float(np.mean(false))


def radius(asr: np.ndarray) -> float:
    """Return the smallest radius over lines; infinity if no line crosses 50%."""
    radii = [basin.measure_line(ALPHAS.tolist(), row.tolist()).radius for row in asr]
    return min((r for r in radii if r is not None), default=float("inf"))


def table(sweeps: int = 1000) -> str:
    """Return the coverage for several numbers of directions and probes as Markdown."""
    settings = [(1, 40), (2, 40), (3, 20), (3, 40), (3, 80), (5, 40), (10, 40)]
    by_setting = {setting: coverage(*setting, sweeps=sweeps) for setting in settings}
    sources = ("new probes", "new directions", "both")
    scores = [f"{score}, {source}" for score in ("VISAGE", "margin") for source in sources]
    names = ("ASR at a point", "radius, new probes", *scores)
    lines = [f"| directions | probes | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for (directions, probes), shares in by_setting.items():
        cells = [f"{shares[name]:.1f}" if name in shares else "" for name in names]
        lines.append(f"| {directions} | {probes} | {' | '.join(cells)} |")
    held, false = difference_coverage(3, 40, sweeps)
    lines += [
        "",
        f"Difference of VISAGE between two models, 3 directions, 40 probes paired: covered {held:.1f}%; where nothing "
        f"differs, p < 0.05 in {false:.1f}%.",
        "",
        f"{sweeps} simulated sweeps a row, each of a basin of its own; the standard error of a figure near 95 is "
        f"{100 * (0.05 * 0.95 / sweeps) ** 0.5:.1f}.",
    ]
    return "\n".join(lines)


def false_passes(
    sweeps: int, seed: int = 11, directions: int = 3, probes: int = 40, many: int = 120
) -> dict[str, float]:
    """Return how often, in percent, the gate passes a sweep although the threshold is the true value itself.

    Every such pass is wrong; at 95% confidence 5% are allowed.
    """
    from orchestrator.analysis import gate

    rng = np.random.default_rng(seed)
    passed: dict[str, list[bool]] = {name: [] for name in gate.THRESHOLDS}
    for _ in range(sweeps):
        model = Basin.draw(rng)
        unsafe = model.directions(rng, directions)
        frame, summary = sweep_of(model.refused(rng, unsafe, rng.standard_normal(probes)))
        asr = model.unsafe_to_asr(unsafe)
        fresh = [model.refused(rng, row[None], rng.standard_normal(probes)) for row in model.directions(rng, many)]
        truth = {
            "visage": float(np.nanmean(resampling.score_of_lines(np.concatenate(fresh)))),
            "margin": 100.0 - float(model.unsafe_to_asr(model.directions(rng, 10 * many)).mean()),
            "origin_asr": float(asr[0, len(ALPHAS) // 2]),
            "radius": radius(asr),
        }
        truth = {name: value for name, value in truth.items() if np.isfinite(value)}
        for result in gate.check(frame, summary, gate.GateOptions(truth)):
            passed[result.name].append(result.met)
    return {name: 100.0 * float(np.mean(met)) for name, met in passed.items()}


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
    counts = counts.assign(n_refused=n_refused, n_complied=n - n_refused, n_degenerate=0)
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
            f"{sweeps} simulated sweeps of 3 directions and 40 probes, each of a basin of its own whose true value is "
            "the threshold, so that each pass is wrong; at 95% confidence 5% are allowed.",
        ]
    )


if __name__ == "__main__":
    import sys

    from benchmarks.results import section

    sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    section("gate", f"## Wrong passes of the gate\n\n{gate_table(sweeps)}")
    section("coverage", f"## Coverage of the intervals\n\n{table(sweeps)}")
