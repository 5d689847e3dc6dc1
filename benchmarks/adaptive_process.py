"""A candidate for version 2 of the rule of adaptive grids, beside version 1, by simulation.

    python -m benchmarks.adaptive_process [LANDSCAPES] [SEED]

The candidate (`benchmarks.process_rule`) infers from all measured nodes by a Gaussian process instead of from the
corners of cells. Both rules measure the same simulated landscapes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np

from benchmarks.adaptive import GOALS, GRIDS, NUMBERS, RULE, Case, Rule, coverage, simulate, within
from benchmarks.process_rule.errors import interpolation_errors
from benchmarks.process_rule.posterior import Posterior
from benchmarks.process_rule.rule import refine
from benchmarks.results import section, table
from orchestrator.analysis.adaptive.geometry import Counts, Node, Shape
from orchestrator.analysis.adaptive.rule import RULE_VERSION

SEED = 31


def _inferred(shape: Shape, counts: Counts) -> dict[Node, float]:
    posterior = Posterior.of(shape, counts)
    return {node: float(posterior.inferred[node]) for node in shape.nodes() if not posterior.known[node]}


CANDIDATE = Rule(refine, _inferred, interpolation_errors)


def row(grid: str, name: str, cases: Sequence[Case]) -> list[str]:
    """Return a row of the table: visits and levels, then for each number how often it is near, and its coverage."""
    shares = 100.0 * np.array([case.share for case in cases])
    cells = [grid, name, str(len(cases)), f"{shares.mean():.0f}", f"{np.mean([case.levels for case in cases]):.1f}"]
    for number in NUMBERS:
        near, covered = within(cases, number), coverage(cases, number)
        cells.append("" if math.isnan(near) else f"{near:.1f} ({covered:.0f})")
    return cells


def main(landscapes: int, seed: int) -> None:
    """Simulate all grids with both rules and write the section of RESULTS.md."""
    rows = []
    for name, steps, is_plane, factor in GRIDS:
        count = max(10, round(factor * landscapes))
        for label, rule in ((f"version {RULE_VERSION}", RULE), ("candidate", CANDIDATE)):
            rows.append(row(f"{name} (goal {GOALS[name]}%)", label, simulate(steps, is_plane, count, seed, rule)))
            print(rows[-1], flush=True)
    text = [
        "## A candidate for the rule of adaptive grids",
        f"`python -m benchmarks.adaptive_process {landscapes} {seed}`: both rules on the same simulated landscapes, as "
        "above. Columns `margin` to `area`: percentage of landscapes within a point of the full grid's number (radius: "
        "half a step), and in brackets how many percent of the 95% intervals contain it. `levels`: on average; each "
        "waits for the one before, so that many levels take long with many actors.",
        table(["grid", "rule", "landscapes", "visits, %", "levels", *NUMBERS], rows),
    ]
    section("adaptive_process", "\n\n".join(text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("landscapes", type=int, nargs="?", default=600)
    parser.add_argument("seed", type=int, nargs="?", default=SEED)
    main(**vars(parser.parse_args()))
