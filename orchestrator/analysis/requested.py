"""The tasks that a sweep asks for: those of its whole grid, or of an adaptive grid those that its verdicts lead to.

What is left to do is `requested(...)` minus what is stored. It is a pure function of the stored rows (and of the tasks
that runs gave up), so that a run, its repetition after a kill, `status` and `gate` agree on it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.analysis.adaptive.geometry import Node, Shape
from orchestrator.analysis.adaptive.rule import RULE_VERSION, Refinement, refine
from orchestrator.scoring.deciding import DecidingCounts, PointCounts
from orchestrator.store.files import DamagedFileError
from orchestrator.store.parts import TaskKey
from orchestrator.store.runs import given_up
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.grid import Grid
from orchestrator.sweep.points import ORIGIN, Point
from orchestrator.sweep.tasks import PromptSet, Task
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id


class AdaptiveLine:
    """One line or plane of an adaptive grid: its nodes, and the decisions of the rule.

    Attributes:
        shape: Number of nodes on each axis, and the origin's place.
        points: Node -> its point.
        seed: Seed of its audit, from the grid alone.
    """

    def __init__(self, grid: Grid, number: int) -> None:
        axes = grid.coordinates()
        self.shape = Shape.of_axes(axes)
        self.points: dict[Node, Point] = {
            node: grid.point_at(number, *(axis[i] for axis, i in zip(axes, node, strict=True)))
            for node in itertools.product(*(range(len(axis)) for axis in axes))
        }
        self.seed = int(content_id([grid.to_json(), number])[:12], 16)

    def counts(self, by_point: Mapping[str, PointCounts]) -> dict[Node, PointCounts]:
        """Return the counts of the measured nodes, from counts by point id."""
        return {node: by_point[point.id] for node, point in self.points.items() if point.id in by_point}

    def refine(self, by_point: Mapping[str, PointCounts]) -> Refinement:
        """Return what the rule decides from these counts by point id."""
        return refine(self.shape, self.counts(by_point), self.seed)


@dataclass
class AdaptiveGrid:
    """The lines or planes of an adaptive grid, and the points that every level asks for.

    Attributes:
        grid: The grid.
        lines: Its lines or planes.
        always: The origin, the checkpoints and the nodes beside the grid, which are measured in any case.
    """

    grid: Grid
    lines: list[AdaptiveLine] = field(init=False)
    always: list[Point] = field(init=False)

    def __post_init__(self) -> None:
        self.lines = [AdaptiveLine(self.grid, k) for k in range(self.grid.lines)]
        fixed = (n.point for n in self.grid.iter_nodes() if n.point.is_origin or n.mark or not n.on_grid)
        self.always = list(dict.fromkeys(itertools.chain([ORIGIN], fixed)))

    def points(self, refinements: Sequence[Refinement]) -> list[Point]:
        """Return the points that these decisions, one for each line or plane, ask for, each once."""
        points = dict.fromkeys(self.always)
        levels = itertools.zip_longest(*(refinement.needed for refinement in refinements))
        for nodes in levels:  # line by line in turn, so that an interrupted sweep spans all of them
            points |= {line.points[n]: None for line, n in zip(self.lines, nodes, strict=True) if n is not None}
        return list(points)


@dataclass(frozen=True)
class Requested:
    """The tasks that a sweep asks for, given what is stored.

    Attributes:
        tasks: The tasks in the order in which they are run. Those of an adaptive grid may become more.
        refinements: The rule's decision on each line or plane. Empty if the grid is not adaptive.
        decisions: The adaptive grid and the counts from which the rule decided. None if the grid is not adaptive.
    """

    tasks: list[Task]
    refinements: tuple[Refinement, ...] = ()
    decisions: tuple[AdaptiveGrid, DecidingCounts] | None = None

    @functools.cached_property
    def keys(self) -> frozenset[TaskKey]:
        """The keys of the tasks."""
        return frozenset(task.key for task in self.tasks)

    @property
    def is_final(self) -> bool:
        """True if no verdict can add a task."""
        return all(refinement.done for refinement in self.refinements)


def requested(
    stored: StoredSweep,
    prompt_sets: Sequence[PromptSet] | None = None,
    retry_failed: bool = False,
    given_up: Collection[TaskKey] = (),
) -> Requested:
    """Return the tasks that a sweep asks for, given what is stored.

    A sweep whose nodes another version of the rule has chosen asks for what is stored, and for no more: `run` begins a
    sweep of this version, which finds the same points measured.

    Args:
        stored: The sweep, whose study need not exist yet.
        prompt_sets: Its prompt sets. None: they are read from the study.
        retry_failed: Whether tasks that runs gave up are still asked for. If not, an adaptive grid goes on without
            their verdicts.
        given_up: Further tasks, which a run in progress gave up and goes on without.

    Raises:
        UserError: (sweep) The prompts of an adaptive sweep cannot be read.
    """
    sweep = stored.sweep
    if sweep.grid.adaptive is None:
        return Requested(sweep.tasks())
    if has_other_rule(sweep.grid):
        return Requested([task for task in sweep.tasks() if task.key in stored.generations])
    try:
        counts = DecidingCounts(stored, prompt_sets)
    except DamagedFileError as error:
        remedy = f"its prompts decide which points it asks for and cannot be read ({error}): run it again"
        raise UserError("sweep", stored.folder.path, remedy) from error
    counts.read_stored()
    counts.give_up([*given_up, *(() if retry_failed else failed_tasks(stored))])
    grid = AdaptiveGrid(sweep.grid)
    refinements = tuple(line.refine(counts.counts) for line in grid.lines)
    tasks = tasks_at(grid.points(refinements), sweep.prompt_set_ids)
    return Requested(tasks, refinements, (grid, counts))


def has_other_rule(grid: Grid) -> bool:
    """Return whether another version of the rule has chosen the nodes of an adaptive grid."""
    return grid.adaptive is not None and grid.adaptive.rule != RULE_VERSION


def tasks_at(points: Sequence[Point], prompt_set_ids: Sequence[str]) -> list[Task]:
    """Return the tasks of all these prompt sets at these points."""
    return [Task(point, set_id) for point in points for set_id in prompt_set_ids]


def failed_tasks(stored: StoredSweep) -> set[TaskKey]:
    """Return the tasks that runs of a sweep gave up and that are not stored."""
    if not stored.study.exists:
        return set()
    with contextlib.suppress(DamagedFileError):  # no record yet, so nothing was run
        return given_up(stored.record.runs) - stored.generations.keys()
    return set()
