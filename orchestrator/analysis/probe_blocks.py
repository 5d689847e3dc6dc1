"""Samples of probes in blocks, and how much a number varies between them, for goals over new probes.

A number's interval over new probes rests on the jackknife that leaves out groups of whole clusters of probes. If all
probes agree, its width would be 0. So it is at least as wide as if some that refuse nowhere were unseen by chance.
"""

from __future__ import annotations

import collections
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.analysis.adaptive import until
from orchestrator.scoring.clusters import design_effect

GROUPS = 20
"""Number of groups, about, into which the probes of a block are divided for the interval over new probes."""


@dataclass(frozen=True)
class ProbeCounts:
    """Sizes of a sample of probes.

    Attributes:
        probes: Number of probes.
        clusters: Number of their clusters (`scoring.clusters`).
        groups: Effective number of the groups of whole clusters that the jackknife leaves out: the squared sum of their
            sizes divided by the sum of squares, rounded down (L. Kish, Survey Sampling, 1965).
    """

    probes: int
    clusters: int
    groups: int


@dataclass(frozen=True)
class ProbeBlocks:
    """The probes that a sweep has and may add.

    Attributes:
        used: Number of blocks in use.
        responses: Number of responses at a point to all prompt sets of each block, those in use first.
        clusters: The cluster of each probe of the deciding prompt set, for each block.
    """

    used: int = 1
    responses: tuple[int, ...] = (1,)
    clusters: tuple[tuple[int, ...], ...] = ((0,),)

    @property
    def labels(self) -> np.ndarray:
        """The group of each probe in use, [probe]."""
        return self._labels(self.used)

    @property
    def cluster_labels(self) -> np.ndarray:
        """The cluster of each probe in use, [probe]."""
        return np.array(list(itertools.chain(*self.clusters[: self.used])))

    @property
    def now(self) -> ProbeCounts:
        """The sizes of the probes in use."""
        return self.counts[self.used - 1]

    @functools.cached_property
    def counts(self) -> tuple[ProbeCounts, ...]:
        """The sizes of the first block, of the first two, and so on."""
        counts = []
        for blocks in range(1, len(self.clusters) + 1):
            sizes = np.bincount(self._labels(blocks))
            clusters = len(set(itertools.chain(*self.clusters[:blocks])))
            groups = int(sizes.sum() ** 2 / np.square(sizes).sum())
            counts.append(ProbeCounts(int(sizes.sum()), clusters, groups))
        return tuple(counts)

    def _labels(self, blocks: int) -> np.ndarray:
        """Return the group of each probe of the first blocks.

        Clusters are taken in the order of their first probes, and a group is full when it has 1 / GROUPS of the first
        block's number of probes. A cluster keeps its group while blocks are added.
        """
        size = -(-len(self.clusters[0]) // GROUPS)
        group_of: dict[int, int] = {}
        number = 0
        for block in self.clusters[:blocks]:
            filled = 0
            for cluster, count in collections.Counter(c for c in block if c not in group_of).items():
                group_of[cluster] = number
                filled += count
                if filled >= size:
                    number, filled = number + 1, 0
            number += filled > 0
        return np.array([group_of[cluster] for cluster in itertools.chain(*self.clusters[:blocks])])


UNKNOWN_PROBES = ProbeBlocks()
"""For goals over directions alone, which neither know nor add probes."""


@dataclass(frozen=True)
class LeftOut:
    """The ASR without a group of probes, for the interval over new probes.

    Attributes:
        asr: Of each line or plane without each group: percent, NaN where unknown, [group, node on each axis].
        shares: Share of all probes that is in each group.
        alike: Correlation of the verdicts on two probes of a cluster, between 0 and 1.
        added: The ASR of each line or plane with a cluster of mean size more that refuses nowhere: percent, NaN where
            unknown, [node on each axis].
    """

    asr: Sequence[np.ndarray]
    shares: np.ndarray
    alike: float
    added: Sequence[np.ndarray]

    @classmethod
    def of(cls, supply: ProbeBlocks, refused: Sequence[np.ndarray]) -> LeftOut:
        """Leave out each group.

        Args:
            supply: The probes.
            refused: Of each line or plane: 1 refused, 0 not, NaN without a verdict, [node on each axis, probe].
        """
        sizes = np.bincount(supply.labels)
        others = (supply.labels != np.arange(len(sizes))[:, None]).astype(np.float32)
        asr = []
        for of_line in refused:
            judged, unsafe = (
                np.tensordot(others, which.astype(np.float32), axes=(1, -1)).astype(float)
                for which in (~np.isnan(of_line), of_line == 0)
            )
            asr.append(np.where(judged > 0, 100.0 * unsafe / np.maximum(judged, 1.0), np.nan))
        now, alike = supply.now, 0.0
        added = [_with_added(of_line, now.probes / now.clusters) for of_line in refused]
        if now.clusters < now.probes:
            flat = np.concatenate([of_line.reshape(-1, now.probes) for of_line in refused])
            effect = design_effect(flat, supply.cluster_labels)
            alike = float(np.clip((effect - 1.0) / (now.probes / now.clusters - 1.0), 0.0, 1.0))
        return cls(asr, sizes / sizes.sum(), alike, added)


def _with_added(refused: np.ndarray, probes: float) -> np.ndarray:
    """Return the ASR of a line or plane with this number of probes more that refuse nowhere: [node on each axis]."""
    judged, unsafe = (~np.isnan(refused)).sum(axis=-1), (refused == 0).sum(axis=-1)
    return np.where(judged > 0, 100.0 * (unsafe + probes) / (judged + probes), np.nan)


@dataclass(frozen=True)
class Crossed:
    """Variance components of a number, by the analysis of variance of its pseudo-values ([line, group of probes]).

    Attributes:
        lines: Number of lines.
        probes: Sizes of the sample of probes.
        alike: Correlation of the verdicts on two probes of a cluster.
        direction: Variance between directions.
        probe: Variance of the mean over probes, between samples of probes. With one line it includes `mixed`.
        mixed: Variance of a line's mean over probes beyond these.
        variance: Variance of the number between samples of probes, as the jackknife estimates it.
        change: By how much one more cluster of probes that refuses nowhere changes the number.
    """

    lines: int
    probes: ProbeCounts
    alike: float
    direction: float
    probe: float
    mixed: float
    variance: float
    change: float

    @classmethod
    def of(cls, pseudo: np.ndarray, change: float, left_out: LeftOut, probes: ProbeCounts) -> Crossed:
        """Return the components of pseudo-values, whose groups may have different sizes (see `growth`).

        Args:
            pseudo: The pseudo-values, [line, group of probes].
            change: By how much one more cluster that refuses nowhere changes the number's mean over lines.
            left_out: What the pseudo-values are of.
            probes: Sizes of the sample.
        """
        lines, groups = pseudo.shape
        of_line = pseudo @ left_out.shares
        if groups == 1:
            return cls(lines, probes, left_out.alike, 0.0, 0.0, 0.0, 0.0, change)
        ratio = left_out.shares / (1.0 - left_out.shares)
        deviations = (pseudo - of_line[:, None]) * np.sqrt(ratio / groups)
        of_group = deviations.mean(axis=0)
        variance, mixed, direction = float(np.square(of_group).sum()), 0.0, 0.0
        if lines > 1:
            mixed = float(np.square(deviations - of_group).sum()) / (lines - 1)
            direction = max(float(of_line.var(ddof=1)) - mixed, 0.0)
        return cls(
            lines, probes, left_out.alike, direction, max(variance - mixed / lines, 0.0), mixed, variance, change
        )

    def change_of_spread(self, probes: ProbeCounts) -> float:
        """Return by which factor the standard deviation between directions changes with other probes."""
        now = self.direction + self.mixed
        return math.sqrt((self.direction + self.mixed * self._change(probes)) / now) if now > 0.0 else 1.0

    def half_width(self, lines: float, probes: ProbeCounts) -> float:
        """Return the half-width over new probes with these lines and probes. Infinity if the probes are too few.

        The variance is at least that of clusters of a kind that no probe shows yet. How many a new sample has is about
        Poisson's; the mean is taken to be that of one probe, as in `resampling`.
        """
        width = until.relative_half_width(probes.groups)
        if width is None:
            return math.inf
        now = self.probe + self.mixed / self.lines
        change = self._change(probes) * ((self.probe + self.mixed / lines) / now if now > 0.0 else 1.0)
        least = self.change * (self.probes.clusters + 1) / (probes.clusters + 1)
        unseen = least**2 * probes.clusters / probes.probes
        return width * math.sqrt(max(self.variance * change, unseen) * probes.groups)

    def _change(self, probes: ProbeCounts) -> float:
        """Return by which factor the variance of a mean over probes changes with other probes.

        That of n probes in C clusters is proportional to r / C + (1 - r) / n, where r is the correlation of two probes
        of a cluster.
        """
        then, now = (self.alike / each.clusters + (1.0 - self.alike) / each.probes for each in (probes, self.probes))
        return then / now
