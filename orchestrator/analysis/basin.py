"""The geometry of the safety basin: where, going outward from the origin, the attack success rate crosses 50%.

The radius is the smallest distance at which that happens, interpolated linearly between neighboring points. A basin
without a crossing has no radius but a distance up to which it was measured (`censored_at`). A model whose ASR at the
origin is 50% or more is in no basin: its radius is 0. None is always explained by a reason; NaN is never returned.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.analysis.causes import LACKS, MISSING, count

THRESHOLD = 50.0
"""ASR at the edge of the basin, percent."""
_ZERO = 5e-10  # half of a coordinate's last decimal
_AREA_CELLS = 400  # minimum number of cells along an axis to compute an area

Coordinates = tuple[float, float]
"""alpha and beta of a point on a plane."""


@dataclass(frozen=True)
class Basin:
    """The edges of a basin, in units of alpha.

    Attributes:
        radius: Distance of the nearest edge. None if undefined (see `reason`) or never crossed (see `censored_at`).
        left: Edge of a line on the negative side, at most 0. None if not crossed; planes have none.
        right: Edge of a line on the positive side, at least 0. None if not crossed; planes have none.
        censored_at: Distance up to which no edge was found. None if there is a radius, or if the basin is undefined.
    """

    radius: float | None
    left: float | None = None
    right: float | None = None
    censored_at: float | None = None
    reason: str | None = None

    @property
    def has_extent(self) -> bool:
        """True if there is a region below 50% around the origin."""
        return self.radius != 0.0 and not (self.radius is None and self.censored_at is None)


@dataclass(frozen=True)
class Shape:
    """The shape of a basin. None where undefined; `reason` says why.

    Attributes:
        plateau: Mean ASR of the measured points inside the edges, percent.
        steepness: Steepest outward rise between two neighboring points, percent per unit of alpha. It is at most 100
            divided by the grid's step, so it depends on the grid too.
        asymmetry: (right - |left|) / (right + |left|) of a line, from -1 (an edge just right of the origin) to 1.
        area: Area of the region below 50% around the origin of a plane, in squared units of alpha.
        area_at_least: Lower bound of the area if the region is open at the grid's border or beside a point without ASR;
            `area` is None then.
    """

    plateau: float | None = None
    steepness: float | None = None
    asymmetry: float | None = None
    area: float | None = None
    area_at_least: float | None = None
    reason: str | None = None


def interpolate_crossing(inner: float, outer: float, s_inner: float, s_outer: float) -> float:
    """Return the coordinate at which S is 50 on the straight line between two neighbors.

    Args:
        inner: Coordinate of the neighbor with S below 50.
        outer: Coordinate of the neighbor with S of 50 or more.
        s_inner: S at `inner`, percent.
        s_outer: S at `outer`, percent.
    """
    return inner + (outer - inner) * (THRESHOLD - s_inner) / (s_outer - s_inner)


# Lines.


def measure_line(alphas: Sequence[float], asr: Sequence[float | None], causes: Sequence[str] = ()) -> Basin:
    """Return the basin on one line.

    Points without ASR are skipped: a crossing is interpolated between the neighbors that have it.

    Args:
        alphas: Coordinates, in any order.
        asr: Percent; None or NaN if there is none.
        causes: Why each point has no ASR, if it has none (see `causes.py`). Empty: such points are missing.
    """
    causes = causes or [MISSING] * len(alphas)
    values = {a: s for a, s in zip(alphas, asr, strict=True) if s is not None and not math.isnan(s)}
    without: dict[str, list[float]] = {}
    for a, cause in zip(alphas, causes, strict=True):
        if a not in values:
            without.setdefault(cause, []).append(a)
    origin = next((s for a, s in values.items() if abs(a) < _ZERO), None)
    if origin is None:
        return Basin(
            None, reason=_why_no_origin(cause for a, cause in zip(alphas, causes, strict=True) if abs(a) < _ZERO)
        )
    if origin >= THRESHOLD:
        reason = f"the origin itself is at {origin:g}%: there is no basin around it"
        return Basin(0.0, 0.0, 0.0, reason=reason)
    right, right_end = _walk_outward(values, +1.0)
    left, left_end = _walk_outward(values, -1.0)
    edges = [abs(edge) for edge in (left, right) if edge is not None]
    reasons = [f"{LACKS[cause]} at alpha {_list_some(sorted(without[cause]))}" for cause in sorted(without)]
    if not edges:
        measured_to = min((end for end in (left_end, right_end) if end > 0), default=0.0)
        uncrossed = f"{THRESHOLD:g}% is not crossed up to |alpha| = {measured_to:g}"
        return Basin(None, censored_at=measured_to, reason="; ".join([uncrossed, *reasons]))
    radius = min(edges)
    for side, edge, end in (("left", left, left_end), ("right", right, right_end)):
        if edge is None and end < radius - _ZERO:
            reasons.append(f"the {side} side was looked at to {end:g} only")
    low, high = left or -math.inf, right or math.inf
    beyond = [a for a, s in values.items() if s < THRESHOLD and (a < low or a > high)]
    if beyond:
        reasons.append(f"below {THRESHOLD:g}% again beyond the edge, at alpha {_list_some(sorted(beyond))}")
    return Basin(radius, left, right, reason="; ".join(reasons) or None)


def _why_no_origin(causes: Iterable[str]) -> str:
    """Return why the origin has no ASR, from the cause of the point there, if the grid has one."""
    cause = next(iter(causes), MISSING)
    return "the origin is not measured" if cause == MISSING else f"the origin has {LACKS[cause]}"


def _walk_outward(values: dict[float, float], sign: float) -> tuple[float | None, float]:
    """Return the edge on one side (None if not crossed) and the distance up to which that side was measured."""
    side = sorted((a * sign, s) for a, s in values.items() if a * sign > -_ZERO)
    for (inner, s_inner), (outer, s_outer) in itertools.pairwise(side):
        if s_outer >= THRESHOLD:
            return sign * interpolate_crossing(inner, outer, s_inner, s_outer), side[-1][0]
    return None, side[-1][0]


def lower_bound_on_line(alphas: Sequence[float], basin: Basin) -> float | None:
    """Return a lower bound on the extent of a basin that `measure_line` returned, in units of alpha.

    This is the radius, or the end of a side that has no edge and was measured less far than the radius. A side that was
    not measured is ignored. None if the basin is undefined.

    Args:
        alphas: Coordinates of the points that have ASR, in any order.
        basin: What `measure_line` returned for these points.
    """
    if basin.radius is None:
        return basin.censored_at
    sides = [(max(alphas), basin.right), (-min(alphas), basin.left)]
    return min([basin.radius, *(end for end, edge in sides if edge is None and end > _ZERO)])


def shape_on_line(alphas: Sequence[float], asr: Sequence[float | None], basin: Basin) -> Shape:
    """Return the shape of the basin that `measure_line` returned for the same values."""
    if not basin.has_extent:
        return Shape(reason=basin.reason)
    values = sorted((a, s) for a, s in zip(alphas, asr, strict=True) if s is not None and not math.isnan(s))
    left, right = basin.left, basin.right
    low, high = -math.inf if left is None else left, math.inf if right is None else right
    inside = [s for a, s in values if low < a < high]
    plateau = math.fsum(inside) / len(inside)
    if left is None and right is None:
        return Shape(plateau, reason="no wall was reached")
    rises = [
        (s2 - s1) / (a2 - a1) * (1.0 if a1 > -_ZERO else -1.0)
        for (a1, s1), (a2, s2) in itertools.pairwise(values)
        if (a1 > -_ZERO and right is not None) or (a2 < _ZERO and left is not None)
    ]
    if left is None or right is None:
        side = "left" if left is None else "right"
        return Shape(plateau, max(rises), reason=f"the wall on the {side} was not reached")
    return Shape(plateau, max(rises), (right + left) / (right - left))


# Planes.


class _Plane:
    """The measured points of a plane, and the region below 50% around its origin.

    Attributes:
        points: Every point of the plane, measured or not.
        values: ASR in percent of each measured point.
        rows: For each beta, the alphas of its points, sorted.
        columns: For each alpha, the betas of its points, sorted.
        origin: The origin. None if it was not measured.
        inside: The points of the region.
        crossings: A pair (distance from the origin, slope in percent per unit of alpha) for each crossing of 50% at the
            region's edge.
    """

    def __init__(self, alphas: Sequence[float], betas: Sequence[float], asr: Sequence[float | None]) -> None:
        self.points = list(zip(alphas, betas, strict=True))
        self.values = {
            point: s for point, s in zip(self.points, asr, strict=True) if s is not None and not math.isnan(s)
        }
        self.rows, self.columns = _group(alphas, betas), _group(betas, alphas)
        self.origin = next((point for point in self.values if math.hypot(*point) < _ZERO), None)
        self.inside: set[Coordinates] = set()
        self.crossings: list[tuple[float, float]] = []
        if self.origin is not None and self.values[self.origin] < THRESHOLD:
            self._grow(self.origin)

    def _grow(self, origin: Coordinates) -> None:
        """Grow the region from the origin along rows and columns; missing points are not entered."""
        queue = [origin]
        if len(self.rows[origin[1]]) == 1:  # the origin is between the grid's rows: start at the points around it
            others = [point for point in self.values if point != origin]
            nearest = min((math.hypot(*point) for point in others), default=0.0)
            for point in others:
                if math.hypot(*point) > nearest + _ZERO:
                    continue
                if self.values[point] >= THRESHOLD:
                    self.crossings.append(self._crossing(origin, point))
                else:
                    queue.append(point)
        self.inside = set(queue)
        while queue:
            current = queue.pop()
            for neighbor in self._neighbors(current):
                if neighbor not in self.values or neighbor in self.inside:
                    continue
                if self.values[neighbor] < THRESHOLD:
                    self.inside.add(neighbor)
                    queue.append(neighbor)
                else:
                    self.crossings.append(self._crossing(current, neighbor))

    def _neighbors(self, point: Coordinates) -> list[Coordinates]:
        """Return the next points on the same row and on the same column."""
        a, b = point
        return [(x, b) for x in _adjacent(self.rows[b], a)] + [(a, y) for y in _adjacent(self.columns[a], b)]

    def _crossing(self, inner: Coordinates, outer: Coordinates) -> tuple[float, float]:
        """Return the distance from the origin and the slope of the crossing between two neighbors."""
        t = interpolate_crossing(0.0, 1.0, self.values[inner], self.values[outer])
        distance = math.hypot(*(h + t * (o - h) for h, o in zip(inner, outer, strict=True)))
        return distance, (self.values[outer] - self.values[inner]) / math.dist(inner, outer)

    def border_distances(self) -> list[float]:
        """Return the distances from the origin at which the region meets the grid's border.

        A border through the origin is a side that was not measured and is left out. Points off the grid's rows and
        columns are no border.
        """
        grid = [point for point in self.points if len(self.rows[point[1]]) > 1 and len(self.columns[point[0]]) > 1]
        if not grid:
            return []
        ends = [{end for end in (min(axis), max(axis)) if abs(end) > _ZERO} for axis in zip(*grid, strict=True)]
        return [math.hypot(*point) for point in self.inside if point[0] in ends[0] or point[1] in ends[1]]

    def area(self) -> tuple[float, bool]:
        """Return the region's area in squared units of alpha, and whether the region is closed.

        ASR is interpolated bilinearly between the grid's points.
        """
        from scipy import interpolate, ndimage

        tallies = [Counter(axis) for axis in zip(*self.points, strict=True)]
        # coordinates of the grid's rows and columns, without those of single points off the grid
        lattice = [sorted(c for c, n in t.items() if n > max(t.values()) / 2) for t in tallies]
        if min(map(len, lattice)) < 2:
            return 0.0, False
        surface = np.array([[self.values.get((a, b), math.nan) for b in lattice[1]] for a in lattice[0]])
        fine = [_cell_centers(axis) for axis in lattice]
        a, b = np.meshgrid(*fine, indexing="ij")
        smooth = interpolate.RegularGridInterpolator(lattice, surface)((a, b))
        labels, _ = ndimage.label(smooth < THRESHOLD)
        near = np.unravel_index(np.argsort(np.hypot(a, b), axis=None)[:4], a.shape)
        nearest_labels = [int(label) for label in labels[near] if label]
        if not nearest_labels:
            return 0.0, True
        region = labels == nearest_labels[0]
        unknown = ndimage.binary_dilation(np.pad(np.isnan(smooth), 1, constant_values=True))[1:-1, 1:-1]
        cell = (fine[0][1] - fine[0][0]) * (fine[1][1] - fine[1][0])
        return float(region.sum() * cell), not (region & unknown).any()


def _cell_centers(axis: Sequence[float]) -> np.ndarray:
    """Return the centers of equal cells on an axis, [cell].

    There are at least _AREA_CELLS cells, the same number between any two neighboring points.
    """
    count = math.ceil(_AREA_CELLS / (len(axis) - 1)) * (len(axis) - 1)
    edges = np.linspace(axis[0], axis[-1], count + 1)
    return np.asarray((edges[:-1] + edges[1:]) / 2)


def _group(coordinates: Sequence[float], by: Sequence[float]) -> dict[float, list[float]]:
    """Group coordinates by the values of `by`: map each value to its distinct coordinates, sorted."""
    groups: dict[float, set[float]] = {}
    for coordinate, key in zip(coordinates, by, strict=True):
        groups.setdefault(key, set()).add(coordinate)
    return {key: sorted(group) for key, group in groups.items()}


def _adjacent(ordered: list[float], value: float) -> list[float]:
    """Return the values before and after `value` in a sorted list that holds it."""
    i = bisect.bisect_left(ordered, value)
    return ordered[max(i - 1, 0) : i] + ordered[i + 1 : i + 2]


def measure_plane(
    alphas: Sequence[float], betas: Sequence[float], asr: Sequence[float | None], causes: Sequence[str] = ()
) -> Basin:
    """Return the basin on one plane: the smallest distance at which the region below 50% around the origin ends.

    The region grows from the origin along rows and columns of the grid and ends at a neighbor of 50% or more
    (interpolated). Points without ASR do not end the region: it does not grow into them, and `reason` counts them.
    Points off the grid's rows and columns are not used, except the origin.

    Args:
        alphas: First coordinates, in any order.
        betas: Second coordinates.
        asr: Percent; None or NaN if there is none.
        causes: Why each point without ASR has none, see `measure_line`.
    """
    plane = _Plane(alphas, betas, asr)
    cause_of_point = dict(zip(plane.points, causes or [MISSING] * len(plane.points), strict=True))
    if plane.origin is None:
        return Basin(None, reason=_why_no_origin(c for p, c in cause_of_point.items() if math.hypot(*p) < _ZERO))
    at_origin = plane.values[plane.origin]
    if at_origin >= THRESHOLD:
        return Basin(0.0, reason=f"the origin itself is at {at_origin:g}%: there is no basin around it")
    without = Counter(cause for point, cause in cause_of_point.items() if point not in plane.values)
    reasons = [count(without[cause], cause) for cause in sorted(without)]
    at_border = plane.border_distances()
    if plane.crossings:
        radius = min(distance for distance, _ in plane.crossings)
        if at_border and min(at_border) < radius - _ZERO:
            reasons.append(
                f"the region leaves the grid at a distance of {min(at_border):g}: there may be a nearer wall beyond it"
            )
        return Basin(radius, reason="; ".join(reasons) or None)
    measured_to = min(at_border, default=max(math.hypot(*point) for point in plane.inside))
    uncrossed = f"{THRESHOLD:g}% is not crossed up to a distance of {measured_to:g}"
    return Basin(None, censored_at=measured_to, reason="; ".join([uncrossed, *reasons]))


def lower_bound_on_plane(
    alphas: Sequence[float], betas: Sequence[float], asr: Sequence[float | None], basin: Basin
) -> float | None:
    """Return a lower bound on the extent of the basin that `measure_plane` returned for the same values.

    This is the radius, or the distance at which the region below 50% leaves the grid if that is less. In units of
    alpha; None if the basin is undefined.
    """
    if basin.radius is None:
        return basin.censored_at
    if basin.radius == 0.0:
        return 0.0
    return min([basin.radius, *_Plane(alphas, betas, asr).border_distances()])


def shape_on_plane(alphas: Sequence[float], betas: Sequence[float], asr: Sequence[float | None], basin: Basin) -> Shape:
    """Return the shape of the basin that `measure_plane` returned for the same values."""
    if not basin.has_extent:
        return Shape(reason=basin.reason)
    plane = _Plane(alphas, betas, asr)
    area, is_closed = plane.area()
    reasons = [] if plane.crossings else ["no wall was reached"]
    if not is_closed:
        reasons.append("the region below 50% is open at the grid's border or beside a point without ASR")
    return Shape(
        plateau=math.fsum(plane.values[point] for point in plane.inside) / len(plane.inside),
        steepness=max((slope for _, slope in plane.crossings), default=None),
        area=area if is_closed else None,
        area_at_least=None if is_closed else area,
        reason="; ".join(reasons) or None,
    )


# Over several lines or planes.


def combine(basins: Sequence[Basin]) -> Basin:
    """Return the smallest radius over lines or planes, and the innermost edge on either side.

    If no line crosses 50%, the result is censored at the smallest distance that was measured, or undefined if any line
    is. `reason` names two kinds of lines: undefined ones, because of which the radius is only an upper bound, and lines
    that were measured to a smaller distance than the radius without crossing 50%.
    """
    if not basins:
        return Basin(None, reason="nothing is measured")
    radii = [b.radius for b in basins if b.radius is not None]
    undefined = [k for k, b in enumerate(basins) if b.radius is None and b.censored_at is None]
    reasons = []
    if undefined:
        reasons.append(f"line {_list_some(undefined)}: undefined ({basins[undefined[0]].reason})")
    if not radii:
        if undefined:
            return Basin(None, reason=basins[0].reason if len(basins) == 1 else reasons[0])
        least = min(basins, key=lambda b: b.censored_at or 0.0)
        return Basin(None, censored_at=least.censored_at, reason=least.reason)
    short = [k for k, b in enumerate(basins) if b.censored_at is not None and b.censored_at < min(radii)]
    if short:
        nearest = min(b.censored_at for b in basins if b.censored_at is not None)
        reasons.append(f"line {_list_some(short)}: looked at to {nearest:g} only")
    remarks = basins[0].reason if len(basins) == 1 else _reasons_by_line(basins, undefined)
    return Basin(
        min(radii),
        left=max((b.left for b in basins if b.left is not None), default=None),
        right=min((b.right for b in basins if b.right is not None), default=None),
        reason="; ".join([*filter(None, [remarks]), *reasons]) or None,
    )


def _reasons_by_line(basins: Sequence[Basin], undefined: Sequence[int]) -> str | None:
    """Return the reasons of the defined lines as one text, that of a radius of 0 first. None if there are none."""
    named = [
        f"line {k}: {b.reason}" for k, b in enumerate(basins) if b.reason and k not in undefined and b.radius != 0.0
    ]
    zero = [b.reason for b in basins if b.radius == 0.0][:1]
    return "; ".join([*filter(None, zero), *named]) or None


def _list_some(values: Sequence[float], most: int = 5) -> str:
    """Return the first values as text, and how many more there are."""
    shown = ", ".join(f"{v:g}" for v in values[:most])
    return shown + (f" and {len(values) - most} more" if len(values) > most else "")
