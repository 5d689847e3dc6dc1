"""Correct the share of degenerate responses for the errors of the judge `degenerate`. Pure functions.

A calibration counts, on labeled responses of one model, how often the judge is right. With its sensitivity Se (share
of the degenerate responses that it calls degenerate) and specificity Sp (share of the others that it does not), a share
p of responses that it calls degenerate is corrected to (p + Sp - 1) / (Se + Sp - 1) (Rogan and Gladen, American Journal
of Epidemiology 107, 1978). That is done in strata of distance and length, whose weights are a sweep's own counts.
docs/statistics.md derives the interval.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from orchestrator.analysis.intervals import CONFIDENCE
from orchestrator.analysis.results.classes import CorrectedShare
from orchestrator.utils.records import JsonRecord

SCHEMA = "calibration/1"
MIN_LABELS = 20
"""Smallest number of labels in a stratum."""
MIN_LABELS_OF_A_KIND = 5
"""Smallest number of labels of degenerate responses, and of others, that users must give: with none of a kind, its rate
would be a guess."""
MAX_STRATA = 4
"""Largest number of strata of distance for one length."""
_KINDS = ("random_1d", "random_2d")


@dataclass(frozen=True)
class LabeledResponse:
    """A response that is not refused, with its label.

    Attributes:
        distance: Distance of its point from the origin: |alpha|, on a plane the root of alpha^2 + beta^2.
        max_tokens: Length limit of responses.
        degenerate: Whether it is labeled degenerate.
        called: Whether the judge calls it degenerate.
    """

    distance: float
    max_tokens: int
    degenerate: bool
    called: bool


@dataclass(frozen=True, kw_only=True)
class CalibrationStratum(JsonRecord):
    """The judge's rates on labeled responses of one length limit, at distances of `low` to `high`.

    Attributes:
        low: Smallest distance. It belongs to this stratum only if it is 0.
        high: Largest distance. It belongs to this stratum.
        max_tokens: Length limit of responses.
        found: Number of degenerate responses that the judge calls degenerate.
        missed: Number of degenerate responses that it does not.
        passed: Number of other responses that it does not call degenerate.
        alarms: Number of other responses that it calls degenerate.
    """

    low: float
    high: float
    max_tokens: int
    found: int
    missed: int
    passed: int
    alarms: int


@dataclass(frozen=True, kw_only=True)
class Calibration(JsonRecord):
    """The rates at which the judge `degenerate` is right about the successes of one model.

    Attributes:
        name: Name that reports show.
        fingerprint: Fingerprint of the model, as in study.json.
        norm: Scaling of the random directions that were labeled.
        degenerate_id: Id of the judge `degenerate`.
        degenerate_version: Its version.
        judge: Name of the judge that decided which responses are successes.
        source: Where the labels come from.
        strata: The rates, by length limit and distance.
    """

    schema: str = SCHEMA
    name: str
    fingerprint: str
    norm: str
    degenerate_id: str
    degenerate_version: int
    judge: str
    source: str
    strata: tuple[CalibrationStratum, ...]


@dataclass(frozen=True)
class CountedSuccesses:
    """The successes of a result at one distance and length limit.

    Attributes:
        distance: As in `LabeledResponse`, and so is `max_tokens`.
        successes: Number of responses that are not refused.
        called: Number of those that the judge calls degenerate.
    """

    distance: float
    max_tokens: int
    successes: int
    called: int


def make_strata(labeled: Iterable[LabeledResponse]) -> tuple[CalibrationStratum, ...]:
    """Return the judge's rates by length limit, and by distance in groups of neighboring distances.

    A group has at least MIN_LABELS labels and at least a MAX_STRATA-th of those of its length limit. A length limit
    with fewer labels than MIN_LABELS gets no stratum.
    """
    strata = []
    rows = sorted(labeled, key=lambda row: (row.max_tokens, row.distance))
    for max_tokens, of_length in itertools.groupby(rows, key=lambda row: row.max_tokens):
        by_distance = [list(group) for _, group in itertools.groupby(of_length, key=lambda row: row.distance)]
        size = max(MIN_LABELS, math.ceil(sum(map(len, by_distance)) / MAX_STRATA))
        groups: list[list[LabeledResponse]] = [[]]
        for members in by_distance:
            if len(groups[-1]) >= size:
                groups.append([])
            groups[-1] += members
        if len(groups) > 1 and len(groups[-1]) < size:
            last = groups.pop()
            groups[-1] += last
        if len(groups[0]) < MIN_LABELS:
            continue
        low = 0.0
        for i, group in enumerate(groups):
            high = group[-1].distance
            if i + 1 < len(groups):
                high = round((high + groups[i + 1][0].distance) / 2, 9)
            strata.append(_stratum(low, high, max_tokens, group))
            low = high
    return tuple(strata)


def _stratum(low: float, high: float, max_tokens: int, group: Sequence[LabeledResponse]) -> CalibrationStratum:
    def count(degenerate: bool, called: bool) -> int:
        return sum((row.degenerate, row.called) == (degenerate, called) for row in group)

    return CalibrationStratum(
        low=low,
        high=high,
        max_tokens=max_tokens,
        found=count(True, True),
        missed=count(True, False),
        passed=count(False, False),
        alarms=count(False, True),
    )


def why_not_covered(grid: Mapping[str, Any], norm: str) -> str | None:
    """Return why a calibration for random directions with this norm is not about a grid. None if it is.

    Args:
        grid: The grid as JSON.
        norm: Scaling of the directions that were labeled.
    """
    is_random = grid.get("kind") in _KINDS and grid.get("direction", "random") == "random" and not grid.get("match")
    if is_random and grid.get("norm") == norm:
        return None
    return f"the calibration is for random directions with norm {norm}"


def why_not_applicable(
    calibration: Calibration, fingerprint: str, grid: Mapping[str, Any], judge: str, degenerate_id: str
) -> str | None:
    """Return why a calibration is not about a result. None if it is.

    Args:
        calibration: The calibration.
        fingerprint: Fingerprint of the result's model.
        grid: The grid as JSON.
        judge: Name of the judge that decided which responses are successes.
        degenerate_id: Id of the judge `degenerate` whose verdicts count.
    """
    reason = why_not_covered(grid, calibration.norm)
    if calibration.fingerprint != fingerprint:
        reason = "no calibration of this model"
    elif calibration.degenerate_id != degenerate_id:
        reason = f"the calibration is for version {calibration.degenerate_version} of the judge `degenerate`"
    elif reason is None and calibration.judge != judge:
        reason = f"the calibration is for responses that the judge {calibration.judge} does not call refused"
    return reason


def correct(calibration: Calibration, counted: Iterable[CountedSuccesses]) -> CorrectedShare:
    """Return the corrected share of degenerate responses with its 95% interval."""
    strata = calibration.strata
    totals = np.zeros((len(strata), 2))
    for row in counted:
        if not row.successes:
            continue
        index = _find_stratum(strata, row)
        if index is None:
            where = f"responses of {row.max_tokens} tokens at a distance of {row.distance:g}"
            return CorrectedShare(reason=f"the calibration has no labels for {where}")
        totals[index] += (row.successes, row.called)
    used = totals[:, 0] > 0
    if not used.any():
        return CorrectedShare(reason="there is no success")
    rates = np.array([[s.found, s.missed, s.passed, s.alarms] for s in strata], dtype=float)
    value, half = _rogan_gladen(totals[:, 0], totals[:, 1], rates, used)
    if value is None:
        return CorrectedShare(reason="by the calibration, the judge is not better than chance")
    low, high = max(value - half, 0.0), min(value + half, 1.0)
    return CorrectedShare(
        value=100.0 * min(max(value, 0.0), 1.0),
        low=100.0 * min(low, 1.0),
        high=100.0 * max(high, 0.0),
        calibration=calibration.name,
    )


def _find_stratum(strata: Sequence[CalibrationStratum], row: CountedSuccesses) -> int | None:
    """Return the index of the stratum of these responses. None if none covers them."""
    for i, stratum in enumerate(strata):
        is_first = stratum.low == 0.0
        above = row.distance > stratum.low + 1e-9 or is_first
        if stratum.max_tokens == row.max_tokens and above and row.distance <= stratum.high + 1e-9:
            return i
    return None


def _rogan_gladen(n: np.ndarray, called: np.ndarray, rates: np.ndarray, used: np.ndarray) -> tuple[float | None, float]:
    """Return the corrected share over all strata and half the width of its interval, as proportions.

    Args:
        n: Number of responses by stratum.
        called: Number of those that are called degenerate.
        rates: found, missed, passed and alarms by stratum.
        used: Which strata have responses.

    Returns:
        None and 0 if Se + Sp <= 1 in a stratum that is used.
    """
    z = float(special.ndtri((1 + CONFIDENCE) / 2))
    found, missed, passed, alarms = rates.T
    se, sp = _shrunk(found, missed)[used], _shrunk(passed, alarms)[used]
    youden = se + sp - 1.0
    if (youden <= 0).any():
        return None, 0.0
    n, called = n[used], called[used]
    share = (called / n + sp - 1.0) / youden
    kept = np.clip(share, 0.0, 1.0)
    padded = (called + z**2 / 2) / (n + z**2)
    variance = (
        padded * (1.0 - padded) / (n + z**2)
        + kept**2 * _variance(found, missed)[used]
        + (1.0 - kept) ** 2 * _variance(passed, alarms)[used]
    ) / youden**2
    weight = n / n.sum()
    return float((weight * share).sum()), z * float(np.sqrt((weight**2 * variance).sum()))


def _shrunk(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    """Return a rate by stratum, with one label more that has the rate of all strata: some strata have no labels."""
    overall = (hits.sum() + 1.0) / ((hits + misses).sum() + 2.0)
    return np.asarray((hits + overall) / (hits + misses + 1.0))


def _variance(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    """Return the variance of a rate by stratum, with half a hit and half a miss more, so that it is never 0."""
    n = hits + misses + 1.0
    rate = (hits + 0.5) / n
    return np.asarray(rate * (1.0 - rate) / n)
