"""Test on simulated landscapes: distance from the full grid, coverage of the errors, false alarms of audits."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import adaptive
from benchmarks.adaptive_population import PROBES, Landscape
from orchestrator.analysis.adaptive import audit
from orchestrator.analysis.adaptive.errors import interpolation_errors
from orchestrator.analysis.adaptive.geometry import Shape
from orchestrator.analysis.adaptive.rule import refine
from orchestrator.analysis.adaptive.surface import Measured, Surface

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def cases() -> dict[str, list[adaptive.Case]]:
    def simulated(steps: int, is_plane: bool, count: int) -> list[adaptive.Case]:
        rngs = np.random.default_rng(7).spawn(count)
        return [adaptive.measure(Landscape.draw(rng, steps, is_plane), i) for i, rng in enumerate(rngs)]

    return {"line": simulated(40, False, 36), "plane": simulated(12, True, 3)}


def test_numbers_are_those_of_the_full_grid_up_to_a_point(cases):
    """The benchmark requires 95%; fewer landscapes are drawn here."""
    assert all(adaptive.within(cases["line"], name) >= 88.0 for name in ("margin", "released", "radius"))
    assert np.mean([case.share for case in cases["line"]]) < 0.85
    assert np.mean([case.share for case in cases["plane"]]) < 0.85
    assert adaptive.within(cases["plane"], "margin") >= 75.0


def test_intervals_contain_the_full_grids_numbers(cases):
    for name in ("margin", "visage", "released", "radius"):
        assert adaptive.coverage(cases["line"], name) >= 88.0


def test_a_full_grid_has_no_error_of_interpolation():
    landscape = Landscape.draw(np.random.default_rng(0), 20, is_plane=False)
    errors = interpolation_errors(landscape.shape, landscape.counts(), landscape.axes)
    assert (errors.margin, errors.visage, errors.released) == (0.0, 0.0, 0.0)


def test_audits_raise_false_alarms_at_the_stated_rate_at_most():
    """If inference is right up to its standard error, at most 5% of all sequences of audits fail anywhere."""
    rng = np.random.default_rng(1)
    shape, alarms, sequences = Shape((41,), (20,)), 0, 200
    for _ in range(sequences):
        p = rng.uniform(0.05, 0.95)
        known = {(i,): (int(rng.binomial(PROBES, p)), PROBES) for i in range(0, 41, 4)}
        before = Surface(shape, Measured.of(shape, known, known), [((i, i + 4),) for i in range(0, 40, 4)], ratio=1.0)
        nodes = audit.sample(before.measured.known, int(rng.integers(1 << 30)), 0)
        counts = known | {node: (int(rng.binomial(PROBES, p)), PROBES) for node in nodes}
        after = Measured.of(shape, counts, counts)
        alarms += bool(audit.failures(before, after, nodes, 0))
    assert alarms / sequences <= audit.FALSE_ALARMS


def test_an_audit_finds_a_difference():
    shape = Shape((5,), (0,))
    counts = {(0,): (4, PROBES), (4,): (4, PROBES), (2,): (36, PROBES)}
    ends = {node: counts[node] for node in ((0,), (4,))}
    before = Surface(shape, Measured.of(shape, ends, ends), [((0, 4),)])
    assert audit.failures(before, Measured.of(shape, counts, counts), [(2,)], 0) == [(2,)]


def test_one_refusal_between_nodes_at_100_fails_the_audit():
    shape = Shape((5,), (0,))
    counts = {(0,): (PROBES, PROBES), (4,): (PROBES, PROBES), (2,): (PROBES - 1, PROBES), (3,): (0, 0)}
    ends = {node: counts[node] for node in ((0,), (4,))}
    before = Surface(shape, Measured.of(shape, ends, ends), [((0, 4),)])
    assert audit.failures(before, Measured.of(shape, counts, counts), [(2,), (3,)], 0) == [(2,)]


def test_a_wall_is_measured_more_finely_than_the_flat_parts():
    shape = Shape((81,), (0,))
    counts = {(i,): (int(np.clip((i - 30) * 4, 0, PROBES)), PROBES) for i in range(81)}
    needed = np.array([node[0] for node in refine(shape, counts, 0).needed])
    wall, far = ((needed >= 30) & (needed <= 41)).mean() / 12, (needed >= 60).mean() / 21
    assert wall > 1.3 * far
