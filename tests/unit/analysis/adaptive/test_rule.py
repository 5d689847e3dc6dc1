"""Test that the chosen nodes depend on the full grid's counts alone, and that a full grid leaves nothing to measure."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.analysis.adaptive.geometry import Counts, Node, Shape
from orchestrator.analysis.adaptive.inference import infer
from orchestrator.analysis.adaptive.rule import refine
from orchestrator.analysis.adaptive.speculation import chances

PROBES = 10


@st.composite
def grids(draw: st.DrawFn) -> tuple[Shape, dict[Node, tuple[int, int]]]:
    """Return a shape and the counts of its full grid: a basin with noise, in which some nodes may lack verdicts."""
    if draw(st.booleans()):
        sizes: tuple[int, ...] = (draw(st.integers(1, 40)),)
    else:
        sizes = (draw(st.integers(1, 11)), draw(st.integers(1, 11)))
    origin = draw(st.none() | st.tuples(*(st.integers(0, n - 1) for n in sizes)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = Shape(sizes, origin)
    radius, width = draw(st.floats(0.0, 20.0)), draw(st.floats(0.1, 10.0))
    judged = draw(st.sampled_from([(PROBES,), (PROBES, PROBES, 0), (0,)]))
    counts = {}
    for node in shape.nodes():
        n = int(rng.choice(judged))
        distance = np.linalg.norm(np.subtract(node, shape.center))
        p = 1.0 / (1.0 + np.exp(np.clip((radius - distance) / width, -50, 50)))
        counts[node] = (int(rng.binomial(n, p)), n)
    return shape, counts


def measure_all(
    shape: Shape, full: Counts, start: Counts, seed: int, order: np.random.Generator
) -> dict[Node, tuple[int, int]]:
    """Measure what is missing in a random order, in batches of random size, until the rule is done."""
    counts = dict(start)
    while not (answer := refine(shape, counts, seed)).done:
        assert answer.missing
        assert not set(answer.missing) & set(counts)
        batch = order.permutation(len(answer.missing))[: order.integers(1, len(answer.missing) + 1)]
        counts |= {answer.missing[i]: full[answer.missing[i]] for i in batch}
    assert answer.missing == ()
    return counts


@settings(max_examples=20, deadline=None)
@given(grids(), st.integers(0, 2**63), st.integers(0, 2**32))
def test_the_same_nodes_are_chosen_whatever_the_order_and_whatever_was_measured_before(grid, seed, shuffle):
    shape, full = grid
    order = np.random.default_rng(shuffle)
    chosen = refine(shape, full, seed)
    assert chosen.done and chosen.missing == ()  # a full grid leaves nothing to measure
    assert len(set(chosen.needed)) == len(chosen.needed)
    assert set(measure_all(shape, full, {}, seed, order)) == set(chosen.needed)
    before = {node: full[node] for node in full if order.random() < 0.3}  # speculation, or another sweep's nodes
    assert set(measure_all(shape, full, before, seed, order)) == set(chosen.needed) | set(before)


@settings(max_examples=20, deadline=None)
@given(grids(), st.integers(0, 2**32), st.integers(0, 2**32))
def test_it_resumes_at_any_moment(grid, seed, shuffle):
    shape, full = grid
    order = np.random.default_rng(shuffle)
    chosen = refine(shape, full, seed).needed
    prefix = {node: full[node] for node in chosen[: order.integers(0, len(chosen) + 1)]}
    answer = refine(shape, prefix, seed)
    assert answer.needed == chosen[: len(answer.needed)]  # an incomplete level never changes what was chosen before
    assert set(measure_all(shape, full, prefix, seed, order)) == set(chosen)


@settings(max_examples=20, deadline=None)
@given(grids(), st.integers(0, 2**32))
def test_every_other_node_is_inferred_once(grid, seed):
    shape, full = grid
    counts = {node: full[node] for node in refine(shape, full, seed).needed}
    inferred = infer(shape, counts)
    assert sorted([*inferred, *counts]) == shape.nodes()
    assert all(0.0 <= value.asr <= 100.0 and 0.0 <= value.standard_error < 100.0 for value in inferred.values())


@settings(max_examples=8, deadline=None)
@given(grids(), st.integers(0, 2**32), st.integers(0, 2**32))
def test_speculation_names_nodes_that_are_not_asked_for_yet(grid, seed, shuffle):
    shape, full = grid
    chosen = refine(shape, full, seed).needed
    prefix = {node: full[node] for node in chosen[: np.random.default_rng(shuffle).integers(0, len(chosen) + 1)]}
    guesses = chances(shape, prefix, seed)
    assert not guesses.keys() & (prefix.keys() | set(refine(shape, prefix, seed).missing))
    assert list(guesses.values()) == sorted(guesses.values(), reverse=True)
    assert all(0.0 < chance <= 1.0 for chance in guesses.values())


def test_an_island_that_the_audit_hits_is_refined():
    """Every attack succeeds everywhere but on an island; one audited node is placed on it by the seed."""
    shape = Shape((21, 21), (10, 10))
    full = dict.fromkeys(shape.nodes(), (40, 40))
    for node in shape.nodes():
        if max(abs(node[0] - 3), abs(node[1] - 17)) <= 1:
            full[node] = (10, 40)
    seed = next(s for s in range(500) if refine(shape, full, s).failed_audits)
    answer = refine(shape, full, seed)
    island = {node for node in full if full[node][0] < 40}
    assert len(island & set(answer.needed)) >= 0.7 * len(island)
    assert set(answer.failed_audits) <= set(answer.audited) <= set(answer.needed)
    assert len(answer.needed) < 441


def test_inferred_values_lie_between_the_corners_and_are_exact_on_a_slope():
    shape = Shape((5,), (0,))
    inferred = infer(shape, {(0,): (0, 10), (4,): (8, 10)})
    assert [round(inferred[(i,)].asr, 9) for i in (1, 2, 3)] == [20.0, 40.0, 60.0]
    clean = infer(shape, {(0,): (10, 10), (4,): (10, 10)})
    assert {value.asr for value in clean.values()} == {100.0}
