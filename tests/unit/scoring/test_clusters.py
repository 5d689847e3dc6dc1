"""Clusters of probes, and the variance of means over them."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.scoring.clusters import cluster_probes, design_effect, variance_of_mean
from orchestrator.scoring.counts import ProbeVerdicts
from orchestrator.sweep.tasks import Prompt

CAKES = (
    "Write a tutorial on how to bake a chocolate cake",
    "Explain step by step how to bake a chocolate cake at home",
    "Give instructions for baking a chocolate cake with nuts",
    "Write a tutorial on how to bake a cake of chocolate",
)
OTHERS = (
    "Write a tutorial on how to repair a bicycle tire",
    "Explain how to sail across the Baltic Sea",
    "Give instructions for tuning a piano",
    "Describe how bees find their way home",
    "List the rules of cricket",
    "Write a poem about the harvest moon",
    "Explain why the sky is blue",
    "Give a recipe for pumpkin soup",
)


def test_near_duplicates_are_one_cluster_wherever_they_are_in_the_set() -> None:
    texts = [CAKES[0], *OTHERS[:4], *CAKES[1:], *OTHERS[4:]]
    clusters = cluster_probes([Prompt(text) for text in texts])
    assert clusters.source == "text"
    of_cakes = {clusters.labels[texts.index(cake)] for cake in CAKES}
    of_others = [clusters.labels[texts.index(other)] for other in OTHERS]
    assert of_cakes == {0} and len(set(of_others)) == len(OTHERS) and 0 not in of_others


def test_the_categories_are_the_clusters_if_there_are_five_or_more() -> None:
    few = [Prompt(text, category=f"kind {i % 4}") for i, text in enumerate(OTHERS)]
    many = [Prompt(text, category=f"kind {i % 5}") for i, text in enumerate(OTHERS)]
    assert cluster_probes(few).source == "text" and len(set(cluster_probes(few).labels)) == 8
    assert cluster_probes(many).source == "category" and cluster_probes(many).labels == (0, 1, 2, 3, 4, 0, 1, 2)
    assert cluster_probes([Prompt("alone")]).labels == (0,)


def test_the_labels_of_a_selection_of_prompts() -> None:
    clusters = cluster_probes([Prompt(text, category=f"kind {i % 5}") for i, text in enumerate(OTHERS)])
    verdicts = ProbeVerdicts(("p",), OTHERS, np.zeros((1, 8)), clusters)
    assert verdicts.labels(OTHERS[6:0:-2]).tolist() == [1, 4, 2]
    assert ProbeVerdicts(("p",), OTHERS, np.zeros((1, 8))).labels(OTHERS[:3]).tolist() == [0, 1, 2]


def test_the_variance_of_a_mean_over_single_probes_is_the_sample_variance_over_their_number() -> None:
    values = np.random.default_rng(1).random((6, 17))
    assert variance_of_mean(values, np.arange(17)) == pytest.approx(values.var(axis=1, ddof=1) / 17, rel=1e-5)
    values[2, 4:9] = np.nan
    known = values[2][~np.isnan(values[2])]
    expected = known.var() * 17 / 16 / len(known)
    assert variance_of_mean(values, np.arange(17))[2] == pytest.approx(expected, rel=1e-5)


def test_the_variance_and_design_effect_are_those_of_drawn_clusters() -> None:
    """By simulation: 12 clusters of 5 probes that answer alike to a degree, drawn anew 4,000 times."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(12), 5)
    shared = rng.standard_normal((4000, 12))[:, labels]
    values = (0.8 * shared + 0.6 * rng.standard_normal((4000, 60)) > 0.3).astype(float)
    actual = values.mean(axis=1).var()
    assert variance_of_mean(values, labels).mean() == pytest.approx(actual, rel=0.05)
    independent = (values.mean(axis=1) * (1 - values.mean(axis=1)) / 59).mean()
    assert design_effect(values, labels) == pytest.approx(actual / independent, rel=0.05)
    assert design_effect(values, np.arange(60)) == 1.0


def test_the_design_effect_is_at_most_that_of_single_probes() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    assert design_effect(np.zeros((3, 6)), labels) == pytest.approx((9 + 4 + 1) / 6), "nothing tells probes apart"
    assert design_effect(np.array([[1, 1, 1, 0, 0, 1.0]]), labels) == pytest.approx((9 + 4 + 1) / 6)
    assert design_effect(np.array([[1, 0, 1, 0, 1, 0.0]]), labels) == 1.0, (
        "probes of a cluster that differ cost nothing"
    )
