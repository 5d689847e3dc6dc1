"""Grids and sweeps, as immutable values. A sweep is one request: a grid x prompt sets x judges.

A grid consists of lines or planes of nodes; a node is a point with its coordinates. Several nodes may share a point
(the origin is on every line), so coordinates belong to nodes and each point is measured once.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.sweep import directions
from orchestrator.sweep.directions import Direction
from orchestrator.sweep.directions._seeded import DrawnDirection, seeded_kind
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.points import DECIMALS, Point
from orchestrator.sweep.tasks import Task
from orchestrator.utils.choices import GridKind, Norm
from orchestrator.utils.hashing import content_id
from orchestrator.utils.records import check_types

# Fields that have no effect in a kind of grid, and are therefore not part of its identity.
_RANDOM = ("directions", "seed", "norm", "exclude", "direction")
_WITHOUT_EFFECT_ON_MATCHED = ("norm", "exclude")
_WITHOUT_EFFECT: dict[GridKind, tuple[str, ...]] = {
    GridKind.random_1d: ("range_y", "orthogonal", "towards", "eq4"),
    GridKind.random_2d: ("towards", "eq4"),
    GridKind.interpolate_1d: (*_RANDOM, "range_y", "orthogonal", "eq4"),
    GridKind.interpolate_2d: (*_RANDOM, "orthogonal"),
    GridKind.interpolate_random: ("orthogonal", "eq4"),
}
# Fields of `Grid` whose key in JSON is not their name. Keys never change: they are part of the id of a stored sweep.
_JSON_KEYS = {"extra_checkpoints": "beside"}
# Values with which a key is left out of the JSON, so that grids from before these options keep their ids.
_LEFT_OUT: dict[str, Any] = {"beside": [], "hidden": False, "direction": "random", "match": None, "adaptive": None}
MAX_NODES = 10_000_000
"""Most nodes of a stored grid. A larger one, which no machine could hold in memory, is taken for damage."""


@dataclass(frozen=True, slots=True)
class Node:
    """A point with its coordinates.

    Attributes:
        line: Number of the line or plane, from 0.
        alpha: First coordinate.
        beta: Second coordinate. None on a line.
        on_grid: Whether it is one of the grid's equally spaced nodes. Others are left out of VISAGE.
        seed_x: Seed of the first axis. None if that axis is not random.
        seed_y: Seed of the second axis. None if that axis is not random, and on a line.
        point: The point that is measured.
        mark: Label of the checkpoint at this point; empty if there is none.
        projected: True if the point is a checkpoint outside the line or plane. The coordinates are then those of its
            projection.
    """

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
class ExtraCheckpoint:
    """A checkpoint that is measured and shown but is not an axis, with its coordinates on the first line or plane.

    It is coefficient 1 of its direction, which may also be a random one that matches a checkpoint: a control.
    """

    direction: Direction
    alpha: float
    beta: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return {"direction": self.direction.to_json(), "alpha": self.alpha, "beta": self.beta}


@dataclass(frozen=True)
class Adaptive:
    """The way an adaptive grid chooses the nodes that are measured.

    Attributes:
        judge: Name of the text judge whose verdicts decide.
        rule: Version of the rule; see `analysis.adaptive`.
    """

    judge: str
    rule: int


@dataclass(frozen=True)
class Grid:
    """The points of a sweep: lines or planes of `steps` + 1 points on each axis.

    Kinds of grids:

    * random_1d: Line k is along the random direction of seed + k.
    * random_2d: Plane k is spanned by the random directions of seed + 2k and seed + 2k + 1.
    * interpolate_1d: Line k goes from the base toward checkpoint k of `towards`, which is at coordinate 1.
    * interpolate_2d: One plane toward the two checkpoints d1, d2 of `towards`. Coordinates are their coefficients,
      or with `eq4` those of the paper's Equation 4 (arXiv 2405.17374).
    * interpolate_random: Plane k is spanned by the checkpoint of `towards` and the random direction of seed + k.

    Attributes:
        kind: One of the above.
        steps: Number of intervals on each axis.
        range: Ends of the first axis, and of the second unless `range_y` is given.
        range_y: Ends of the second axis. None: as `range`.
        directions: Number of lines or planes, in kinds with random directions.
        seed: Seed of the first random direction.
        norm: Scaling of seeded directions (see `RandomDirection`).
        exclude: Random directions do not move tensors whose names contain one of these strings.
        towards: Checkpoints and adapters that are axes.
        orthogonal: Whether the second random direction of a plane is made orthogonal to the first.
        eq4: (c, s): the second axis of interpolate_2d is s (d2 - c d1). None: it is d2.
        extra_checkpoints: Checkpoints that are measured and shown at their projections, such as those of a trajectory.
        hidden: True if the checkpoints of `towards` are only axes, such as those of a principal plane, and are not
            measured themselves.
        direction: Kind of the random directions: a kind in `orchestrator.sweep.directions` that is drawn from a seed.
        match: Checkpoint whose lengths or rank the random directions have, in kinds that need one. Only in random_1d.
        adaptive: How nodes are chosen if not all of them are measured. None: every node is measured.
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
    extra_checkpoints: tuple[ExtraCheckpoint, ...] = ()
    hidden: bool = False
    direction: str = "random"
    match: TowardsDirection | None = None
    adaptive: Adaptive | None = None

    def __post_init__(self) -> None:
        needed = {GridKind.interpolate_2d: 2, GridKind.interpolate_random: 1}.get(self.kind)
        assert needed in (None, len(self.towards)), f"{self.kind} needs {needed} checkpoints, not {len(self.towards)}"
        assert self.match is None or self.kind == GridKind.random_1d, f"{self.kind} has no directions to match"
        assert self.kind != GridKind.interpolate_1d or self.towards, "interpolate_1d needs at least one checkpoint"

    @property
    def reference(self) -> str | None:
        """Fingerprint of the checkpoint that the random directions match. None if they match none."""
        return None if self.match is None else self.match.fingerprint

    @property
    def is_plane(self) -> bool:
        """True if the grid consists of planes, not lines."""
        return GridKind(self.kind).is_plane

    @property
    def lines(self) -> int:
        """Number of lines or planes."""
        return {GridKind.interpolate_1d: len(self.towards), GridKind.interpolate_2d: 1}.get(self.kind, self.directions)

    def to_json(self) -> dict[str, Any]:
        """Return, as JSON, the fields that affect the points of this kind of grid. They are the grid's identity."""
        fields = {_JSON_KEYS.get(name, name): value for name, value in asdict(self).items()}
        value = fields | {
            "kind": str(self.kind),
            "norm": str(self.norm),
            "towards": [direction.to_json() for direction in self.towards],
            "beside": [extra.to_json() for extra in self.extra_checkpoints],
            "match": None if self.match is None else self.match.to_json(),
        }
        without = [key for key, default in _LEFT_OUT.items() if value[key] == default]
        without += [*_WITHOUT_EFFECT[self.kind], *(_WITHOUT_EFFECT_ON_MATCHED if self.match else ())]
        return {key: item for key, item in value.items() if key not in without}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> Grid:
        """Return the grid that `to_json` described.

        Args:
            value: The JSON object.
            labels: Fingerprint -> label of each checkpoint, because labels are not part of the JSON. None: no labels.

        Raises:
            ValueError: A field has another type or is out of range. Other exceptions if the object has another form.
        """
        fields: dict[str, Any] = {k: tuple(item) if isinstance(item, list) else item for k, item in value.items()}

        def towards(d: Mapping[str, Any]) -> TowardsDirection:
            return TowardsDirection(d["fingerprint"], (labels or {}).get(d["fingerprint"], ""))

        def extra(d: Mapping[str, Any]) -> Direction:
            return towards(d) if "fingerprint" in d else directions.from_json(d)

        fields |= {key: choices(value[key]) for key, choices in (("kind", GridKind), ("norm", Norm)) if key in value}
        fields["towards"] = tuple(map(towards, value.get("towards", ())))
        fields["match"] = towards(value["match"]) if "match" in value else None
        fields["adaptive"] = check_types(Adaptive(**value["adaptive"])) if "adaptive" in value else None
        fields.pop("beside", None)
        fields["extra_checkpoints"] = tuple(
            ExtraCheckpoint(extra(each["direction"]), each["alpha"], each["beta"]) for each in value.get("beside", ())
        )
        grid = check_types(cls(**fields))
        if min(grid.steps, grid.directions) < 1 or grid.size > MAX_NODES:
            raise ValueError(f"its grid has {grid.size:,} nodes, which is not between 1 and {MAX_NODES:,}")
        if any(low >= high for low, high in filter(None, (grid.range, grid.range_y))):
            raise ValueError(f"its grid has the range {grid.range_y or grid.range}, whose ends are not in order")
        return grid

    @property
    def size(self) -> int:
        """Number of equally spaced nodes on all lines or planes."""
        return int((self.steps + 1) ** (2 if self.is_plane else 1) * self.lines)

    def axes(self, k: int) -> tuple[Direction, Direction | None]:
        """Return the direction of line k and None, or the two directions of plane k."""
        return self._axes[k]

    @functools.cached_property
    def _axes(self) -> tuple[tuple[Direction, Direction | None], ...]:
        """The axes of every line or plane, made once so that a million points share one direction object."""
        return tuple(self._axes_of(k) for k in range(self.lines))

    def _axes_of(self, k: int) -> tuple[Direction, Direction | None]:
        match self.kind:
            case GridKind.random_1d:
                return self._seeded(self.seed + k), None
            case GridKind.random_2d:
                x = self._seeded(self.seed + 2 * k)
                return x, self._seeded(self.seed + 2 * k + 1, x.seed if self.orthogonal else None)
            case GridKind.interpolate_1d:
                return self.towards[k], None
            case GridKind.interpolate_2d:
                return self.towards[0], self.towards[1]
            case GridKind.interpolate_random:
                return self.towards[0], self._seeded(self.seed + k)

    def _seeded(self, seed: int, orthogonal_to: int | None = None) -> DrawnDirection:
        return seeded_kind(self.direction).draw(seed, self.norm, self.exclude, orthogonal_to, self.reference)

    def point_at(self, k: int, alpha: float, beta: float | None = None) -> Point:
        """Return the point with these coordinates on line or plane k."""
        x, y = self.axes(k)
        if y is None or beta is None:
            return Point.from_coefficients([(x, alpha)])
        if self.kind == GridKind.interpolate_2d and self.eq4 is not None:
            c, s = self.eq4
            return Point.from_coefficients([(x, alpha - beta * s * c), (y, beta * s)])
        return Point.from_coefficients([(x, alpha), (y, beta)])

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node, line by line. Computed at each access, because a million nodes take half a gigabyte."""
        return tuple(self.iter_nodes())

    def iter_nodes(self) -> Iterator[Node]:
        """Yield the nodes, line by line.

        Every line or plane includes the origin and the checkpoints that are its axes. If they are not among the equally
        spaced nodes, they are added with `on_grid` False. `extra_checkpoints` follow the first line.
        """
        return (node for k in range(self.lines) for node in self._nodes_of(k))

    def coordinates(self) -> tuple[tuple[float, ...], ...]:
        """Return the equally spaced coordinates of each axis of a line or plane."""
        alphas = spaced(self.range, self.steps)
        return (alphas, spaced(self.range_y or self.range, self.steps)) if self.is_plane else (alphas,)

    def _nodes_of(self, k: int) -> Iterator[Node]:
        x, y = self.axes(k)
        seed_x, seed_y = (None if d is None else d.seed for d in (x, y))
        alphas, *second_axis = self.coordinates()
        betas = second_axis[0] if second_axis else (None,)
        off_grid = {point.id: mark for *_, point, mark in self.landmarks(k)}
        for beta in betas:
            for alpha in alphas:
                point = self.point_at(k, alpha, beta)
                yield Node(k, alpha, beta, True, seed_x, seed_y, point, off_grid.pop(point.id, ""))
        for alpha, beta, point, mark in self.landmarks(k):
            if point.id in off_grid:
                yield Node(k, alpha, beta, False, seed_x, seed_y, point, mark)
        for extra in self.extra_checkpoints if k == 0 else ():
            point = Point.from_coefficients([(extra.direction, 1.0)])
            yield Node(k, extra.alpha, extra.beta, False, seed_x, seed_y, point, extra.direction.label, projected=True)

    def landmarks(self, k: int) -> list[tuple[float, float | None, Point, str]]:
        """Return (alpha, beta, point, label) of the origin and of each checkpoint that is an axis of line/plane k."""
        x, y = self.axes(k)
        zero = None if y is None else 0.0
        marks: list[tuple[float, float | None, Point, str]] = [(0.0, zero, self.point_at(k, 0.0, zero), "")]
        if self.hidden:
            return marks
        if x.fingerprint is not None:
            marks.append((1.0, zero, self.point_at(k, 1.0, zero), x.label))
        if y is not None and y.fingerprint is not None:
            c, s = self.eq4 or (0.0, 1.0)  # d2 = c d1 + d2' / s, where d2' is the second axis
            marks.append((round(c, DECIMALS), round(1 / s, DECIMALS), Point.from_coefficients([(y, 1.0)]), y.label))
        return marks

    @property
    def directions_used(self) -> tuple[Direction, ...]:
        """Every direction of this grid whose scalars must be measured before points use it, once."""
        axes = (d for k in range(self.lines) for d in self.axes(k))
        used = itertools.chain(axes, (extra.direction for extra in self.extra_checkpoints))
        return tuple(dict.fromkeys(d for d in used if d is not None and d.needs_scalars))

    def points(self) -> list[Point]:
        """Return every point once, origin first, then coarse to fine, so that an interrupted sweep spans the grid."""
        nodes = sorted(self.nodes, key=self._fineness)
        return list(dict.fromkeys(node.point for node in nodes))

    def _fineness(self, node: Node) -> tuple[int, int]:
        """Return the sort key (level, line). Levels: -2 for the origin, -1 for checkpoints, from 0 (coarse) to fine."""
        if node.point.is_origin:
            return -2, 0
        if node.mark or not node.on_grid:
            return -1, node.line
        levels = [self._level(node.alpha, self.range)]
        if node.beta is not None:
            levels.append(self._level(node.beta, self.range_y or self.range))
        return max(levels), node.line

    def _level(self, value: float, bounds: tuple[float, float]) -> int:
        """Return the refinement level of a coordinate.

        Level 0 has the ends and the middle. Each further level halves the distance between neighboring coordinates.
        """
        index = round((value - bounds[0]) / (bounds[1] - bounds[0]) * self.steps)
        offset = index - self.steps // 2
        if index in (0, self.steps) or offset == 0:
            return 0
        halvings = (offset & -offset).bit_length() - 1
        return max(self.steps.bit_length() - halvings, 1)


def spaced(bounds: tuple[float, float], steps: int) -> tuple[float, ...]:
    """Return `steps` + 1 equally spaced values, ends included, rounded as a point's coefficients are."""
    low, high = bounds
    return tuple(round(low + (high - low) * i / steps, DECIMALS) + 0.0 for i in range(steps + 1))


@dataclass(frozen=True)
class Sweep:
    """One request: a grid x prompt sets x judges.

    Attributes:
        grid: The points to measure.
        prompt_set_ids: Ids of the prompt sets whose responses are generated at each point.
        judges: Names of the judges; the first one is primary.
        name: Name for the sweep's folder, which is not part of its identity.
        thought: Closing tag of the thoughts with which responses may begin; judges read what follows it. Empty: judges
            read whole responses.
    """

    grid: Grid
    prompt_set_ids: tuple[str, ...]
    judges: tuple[str, ...] = ("keyword",)
    name: str = field(default="sweep", compare=False)
    thought: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the request, from which the tasks can be derived again; `thought` only if there is one."""
        fields = {"grid": self.grid.to_json(), "prompt_set_ids": list(self.prompt_set_ids), "judges": list(self.judges)}
        return fields | ({"thought": self.thought} if self.thought else {})

    @classmethod
    def from_json(cls, value: dict[str, Any], name: str = "sweep", labels: Mapping[str, str] | None = None) -> Sweep:
        """Return the sweep that `to_json` described.

        Args:
            value: The JSON object.
            name: Name of the sweep.
            labels: Fingerprint -> label of each checkpoint, because labels are not part of the JSON. None: no labels.
        """
        grid = Grid.from_json(value["grid"], labels)
        thought = value.get("thought", "")
        return check_types(cls(grid, tuple(value["prompt_set_ids"]), tuple(value["judges"]), name, thought))

    @functools.cached_property
    def id(self) -> str:
        """Content hash of the request: 16 hexadecimal digits."""
        return content_id(self.to_json())

    def tasks(self) -> list[Task]:
        """Return every task once, in the order in which the tasks are run."""
        return [Task(point, set_id) for point in self.grid.points() for set_id in self.prompt_set_ids]
