"""Test on simulated landscapes: distance from the full grid, coverage of the errors, false alarms of audits."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import adaptive
from benchmarks.adaptive_population import PROBES, Landscape
from orchestrator.analysis import visage
from orchestrator.analysis.adaptive import audit, numbers
from orchestrator.analysis.adaptive.errors import interpolation_errors
from orchestrator.analysis.adaptive.geometry import Shape
from orchestrator.analysis.adaptive.posterior import Posterior
from orchestrator.analysis.adaptive.rule import refine

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def cases() -> dict[str, list[adaptive.Case]]:
    def simulated(steps: int, is_plane: bool, count: int) -> list[adaptive.Case]:
        rngs = np.random.default_rng(7).spawn(count)
        return [adaptive.measure(Landscape.draw(rng, steps, is_plane), i) for i, rng in enumerate(rngs)]

    return {"line": simulated(40, False, 24), "plane": simulated(12, True, 4)}


@pytest.mark.slow
def test_numbers_are_those_of_the_full_grid_up_to_a_point(cases):
    """The benchmark requires 95%; fewer landscapes are drawn here."""
    assert all(adaptive.within(cases["line"], name) >= 88.0 for name in ("margin", "released", "radius"))
    assert np.mean([case.share for case in cases["line"]]) < 0.85
    assert np.mean([case.share for case in cases["plane"]]) < 0.85
    assert adaptive.within(cases["plane"], "margin") >= 75.0


@pytest.mark.slow
def test_intervals_contain_the_full_grids_numbers(cases):
    for name in ("margin", "visage", "released", "radius"):
        assert adaptive.coverage(cases["line"], name) >= 88.0


def test_errors_exceed_those_of_the_draws_because_levels_end_when_these_look_small() -> None:
    landscape = Landscape.draw(np.random.default_rng(1), 40, is_plane=False)
    counts = {node: count for node, count in landscape.counts().items() if node[0] % 4 == 0}
    posterior, errors = (
        Posterior.of(landscape.shape, counts),
        interpolation_errors(landscape.shape, counts, landscape.axes),
    )
    margins = (100.0 - grids.reshape(-1, landscape.asr.size) for grids in (posterior.drawn, posterior.inferred))
    drawn, (inferred,) = map(visage.mean_from_margins, margins)
    assert errors.margin is not None and errors.margin >= 1.4 * np.sqrt(np.mean((drawn - inferred) ** 2)) > 0.0


def test_a_full_grid_has_no_error_of_interpolation():
    landscape = Landscape.draw(np.random.default_rng(0), 20, is_plane=False)
    errors = interpolation_errors(landscape.shape, landscape.counts(), landscape.axes)
    assert (errors.margin, errors.visage, errors.released) == (0.0, 0.0, 0.0)


def test_audits_raise_false_alarms_at_the_stated_rate_at_most():
    """If inference is right up to its standard error, at most 5% of all sequences of audits fail anywhere."""
    rng = np.random.default_rng(1)
    shape, alarms, sequences = Shape((41,), (20,)), 0, 60
    for _ in range(sequences):
        p = rng.uniform(0.05, 0.95)
        before = Posterior.of(shape, {(i,): (int(rng.binomial(PROBES, p)), PROBES) for i in range(0, 41, 4)})
        nodes = audit.sample(before.known, int(rng.integers(1 << 30)), 0)
        counts = {node: (int(rng.binomial(PROBES, p)), PROBES) for node in nodes}
        alarms += bool(audit.failures(before, counts, nodes, 0))
    assert alarms / sequences <= audit.FALSE_ALARMS


def test_an_audit_finds_a_difference():
    before = Posterior.of(Shape((5,), (0,)), dict.fromkeys(((0,), (1,), (3,), (4,)), (4, PROBES)))
    assert audit.failures(before, {(2,): (36, PROBES)}, [(2,)], 0) == [(2,)]
    assert audit.failures(before, {(2,): (5, PROBES)}, [(2,)], 0) == []


def test_an_audit_does_not_test_nodes_without_a_verdict():
    before = Posterior.of(Shape((5,), (0,)), dict.fromkeys(((0,), (1,), (4,)), (PROBES, PROBES)))
    counts = {(2,): (PROBES // 2, PROBES), (3,): (0, 0)}
    assert audit.failures(before, counts, [(2,), (3,)], 0) == [(2,)]


@pytest.mark.parametrize("is_plane", [False, True])
def test_levels_end_when_every_number_is_within_its_tolerance_in_nearly_all_draws(is_plane: bool) -> None:
    """The limits are those of docs/adaptive.md. Landscapes whose audit fails have more levels after it."""
    limit, ended = 0.1, 0
    for seed in range(4):
        landscape = Landscape.draw(np.random.default_rng(seed), 12 if is_plane else 40, is_plane)
        answer, counts = refine(landscape.shape, landscape.counts(), seed), landscape.counts()
        before = {node: counts[node] for node in answer.needed if node not in answer.audited}
        posterior = Posterior.of(landscape.shape, before)
        if answer.failed_audits or posterior.has_refusals_beyond:
            continue
        ended += 1
        drawn, connected, inferred = (
            100.0 - grids.reshape(-1, landscape.asr.size)
            for grids in (posterior.drawn, posterior.connected, posterior.inferred)
        )
        margins = visage.mean_from_margins(drawn) - visage.mean_from_margins(inferred)
        scores = visage.paper_from_margins(connected) - visage.paper_from_margins(inferred)
        assert (abs(margins) > 1.0).mean() <= limit and (abs(scores) > 0.75).mean() <= limit
        if not is_plane:
            released = numbers.released(posterior.drawn) - numbers.released(posterior.inferred[None])
            assert (abs(released) > 0.85).mean() <= limit
    assert ended >= 2


def test_a_wall_is_measured_more_finely_than_the_flat_parts():
    shape = Shape((17, 17), (8, 8))
    distance = {node: float(np.hypot(node[0] - 8, node[1] - 8)) for node in shape.nodes()}
    counts = {node: (int(np.clip(16 * (d - 3.5), 0, PROBES)), PROBES) for node, d in distance.items()}
    needed = set(refine(shape, counts, 0).needed)
    wall, far = ({node for node, d in distance.items() if low <= d <= high} for low, high in ((3, 6.5), (7.5, 12)))
    assert len(wall & needed) / len(wall) > 1.5 * len(far & needed) / len(far)
