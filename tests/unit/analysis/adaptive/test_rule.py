"""Test that the chosen nodes depend on the full grid's counts alone, and that a full grid leaves nothing to measure."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.analysis.adaptive import audit, posterior
from orchestrator.analysis.adaptive.geometry import Counts, Node, Shape
from orchestrator.analysis.adaptive.inference import infer
from orchestrator.analysis.adaptive.posterior import Posterior
from orchestrator.analysis.adaptive.rule import likely_next, refine

PROBES = 10


@st.composite
def grids(draw: st.DrawFn) -> tuple[Shape, dict[Node, tuple[int, int]]]:
    """Return a shape and the counts of its full grid: a basin with noise, in which some nodes may lack verdicts."""
    if draw(st.booleans()):
        sizes: tuple[int, ...] = (draw(st.integers(1, 30)),)
    else:
        sizes = (draw(st.integers(1, 8)), draw(st.integers(1, 8)))
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


@settings(max_examples=5, deadline=None)
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


@settings(max_examples=5, deadline=None)
@given(grids(), st.integers(0, 2**32), st.integers(0, 2**32))
def test_it_resumes_at_any_moment(grid, seed, shuffle):
    shape, full = grid
    order = np.random.default_rng(shuffle)
    chosen = refine(shape, full, seed).needed
    prefix = {node: full[node] for node in chosen[: order.integers(0, len(chosen) + 1)]}
    answer = refine(shape, prefix, seed)
    assert answer.needed == chosen[: len(answer.needed)]  # an incomplete level never changes what was chosen before
    assert set(measure_all(shape, full, prefix, seed, order)) == set(chosen)


@settings(max_examples=5, deadline=None)
@given(grids(), st.integers(0, 2**32))
def test_every_other_node_is_inferred_once(grid, seed):
    shape, full = grid
    counts = {node: full[node] for node in refine(shape, full, seed).needed}
    inferred = infer(shape, counts)
    assert sorted([*inferred, *counts]) == shape.nodes()
    assert all(0.0 <= value.asr <= 100.0 and 0.0 <= value.standard_error < 100.0 for value in inferred.values())


@settings(max_examples=5, deadline=None)
@given(grids(), st.integers(0, 2**32), st.integers(0, 2**32))
def test_speculation_names_nodes_that_are_not_asked_for_yet(grid, seed, shuffle):
    shape, full = grid
    chosen = refine(shape, full, seed).needed
    prefix = {node: full[node] for node in chosen[: np.random.default_rng(shuffle).integers(0, len(chosen) + 1)]}
    current = refine(shape, prefix, seed)
    guesses = likely_next(shape, prefix, current, seed)
    assert len(set(guesses)) == len(guesses)
    assert not set(guesses) & (prefix.keys() | set(current.needed))


def test_an_island_that_the_audit_hits_is_refined():
    """Every attack succeeds everywhere but on an island; one audited node is placed on it by the seed."""
    shape = Shape((15, 15), (7, 7))
    clean: dict[Node, tuple[int, int]] = dict.fromkeys(shape.nodes(), (40, 40))
    island = {node for node in clean if max(abs(node[0] - 2), abs(node[1] - 12)) <= 1}
    full = clean | dict.fromkeys(island, (10, 40))
    before = set(refine(shape, clean, 0).needed) - set(refine(shape, clean, 0).audited)
    assert not before & island, "no level hints at it"
    known = np.zeros(shape.sizes, dtype=bool)
    known[tuple(np.transpose(sorted(before)))] = True
    seed = next(s for s in itertools.count() if island & set(audit.sample(known, s, 0)))
    answer = refine(shape, full, seed)
    assert island <= set(answer.needed)
    assert answer.failed_audits and set(answer.failed_audits) <= set(answer.audited) <= set(answer.needed)


def test_speculation_names_the_audit_if_the_levels_are_about_to_end():
    shape = Shape((21, 21), (10, 10))
    full = dict.fromkeys(shape.nodes(), (40, 40))
    *begun, last = refine(shape, {}, 3).needed
    counts = {node: full[node] for node in begun}
    current = refine(shape, counts, 3)
    assert current.missing == (last,)
    assert likely_next(shape, counts, current, 3) == list(refine(shape, full, 3).audited)


def test_where_every_attack_succeeds_the_lattice_and_an_audit_suffice():
    """Counts of 100% bound the process on one side only; an approximation without that needs a third of the plane."""
    shape = Shape((21, 21), (10, 10))
    answer = refine(shape, dict.fromkeys(shape.nodes(), (40, 40)), 0)
    assert (answer.level, len(answer.needed)) == (1, 25 + len(answer.audited))


def test_inferred_values_follow_a_slope_and_are_100_between_nodes_at_100():
    shape = Shape((9,), (0,))
    inferred = infer(shape, {(0,): (0, 100), (2,): (25, 100), (4,): (50, 100), (6,): (75, 100), (8,): (100, 100)})
    for i, expected in ((1, 12.5), (3, 37.5), (5, 62.5), (7, 87.5)):
        assert abs(inferred[(i,)].asr - expected) < 10.0
    assert sorted(inferred, key=lambda node: inferred[node].asr) == [(1,), (3,), (5,), (7,)]
    clean = infer(shape, {(i,): (100, 100) for i in (0, 2, 4, 6, 8)})
    assert {value.asr for value in clean.values()} == {100.0}


def test_the_same_counts_give_the_same_bits_when_they_are_computed_again():
    """Levels are computed anew when a sweep is resumed; a draw that depended on the process would change them."""
    rng = np.random.default_rng(5)
    counts = {(i,): (int(rng.integers(0, 11)), PROBES) for i in range(0, 41, 2)}
    first = Posterior.of(Shape((41,), (20,)), counts).drawn
    posterior._posterior.cache_clear()
    assert np.array_equal(first, Posterior.of(Shape((41,), (20,)), dict(reversed(counts.items()))).drawn)
