"""One request: a grid x prompt sets x judges. Pure values; answers are views of what is stored.

A grid lays lines or planes of nodes; a node is a point with coordinates. Two nodes may share a
point (every line's origin is one point), so points are measured once and coordinates belong here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.sweep.points import DECIMALS, Direction, Point, RandomDirection, TowardsDirection
from orchestrator.sweep.tasks import Task
from orchestrator.utils.choices import GridKind, Norm
from orchestrator.utils.hashing import content_id

# Fields that change nothing under a kind of grid: they stay out of its identity.
_RANDOM = ("directions", "seed", "norm", "exclude")
_WITHOUT_EFFECT: dict[GridKind, tuple[str, ...]] = {
    GridKind.random_1d: ("range_y", "orthogonal", "towards", "eq4"),
    GridKind.random_2d: ("towards", "eq4"),
    GridKind.interpolate_1d: (*_RANDOM, "range_y", "orthogonal", "eq4"),
    GridKind.interpolate_2d: (*_RANDOM, "orthogonal"),
    GridKind.interpolate_random: ("orthogonal", "eq4"),
}


@dataclass(frozen=True, slots=True)
class Node:
    """A point with its coordinates on line or plane `line`; `beta` and `seed_y` are None on a line, a seed where the
    axis is not random. `mark` names what stands there: a checkpoint's label, or nothing. `projected`: it stands beside
    the line or plane, and the coordinates are of the nearest place on it."""

    line: int
    alpha: float
    beta: float | None
    on_grid: bool
    seed_x: int | None
    seed_y: int | None
    point: Point
    mark: str = ""
    projected: bool = False


@dataclass(frozen=True)
class Beside:
    """A checkpoint that is measured and shown, but spans no axis: its coordinates on the first line or plane."""

    direction: TowardsDirection
    alpha: float
    beta: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"direction": self.direction.to_json(), "alpha": self.alpha, "beta": self.beta}


@dataclass(frozen=True)
class Grid:
    """Where a sweep looks: lines or planes of `steps` + 1 points an axis, over `range` (and `range_y`).

    random_1d, random_2d: `directions` of them; line k has the random direction of seed + k, plane k those of
    seed + 2k and seed + 2k + 1 (the second made `orthogonal` to the first). interpolate_1d: a line from the base
    towards each of `towards`, coordinate 1 being that checkpoint. interpolate_2d: one plane, towards two of them:
    their coefficients, or with `eq4` = (c, s) the paper's Eq. 4, where the second axis is s (d2 - c d1).
    interpolate_random: planes of the way towards one beside the random direction of seed + k. `beside`: checkpoints
    of a trajectory, shown at their projections. `hidden`: ends that are axes only (a principal plane's): not measured.
    """

    kind: GridKind = GridKind.random_1d
    steps: int = 20
    range: tuple[float, float] = (-0.5, 0.5)
    range_y: tuple[float, float] | None = None
    directions: int = 3
    seed: int = 123
    norm: Norm = Norm.layer
    exclude: tuple[str, ...] = ("norm",)
    orthogonal: bool = True
    towards: tuple[TowardsDirection, ...] = ()
    eq4: tuple[float, float] | None = None
    beside: tuple[Beside, ...] = ()
    hidden: bool = False

    def __post_init__(self) -> None:
        needed = {GridKind.interpolate_2d: 2, GridKind.interpolate_random: 1}.get(self.kind)
        assert needed in (None, len(self.towards)), f"{self.kind} goes towards {needed}, not {len(self.towards)}"
        assert self.kind != GridKind.interpolate_1d or self.towards, "interpolate_1d goes towards something"

    @property
    def is_plane(self) -> bool:
        return self.kind not in (GridKind.random_1d, GridKind.interpolate_1d)

    @property
    def lines(self) -> int:
        """How many lines or planes there are."""
        return {GridKind.interpolate_1d: len(self.towards), GridKind.interpolate_2d: 1}.get(self.kind, self.directions)

    def to_json(self) -> dict[str, Any]:
        """What of it has an effect."""
        value = asdict(self) | {
            "kind": str(self.kind),
            "norm": str(self.norm),
            "towards": [direction.to_json() for direction in self.towards],
            "beside": [each.to_json() for each in self.beside],
        }
        unset = [key for key in ("beside", "hidden") if not getattr(self, key)]
        return {key: item for key, item in value.items() if key not in (*_WITHOUT_EFFECT[self.kind], *unset)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> Grid:
        """The grid that `to_json` described, JSON's lists turned back into tuples. `labels`: fingerprint -> label."""
        fields: dict[str, Any] = {k: tuple(item) if isinstance(item, list) else item for k, item in value.items()}

        def towards(d: Mapping[str, Any]) -> TowardsDirection:
            return TowardsDirection(d["fingerprint"], (labels or {}).get(d["fingerprint"], ""))

        fields |= {key: choices(value[key]) for key, choices in (("kind", GridKind), ("norm", Norm)) if key in value}
        fields["towards"] = tuple(map(towards, value.get("towards", ())))
        fields["beside"] = tuple(
            Beside(towards(each["direction"]), each["alpha"], each["beta"]) for each in value.get("beside", ())
        )
        return cls(**fields)

    def axes(self, k: int) -> tuple[Direction, Direction | None]:
        """The direction of line k, or the two directions of plane k."""
        return self._axes[k]

    @functools.cached_property
    def _axes(self) -> tuple[tuple[Direction, Direction | None], ...]:
        """Made once, so that a million points hold one direction, not a million."""
        return tuple(self._axes_of(k) for k in range(self.lines))

    def _axes_of(self, k: int) -> tuple[Direction, Direction | None]:
        match self.kind:
            case GridKind.random_1d:
                return RandomDirection(self.seed + k, self.norm, self.exclude), None
            case GridKind.random_2d:
                x = RandomDirection(self.seed + 2 * k, self.norm, self.exclude)
                beside = x.seed if self.orthogonal else None
                return x, RandomDirection(self.seed + 2 * k + 1, self.norm, self.exclude, beside)
            case GridKind.interpolate_1d:
                return self.towards[k], None
            case GridKind.interpolate_2d:
                return self.towards[0], self.towards[1]
            case GridKind.interpolate_random:
                return self.towards[0], RandomDirection(self.seed + k, self.norm, self.exclude)

    def at(self, k: int, alpha: float, beta: float | None = None) -> Point:
        """The point with these coordinates on line or plane k."""
        x, y = self.axes(k)
        if y is None or beta is None:
            return Point.at([(x, alpha)])
        if self.kind == GridKind.interpolate_2d and self.eq4 is not None:
            c, s = self.eq4
            return Point.at([(x, alpha - beta * s * c), (y, beta * s)])
        return Point.at([(x, alpha), (y, beta)])

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node in the order of the picture, made anew each time: a million of them take half a gigabyte."""
        return tuple(self.walk())

    def walk(self) -> Iterator[Node]:
        """The nodes, one after another. The origin is on every line, off the grid if need be, and so are the
        checkpoints that a line or plane goes towards."""
        return (node for k in range(self.lines) for node in self._nodes_of(k))

    def _nodes_of(self, k: int) -> Iterator[Node]:
        x, y = self.axes(k)
        seed_x, seed_y = (d.seed if isinstance(d, RandomDirection) else None for d in (x, y))
        alphas = spaced(self.range, self.steps)
        betas = spaced(self.range_y or self.range, self.steps) if y is not None else (None,)
        off_grid = {point.id: mark for *_, point, mark in self.landmarks(k)}
        for beta in betas:
            for alpha in alphas:
                point = self.at(k, alpha, beta)
                yield Node(k, alpha, beta, True, seed_x, seed_y, point, off_grid.pop(point.id, ""))
        for alpha, beta, point, mark in self.landmarks(k):
            if point.id in off_grid:
                yield Node(k, alpha, beta, False, seed_x, seed_y, point, mark)
        for each in self.beside if k == 0 else ():
            point = Point.at([(each.direction, 1.0)])
            yield Node(k, each.alpha, each.beta, False, seed_x, seed_y, point, each.direction.label, projected=True)

    def landmarks(self, k: int) -> list[tuple[float, float | None, Point, str]]:
        """(alpha, beta, point, label) of the origin of line or plane k and of each checkpoint on it."""
        x, y = self.axes(k)
        zero = None if y is None else 0.0
        found: list[tuple[float, float | None, Point, str]] = [(0.0, zero, self.at(k, 0.0, zero), "")]
        if self.hidden:
            return found
        if isinstance(x, TowardsDirection):
            found.append((1.0, zero, self.at(k, 1.0, zero), x.label))
        if isinstance(y, TowardsDirection):
            c, s = self.eq4 or (0.0, 1.0)  # d2 = c d1 + d2' / s
            found.append((round(c, DECIMALS), round(1 / s, DECIMALS), Point.at([(y, 1.0)]), y.label))
        return found

    @property
    def directions_used(self) -> tuple[RandomDirection, ...]:
        """Every random direction that a point of this grid needs, once: those whose scalars are measured."""
        axes = (d for k in range(self.lines) for d in self.axes(k))
        return tuple(dict.fromkeys(d for d in axes if isinstance(d, RandomDirection)))

    def points(self) -> list[Point]:
        """Every point once, origin first, then coarse to fine: an interrupted sweep is still a landscape."""
        nodes = sorted(self.nodes, key=self._fineness)
        return list(dict.fromkeys(node.point for node in nodes))

    def _fineness(self, node: Node) -> tuple[int, int]:
        if node.point.is_origin:
            return -2, 0
        if node.mark or not node.on_grid:
            return -1, node.line
        levels = [self._level(node.alpha, self.range)]
        if node.beta is not None:
            levels.append(self._level(node.beta, self.range_y or self.range))
        return max(levels), node.line

    def _level(self, value: float, bounds: tuple[float, float]) -> int:
        """0 for the ends and the middle, then one more for every halving of the distance between neighbours."""
        index = round((value - bounds[0]) / (bounds[1] - bounds[0]) * self.steps)
        offset = index - self.steps // 2
        if index in (0, self.steps) or offset == 0:
            return 0
        halvings = (offset & -offset).bit_length() - 1
        return max(self.steps.bit_length() - halvings, 1)


def spaced(bounds: tuple[float, float], steps: int) -> tuple[float, ...]:
    """`steps` + 1 equally spaced values, ends included, rounded as a point's coefficients are."""
    low, high = bounds
    return tuple(round(low + (high - low) * i / steps, DECIMALS) + 0.0 for i in range(steps + 1))


@dataclass(frozen=True)
class Sweep:
    """A grid x prompt sets x judges. `name` is for people and in the folder's name only."""

    grid: Grid
    prompt_set_ids: tuple[str, ...]
    judges: tuple[str, ...] = ("keyword",)
    name: str = field(default="sweep", compare=False)

    def to_json(self) -> dict[str, Any]:
        """The request: all that is needed to know the tasks again."""
        return {"grid": self.grid.to_json(), "prompt_set_ids": list(self.prompt_set_ids), "judges": list(self.judges)}

    @classmethod
    def from_json(cls, value: dict[str, Any], name: str = "sweep", labels: Mapping[str, str] | None = None) -> Sweep:
        return cls(Grid.from_json(value["grid"], labels), tuple(value["prompt_set_ids"]), tuple(value["judges"]), name)

    @functools.cached_property
    def id(self) -> str:
        return content_id(self.to_json())

    def tasks(self) -> list[Task]:
        """Every task once, in the order in which it is to be run."""
        return [Task(point, set_id) for point in self.grid.points() for set_id in self.prompt_set_ids]
