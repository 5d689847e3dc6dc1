"""Clusters of probes that are near-duplicates or belong to one category, and the information lost by clustering.

Responses to probes of one cluster are alike, so 40 probes in 8 clusters carry less information about new probes than 40
independent ones. Intervals over new probes therefore draw whole clusters (docs/statistics.md).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.sweep.tasks import Prompt

MIN_CATEGORIES = 5
"""Fewer categories are not taken as clusters, because the spread between them could not be measured."""

SIMILARITY = 0.35
"""Mean cosine similarity from which two groups of texts are one cluster."""

MAX_TEXTS = 5000
"""The most texts that are compared with each other."""

_STEM = 4  # letters of a word that count
_USUAL_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by can could do does for from how i in into is it me my of on or our out so some "
        "someone that the their them this to up us using use was what when which who will with without you your "
        "answer article create demonstrate describe design detail detailed develop explain give guide guides "
        "instruction instructions list make making plan program prompt provide question request script show step steps "
        "teach tell tutorial write",
    )
)
_BLOCK = 1 << 16  # number of points that are summed at a time


@dataclass(frozen=True)
class ProbeClusters:
    """The cluster of each probe.

    Attributes:
        source: The method that found them: `category` (the column), `text` (near-duplicate texts) or `none` (too many
            texts to compare, each a cluster of its own).
        labels: For each probe, the number of its cluster; clusters are numbered by their first probe.
    """

    source: str
    labels: tuple[int, ...]


def cluster_probes(prompts: Sequence[Prompt]) -> ProbeClusters:
    """Return the clusters of these probes: their categories if there are enough, else near-duplicate texts."""
    categories = [prompt.category for prompt in prompts]
    if all(categories) and len(set(categories)) >= MIN_CATEGORIES:
        return ProbeClusters("category", _numbered(categories))
    if len(prompts) > MAX_TEXTS:
        return ProbeClusters("none", tuple(range(len(prompts))))
    return ProbeClusters("text", _numbered(_cluster_texts([prompt.text for prompt in prompts])))


def _numbered(names: Sequence[object]) -> tuple[int, ...]:
    numbers: dict[object, int] = {}
    return tuple(numbers.setdefault(name, len(numbers)) for name in names)


def _cluster_texts(texts: Sequence[str]) -> list[int]:
    """Return the cluster of each text, by average linkage of the cosine similarity of their sets of stems.

    A stem is the first four letters of a word. Words that any request may contain are left out. Otherwise, "Write a
    tutorial on how to" would make two requests alike.
    """
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    if len(texts) < 2:
        return list(range(len(texts)))
    words = [set(re.findall(r"\w+", text.casefold())) - _USUAL_WORDS for text in texts]
    stems = [sorted({word[:_STEM] for word in stems_of_text}) for stems_of_text in words]
    column = {stem: i for i, stem in enumerate(sorted(set(itertools.chain(*stems))))}
    vectors = np.zeros((len(texts), len(column)))
    for row, stems_of_text in zip(vectors, stems, strict=True):
        row[[column[stem] for stem in stems_of_text]] = 1.0 / math.sqrt(max(len(stems_of_text), 1))
    distances = np.round(1.0 - vectors @ vectors.T, 9)  # rounded: the same clusters on every platform
    np.fill_diagonal(distances, 0.0)
    links = hierarchy.linkage(squareform(np.maximum(distances, 0.0), checks=False), "average")
    return [int(label) for label in hierarchy.fcluster(links, 1.0 - SIMILARITY, "distance")]


# The design effect.


def variance_of_mean(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the variance of the mean over probes at each point if whole clusters are drawn at random.

    This is the usual estimate for clusters of unequal sizes (Cochran, Sampling Techniques, 1977, section 9A). If each
    probe is a cluster of its own, it is the sample variance divided by the number of probes. It is 0 with a single
    cluster.

    Args:
        values: [point, probe], NaN where there is no verdict.
        labels: The cluster of each probe, [probe].

    Returns:
        [point].
    """
    _, numbers = np.unique(labels, return_inverse=True)
    member = np.zeros((len(numbers), int(numbers.max()) + 1), dtype=np.float32)
    member[np.arange(len(numbers)), numbers] = 1.0
    clusters = member.shape[1]
    variances = np.zeros(len(values))
    for start in range(0, len(values), _BLOCK):
        part = values[start : start + _BLOCK].astype(np.float32)
        known = ~np.isnan(part)
        n = np.maximum(known.sum(axis=1), 1)
        mean = np.where(known, part, 0.0).sum(axis=1, dtype=np.float64) / n
        deviations = np.where(known, part - mean[:, None].astype(np.float32), 0.0) @ member
        variances[start : start + _BLOCK] = np.square(deviations, dtype=np.float64).sum(axis=1) / n**2
    return variances * (clusters / (clusters - 1)) if clusters > 1 else variances


def largest_design_effect(labels: np.ndarray) -> float:
    """Return the design effect if all probes of a cluster always agreed. `labels`: the cluster of each probe."""
    sizes = np.unique(labels, return_counts=True)[1]
    return float(np.square(sizes).sum() / sizes.sum())


def design_effect(values: np.ndarray, labels: np.ndarray) -> float:
    """Return how many times larger the variance of a mean over probes is than that over independent probes.

    The variances of all points are added before they are divided (Kish, Survey Sampling, 1965). The result is between 1
    and the value at which all probes of a cluster always agree; it is the latter if no two probes ever differ.

    Args:
        values: [point, probe], NaN where there is no verdict.
        labels: The cluster of each probe, [probe].
    """
    largest = largest_design_effect(labels)
    if largest == 1.0:
        return 1.0
    independent = float(variance_of_mean(values, np.arange(len(labels))).sum())
    if independent == 0.0:
        return largest
    return float(np.clip(variance_of_mean(values, labels).sum() / independent, 1.0, largest))
