"""The clusters of a result's probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from orchestrator.analysis.intervals import CONFIDENCE, effective_count
from orchestrator.scoring.clusters import design_effect
from orchestrator.scoring.counts import ProbeVerdicts
from orchestrator.utils.records import JsonRecord


@dataclass(frozen=True, kw_only=True)
class ClusterSummary(JsonRecord):
    """The clusters of a result's probes; intervals over new probes draw whole clusters.

    Attributes:
        source: The method that found them; see `scoring.clusters.ProbeClusters`.
        probes: Number of probes.
        clusters: Number of clusters.
        largest: Number of probes in the largest cluster.
        design_effect: How many times larger the variance of an ASR over probes is than over independent probes.
    """

    source: str
    probes: int
    clusters: int
    largest: int
    design_effect: float

    @classmethod
    def of(cls, verdicts: ProbeVerdicts) -> Self:
        """Return the clusters of the probes of these verdicts."""
        labels = verdicts.labels()
        return cls(
            source="none" if verdicts.clusters is None else verdicts.clusters.source,
            probes=len(labels),
            clusters=len(np.unique(labels)),
            largest=int(np.unique(labels, return_counts=True)[1].max()),
            design_effect=design_effect(verdicts.refused, labels),
        )

    def effective(self, n: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
        """Return the number of independent probes that would tell as much as n of these probes."""
        return effective_count(n, self.design_effect, self.probes, self.clusters, confidence)
