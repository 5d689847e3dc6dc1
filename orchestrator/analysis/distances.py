"""Distances of checkpoints in units of a basin's radius that another sweep of the same study has measured.

The unit is the mean radius over the random directions of one sweep. The smallest radius is not used, because a minimum
falls with the number of directions. The interval of a distance d follows from the interval of the mean radius over new
directions: from d / high to d / low.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.analysis.results.basin import Estimate
from orchestrator.analysis.results.checkpoints import MEAN_RADIUS, MatchedDistance
from orchestrator.analysis.results.keys import ResultKey
from orchestrator.analysis.results.sweep import SweepSummary

NO_BASIN = "no sweep of this study has looked for the basin along random directions: run +experiment=basin first"
NO_EDGE = "there is no basin around the model, or its edge was not reached"
NO_DISTANCE = "its distance from the model is not recorded"


def line_sweeps(summaries: Iterable[SweepSummary], primary: ResultKey) -> list[SweepSummary]:
    """Return the sweeps along random lines that have this primary result."""
    return [summary for summary in summaries if summary.grid["kind"] == "random_1d" and summary.primary == primary]


def random_basin(sweeps: Sequence[SweepSummary]) -> SweepSummary | None:
    """Return the sweep with the most directions among those along random directions with the norm `layer`.

    None if there is no such sweep.
    """
    random = [sweep for sweep in sweeps if sweep.grid.get("norm") == "layer" and "direction" not in sweep.grid]
    return max(random, key=_directions, default=None)


def matched_sweeps(sweeps: Sequence[SweepSummary], fingerprint: str | None) -> dict[str, SweepSummary]:
    """Return, for each kind of direction that matches a checkpoint (`grid.match`), the sweep with the most directions.

    Args:
        sweeps: Sweeps along random lines, as `line_sweeps` returns them.
        fingerprint: Content hash of the checkpoint. None: the point is not a checkpoint, and there are none.
    """
    kinds: dict[str, list[SweepSummary]] = {}
    for sweep in sweeps:
        if fingerprint is not None and sweep.grid.get("match", {}).get("fingerprint") == fingerprint:
            kinds.setdefault(sweep.grid["direction"], []).append(sweep)
    return {kind: max(kinds[kind], key=_directions) for kind in sorted(kinds)}


def matched_distance(kind: str, sweep: SweepSummary) -> MatchedDistance:
    """Return the distance of a checkpoint in radii along the random directions of a sweep that match it.

    Such a direction is as long as the checkpoint's displacement at coordinate 1.
    """
    distance = in_radii(1.0, sweep.basin.mean_radius)
    return MatchedDistance(
        direction=kind,
        radii=distance.value,
        radii_low=distance.low,
        radii_high=distance.high,
        mean_radius=sweep.basin.mean_radius,
        directions=len(sweep.basin.by_direction),
        sweep_id=sweep.sweep_id,
        reason=distance.reason,
    )


def in_radii(distance: float | None, radius: Estimate) -> Estimate:
    """Return a distance in units of a mean radius, with the interval that the radius implies.

    All three are None, with the reason, if the radius is None or 0, or if the distance is None. The upper end is None
    if the lower end of the radius is 0 or None.
    """
    if not radius.value:
        return Estimate(reason=radius.reason or NO_EDGE)
    if distance is None:
        return Estimate(reason=NO_DISTANCE)
    return Estimate(
        value=distance / radius.value,
        low=distance / radius.high if radius.high else None,
        high=distance / radius.low if radius.low else None,
        reason=radius.reason,
    )


def changed_radii(before: Mapping[str, Any], after: SweepSummary) -> list[str]:
    """Return a sentence if the stored summary gives distances in a different unit than today.

    Args:
        before: The summary that is stored, as JSON. It may lack fields, as those of earlier versions do.
        after: The summary of the same sweep, reduced again.
    """
    earlier = {
        checkpoint["mark"]: checkpoint["radii"]
        for checkpoint in before.get("checkpoints", ())
        if checkpoint.get("radii") is not None and checkpoint.get("radii_unit") != MEAN_RADIUS
    }
    changes = [
        f"{checkpoint.mark} from {earlier[checkpoint.mark]:.3g} to {checkpoint.radii:.3g}"
        for checkpoint in after.checkpoints
        if checkpoint.mark in earlier and checkpoint.radii is not None
    ]
    reason = "because the unit is now the mean radius over directions and not the smallest (docs/statistics.md)"
    return [f"distances in radii changed, {', '.join(changes)}, {reason}"] if changes else []


def _directions(sweep: SweepSummary) -> int:
    return int(sweep.grid["directions"])
