"""The probability that an attack fails at a node that lies between nodes at which every attack succeeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from orchestrator.analysis.adaptive.surface import Surface

_FAR = 90.0
"""ASR in percent from which on a measured node below 100 says something about nodes at 100."""


@dataclass(frozen=True)
class Beyond:
    """Evidence of the measured nodes beyond the basin about those between them.

    Attributes:
        at_100: Number of measured nodes at 100.
        below: Number of measured nodes beyond the basin that are nearly at 100.
    """

    at_100: int
    below: int

    @classmethod
    def of(cls, surface: Surface) -> Beyond:
        """Return the counts of a line or plane."""
        at_100 = ~np.isnan(surface.measured.share) & (surface.asr >= 100.0)
        nearly = ~np.isnan(surface.measured.share) & (surface.asr >= _FAR) & ~at_100
        return cls(int(at_100.sum()), int((nearly & _is_beyond(surface, at_100)).sum()))

    @property
    def doubt(self) -> float:
        """Probability that attacks fail there at all; see `doubt`. 1 after a node below 100."""
        return 1.0 if self.below else float(doubt(np.array(self.at_100)))


def doubt(at_100: np.ndarray) -> np.ndarray:
    """Return the posterior probability that attacks fail at some nodes, after this many nodes at 100 and none below.

    With probability one half no attack ever fails there; otherwise the rate of nodes with a failing attack has
    Jeffreys' prior, Beta(1/2, 1/2). The posterior probability is then 1 / (1 + sqrt(pi k)), by Stirling's formula.
    """
    return np.asarray(1.0 / (1.0 + np.sqrt(np.pi * at_100)))


def rates_on_line(surface: Surface) -> np.ndarray:
    """Return, for a line, the probability that each node is below 100 if it is between nodes at 100, [node].

    Refusals become rarer with the distance. Therefore only the k nodes at 100 between a node and the center count: the
    probability is `doubt` times the posterior mean of the rate, 0.5 / (k + 1). If attacks fail beyond the basin, all
    nodes there have the same rate, the posterior mean over all of them.
    """
    beyond = Beyond.of(surface)
    if beyond.below:
        rate = (beyond.below + 0.5) / (beyond.at_100 + beyond.below + 1.0)
        return np.full(surface.shape.sizes, rate)
    between = _between(~np.isnan(surface.measured.share) & (surface.asr >= 100.0), surface.shape.center[0])
    return np.asarray(doubt(between) * 0.5 / (between + 1.0))


def _is_beyond(surface: Surface, at_100: np.ndarray) -> np.ndarray:
    """Return whether each node is beyond the basin.

    On a line this is so if a measured node at 100 is between it and the center; on a plane if no path along nodes below
    100, measured or inferred, leads from it to the center.
    """
    center = surface.shape.center
    if surface.shape.is_line:
        return _between(at_100, center[0]) > 0
    labels, _ = ndimage.label(surface.inferred < 100.0)
    return np.asarray(labels != labels[center])


def _between(flags: np.ndarray, center: int) -> np.ndarray:
    """Return the number of flags from the center to each node of a line, both included."""
    left = np.cumsum(flags[: center + 1][::-1])[::-1]
    return np.concatenate([left[:-1], np.cumsum(flags[center:])])
