"""Test the bounds with which `benchmarks.adaptive` compares the rule."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import optimize, stats

from benchmarks import adaptive_bounds as bounds


def test_noises_are_those_of_simulated_numbers():
    """Few refusals at some nodes, so that which nodes are below 100% varies."""
    rng = np.random.default_rng(3)
    refusing = rng.uniform(0.0, 1.0, size=(120, 1)) ** 6 * rng.uniform(0.2, 1.0, size=(1, 40))
    margins = 2.5 * (rng.random((4000, *refusing.shape), dtype=np.float32) < refusing).sum(axis=2)
    assert np.sqrt((bounds.noise_of_margin(refusing) ** 2).sum()) == pytest.approx(margins.mean(axis=1).std(), rel=0.05)
    scores = margins.sum(axis=1) / (margins > 0.0).sum(axis=1)
    assert np.sqrt((bounds.noise_of_visage(refusing) ** 2).sum()) == pytest.approx(scores.std(), rel=0.05)


def test_the_oracle_needs_as_much_as_the_best_of_all_mixtures_of_choices():
    noises = [np.array([0.9, 0.2, 0.5]), np.array([0.1, 0.7, 0.3])]
    costs, risks, landscapes = [], [], []
    for landscape, noise in enumerate(noises):
        for measured in itertools.product((False, True), repeat=3):
            left = float(np.sqrt((noise[~np.array(measured)] ** 2).sum()))
            costs.append(np.mean(measured))
            risks.append(2.0 * stats.norm.sf(1.0 / left) if left else 0.0)
            landscapes.append([float(landscape == each) for each in range(2)])
    mixture = optimize.linprog(costs, [risks], [2 * bounds.RISK], np.transpose(landscapes), [1.0, 1.0])
    assert 0.0 < bounds.oracle(noises) == pytest.approx(50.0 * mixture.fun, rel=0.02)


def test_a_survey_needs_what_leaves_the_risk_if_all_nodes_are_alike():
    """400 nodes with noise s, of which the share q is measured, leave the variance 400 s^2 (1 / q - 1)."""
    limit = 1.0 / stats.norm.isf(bounds.RISK / 2)
    noise = np.full(400, 0.03)
    share = 1.0 / (1.0 + limit**2 / (noise**2).sum())
    assert bounds.survey([noise] * 3) == pytest.approx(100.0 * share, rel=0.03)


def test_landscapes_without_noise_need_nothing():
    silent = [np.zeros(5)] * 3
    assert bounds.oracle(silent) == bounds.survey(silent) == 0.0


def test_a_method_may_give_up_some_landscapes():
    """1 of 40 has much noise: it may be wrong, since 5% may be."""
    assert bounds.survey([np.full(20, 9.0)] + [np.zeros(20)] * 39) == pytest.approx(0.0, abs=1e-6)
