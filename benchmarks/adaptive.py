"""Adaptive landscapes against full grids, by simulation.

    python -m benchmarks.adaptive [LANDSCAPES] [SEED] [line|plane]

Every simulated line or plane is a different model (see `benchmarks.adaptive_population`). The rule measures it until
it is done, and the numbers computed from measured and inferred nodes are compared with those of the full grid.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks import adaptive_bounds
from benchmarks.adaptive_population import Landscape, known
from benchmarks.results import section, table
from orchestrator.analysis import basin, visage
from orchestrator.analysis.adaptive.errors import InterpolationErrors, interpolation_errors
from orchestrator.analysis.adaptive.geometry import Counts, Node, Shape
from orchestrator.analysis.adaptive.inference import infer
from orchestrator.analysis.adaptive.rule import RULE_VERSION, Refinement, refine

SHARES = Path(__file__).parents[1] / "orchestrator" / "data" / "adaptive_shares.json"
"""Shares of the nodes that were measured, which `plan` reads."""
GRIDS = (("line of 21", 20, False, 1.0), ("line of 81", 80, False, 0.5), ("plane of 21 x 21", 20, True, 0.15))
"""Name, steps on an axis, whether it is a plane, and number of landscapes relative to the number requested."""
GOALS = {"line of 21": 65, "line of 81": 35, "plane of 21 x 21": 35}
NUMBERS = ("margin", "visage", "released", "radius", "area")
_SEED = 19


@dataclass(frozen=True)
class Rule:
    """A way to choose and to infer nodes.

    Attributes:
        refine: Function from shape, counts and seed to the nodes that are needed.
        asr: Function from shape and counts to the ASR in percent of the nodes without counts.
        errors: Function from shape, counts and axes to the errors of the numbers.
    """

    refine: Callable[[Shape, Counts, int], Refinement]
    asr: Callable[[Shape, Counts], dict[Node, float]]
    errors: Callable[[Shape, Counts, Sequence[Sequence[float]]], InterpolationErrors]


def _inferred(shape: Shape, counts: Counts) -> dict[Node, float]:
    return {node: value.asr for node, value in infer(shape, counts).items()}


RULE = Rule(refine, _inferred, interpolation_errors)
"""The rule of this program."""


@dataclass(frozen=True)
class Case:
    """One landscape, measured adaptively.

    Attributes:
        kind: What is beyond its basin.
        radius: Median distance of its model's edge.
        share: Share of its nodes that were measured.
        levels: Number of levels.
        audits_failed: Number of audited nodes that differed.
        beyond: Whether the full grid has a refusal that is not connected with the basin.
        off: Distance of each number from the full grid's: percent, but steps for the radius. NaN if undefined.
        covered: Whether the interval with the interpolation's error contains the full grid's number. NaN if unknown.
        noises: Of the nodes for the mean margin and, where it is defined and nothing is beyond the basin, for VISAGE;
            see `adaptive_bounds`.
    """

    kind: str
    radius: float
    share: float
    levels: int
    audits_failed: int
    beyond: bool
    off: dict[str, float]
    covered: dict[str, float]
    noises: dict[str, np.ndarray]


def numbers(asr: np.ndarray, axes: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the numbers of a line or plane; NaN where undefined. The area is in percent of the plane's."""
    coordinates = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
    values, columns = asr.ravel().tolist(), coordinates.T.tolist()
    score, margin = visage.measure(coordinates, values), visage.measure_margin(coordinates, values)
    area = None
    if len(axes) == 1:
        edges = basin.measure_line(columns[0], values)
    else:
        alphas, betas = columns
        edges = basin.measure_plane(alphas, betas, values)
        shape = basin.shape_on_plane(alphas, betas, values, edges)
        area = shape.area if shape.area is not None else shape.area_at_least
        area = None if area is None else 100.0 * area
    found = margin.value, score.paper, score.released, edges.radius, area
    return {name: math.nan if value is None else value for name, value in zip(NUMBERS, found, strict=True)}


def measure(landscape: Landscape, seed: int, rule: Rule = RULE) -> Case:
    """Let a rule measure a landscape, and compare."""
    full = landscape.counts()
    answer = rule.refine(landscape.shape, full, seed)  # the levels of a full grid are those of a sweep from nothing
    counts = known(landscape, answer.needed)
    asr = landscape.asr.copy()
    for node, value in rule.asr(landscape.shape, counts).items():
        asr[node] = value
    true, found = numbers(landscape.asr, landscape.axes), numbers(asr, landscape.axes)
    step = landscape.axes[0][1] - landscape.axes[0][0]
    errors = rule.errors(landscape.shape, counts, landscape.axes)
    off, covered = {}, {}
    for name in NUMBERS:
        undefined = [math.isnan(value[name]) for value in (true, found)]
        off[name] = math.inf if any(undefined) else abs(found[name] - true[name])
        off[name] = math.nan if all(undefined) else off[name]
        error = getattr(errors, name)
        scale = 100.0 if name == "area" else 1.0
        covered[name] = math.nan if error is None else float(off[name] <= 1.96 * scale * error + _ROUNDING[name])
        off[name] /= step if name == "radius" else 1.0
    inside = landscape.asr < 100.0
    labels, _ = ndimage.label(inside)
    beyond = bool((inside & (labels != labels[landscape.shape.center])).any())
    share = len(counts) / landscape.asr.size
    shown = landscape.kind, landscape.radius, share, answer.level, len(answer.failed_audits), beyond
    refusing = landscape.refusing.reshape(landscape.asr.size, -1)
    noises = {"margin": adaptive_bounds.noise_of_margin(refusing)}
    if not (beyond or math.isnan(off["visage"])):
        noises["visage"] = adaptive_bounds.noise_of_visage(refusing)
    return Case(*shown, off, covered, noises)


_ROUNDING = {"margin": 1e-9, "visage": 1e-9, "released": 1e-9, "radius": 1e-9, "area": 0.05}
"""Differences that are none. Areas are counted in cells."""


def simulate(steps: int, is_plane: bool, count: int, seed: int = _SEED, rule: Rule = RULE) -> list[Case]:
    """Return this many landscapes, measured by a rule."""
    rngs = np.random.default_rng(seed).spawn(count)
    run = functools.partial(_simulate_one, steps, is_plane, rule)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(run, rngs, range(count), chunksize=5))


def _simulate_one(steps: int, is_plane: bool, rule: Rule, rng: np.random.Generator, seed: int) -> Case:
    return measure(Landscape.draw(rng, steps, is_plane), seed, rule)


def within(cases: Iterable[Case], name: str) -> float:
    """Return the percentage within the goal: one point, or half a step for the radius. NaN without any.

    VISAGE counts only where the full grid has no refusal beyond the basin.
    """
    goal = 0.5 if name == "radius" else 1.0
    off = [case.off[name] for case in cases if not (name == "visage" and case.beyond)]
    return _percent([each <= goal + 1e-9 for each in off if not math.isnan(each)])


def visage_right(cases: Iterable[Case]) -> float:
    """Return the percentage whose VISAGE is within a point or, with refusals beyond the basin, in its interval."""
    defined = [case for case in cases if not math.isnan(case.off["visage"])]
    return _percent([bool(case.covered["visage"]) if case.beyond else case.off["visage"] <= 1.0 for case in defined])


def coverage(cases: Iterable[Case], name: str) -> float:
    """Return the percentage of intervals that contain the full grid's number."""
    return _percent([bool(case.covered[name]) for case in cases if not math.isnan(case.covered[name])])


def _percent(holds: Sequence[bool]) -> float:
    return 100.0 * float(np.mean(holds)) if holds else math.nan


def row(label: str, cases: Sequence[Case]) -> list[str]:
    """Return a row of the table."""
    shares = 100.0 * np.array([case.share for case in cases])
    cells = [
        label,
        str(len(cases)),
        f"{shares.mean():.0f}",
        f"{np.quantile(shares, 0.1):.0f} to {np.quantile(shares, 0.9):.0f}",
    ]
    cells += [_cell(within(cases, name)) for name in NUMBERS]
    return [*cells, f"{_percent([case.audits_failed > 0 for case in cases]):.0f}"]


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


def report(name: str, cases: Sequence[Case], source: str) -> str:
    """Return the results of one kind of grid as Markdown. `source` says how they were made."""
    header = ["", "landscapes", "visits, %", "10% to 90% of them", *NUMBERS, "audits failed, %"]
    widths: list[tuple[str, Callable[[Case], bool]]] = [
        ("all", lambda case: True),
        ("radius below 0.2", lambda case: case.radius < 0.2),
        ("radius 0.2 to 0.4", lambda case: 0.2 <= case.radius < 0.4),
        ("radius above 0.4", lambda case: case.radius >= 0.4),
        *((kind, lambda case, kind=kind: case.kind == kind) for kind in dict.fromkeys(c.kind for c in cases)),
    ]
    chosen = [(label, [case for case in cases if holds(case)]) for label, holds in widths]
    rows = [row(label, part) for label, part in chosen if part]
    quantiles = {n: [c.off[n] for c in cases if not math.isnan(c.off[n])] for n in NUMBERS}
    ninety_five = ", ".join(f"{n} {np.quantile(v, 0.95):.2f}" for n, v in quantiles.items() if v)
    covered = ", ".join(f"{n} {coverage(cases, n):.1f}%" for n in NUMBERS if not math.isnan(coverage(cases, n)))
    return "\n".join(
        [
            f"### {name[0].upper() + name[1:]}",
            "",
            source,
            "",
            table(header, rows),
            "",
            f"Goal: at most {GOALS[name]}% of the visits with 95% within a point (radius: half a step). 95% of the "
            f"distances are at most: {ninety_five} (VISAGE with refusals beyond the basin too). The 95% intervals with "
            f"the interpolation's error contain the full grid's number: {covered}. VISAGE is within a point, or "
            f"in its interval where there are refusals beyond the basin, in {visage_right(cases):.1f}%. "
            f"{_bounds(cases)} Levels: {np.mean([case.levels for case in cases]):.1f} on average, "
            f"at most {max(case.levels for case in cases)}.",
        ]
    )


def _bounds(cases: Sequence[Case]) -> str:
    """Return what no rule and no survey can do."""
    noises = {name: [case.noises[name] for case in cases if name in case.noises] for name in ("margin", "visage")}
    oracle, survey = (
        " and ".join(f"{method(each):.0f}% ({name})" for name, each in noises.items())
        for method in (adaptive_bounds.oracle, adaptive_bounds.survey)
    )
    return (
        f"No rule can have the number within a point in 95% with less than {oracle} of the visits, because a node that "
        "was not measured is known no better than its own sample varies; a survey that knows each node's noise and "
        f"which nodes have equal ASR, but not that ASR, needs {survey}."
    )


def main(landscapes: int, seed: int, only: str) -> None:
    """Simulate the grids whose name begins with `only`; write their sections of RESULTS.md and shares for `plan`."""
    intro = (
        "## Adaptive grids against full ones\n\n"
        "Every landscape is a different simulated model with 40 probes. Columns `margin` to `area`: percentage of "
        "landscapes within a point of the full grid's number (`visage`: of those without refusals beyond the basin; "
        "`radius`: within half a step; `area`: in percent of the plane)."
    )
    section("adaptive", intro)
    stored = json.loads(SHARES.read_text(encoding="utf-8"))
    for name, steps, is_plane, factor in GRIDS:
        if not name.startswith(only):
            continue
        cases = simulate(steps, is_plane, max(10, round(factor * landscapes)), seed)
        key = f"{'plane' if is_plane else 'line'} {steps + 1}"
        command = f"python -m benchmarks.adaptive {landscapes} {seed} {only}".rstrip()
        text = report(name, cases, f"`{command}`, version {RULE_VERSION} of the rule.")
        section(f"adaptive {key}".replace(" ", "_"), text)
        print(text, flush=True)
        values = np.quantile([case.share for case in cases], (0.1, 0.5, 0.9))
        stored["shares"][key] = [round(float(value), 3) for value in values]
        stored["rule"] = RULE_VERSION
        SHARES.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("landscapes", type=int, nargs="?", default=1000)
    parser.add_argument("seed", type=int, nargs="?", default=_SEED)
    parser.add_argument("only", nargs="?", default="", help="beginning of the names of grids: line or plane")
    main(**vars(parser.parse_args()))
