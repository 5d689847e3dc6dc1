"""The work that a run adds to the visits it begins with: further levels of an adaptive grid, and continuations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from orchestrator.analysis.requested import Requested, failed_tasks, tasks_at
from orchestrator.execution.events import WorkItem
from orchestrator.execution.live_surface import LiveSurface
from orchestrator.execution.work_source import WorkSource
from orchestrator.pipeline.budgets import Budgets
from orchestrator.pipeline.growth import GrowingSweep
from orchestrator.pipeline.prepare import MissingTasks
from orchestrator.pipeline.speculation import Speculation
from orchestrator.store.parts import TaskKey
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.continuations import ContinuationBatch
from orchestrator.sweep.points import Point
from orchestrator.sweep.tasks import Visit, visits
from orchestrator.sweep.until import UntilOutcome
from orchestrator.utils.choices import Retry


class SweepWork(WorkSource):
    """The work that follows from the results of a run.

    As visits are stored, the next levels of an adaptive grid; when all are done, the next grid of a sweep with goals;
    when these are met, the continuations to measure. While actors are idle, points that further levels will probably
    ask for. Nothing more begins when a budget is spent.
    """

    def __init__(
        self,
        continuations: Callable[[], Sequence[ContinuationBatch]],
        levels: Levels | None = None,
        begun: Sequence[Visit] = (),
        budgets: Budgets | None = None,
        growing: GrowingSweep | None = None,
        record_goals: Callable[[UntilOutcome | None], object] = lambda until: None,
    ) -> None:
        """Prepare the work.

        Args:
            continuations: Returns the continuations to measure at the end. Called once.
            levels: The levels of an adaptive grid. None if every visit is known at the start.
            begun: The visits that the run begins with.
            budgets: The sweep's budgets. None: no limit.
            growing: The sweep with the grid of these visits. None if no other grid may follow.
            record_goals: Called with how far the goals are met each time the sweep grows.
        """
        self._open = {visit.id for visit in begun}  # visits that are neither stored nor given up
        self._continuations: Callable[[], Sequence[ContinuationBatch]] | None = continuations
        self._budgets = budgets
        self._levels = levels
        self._growing, self._record_goals = growing, record_goals
        self._unneeded = 0  # on the grids before the present one

    @property
    def picture(self) -> LiveSurface | None:
        """The picture of an adaptive grid as it refines. None for other grids."""
        return None if self._levels is None else self._levels.picture

    @property
    def is_done(self) -> bool:
        """True if all that was asked for is stored or given up: visits, levels, and the grids that goals ask for."""
        if self._open or (self._levels is not None and not self._levels.are_done):
            return False
        return self._growing is None or self._growing.is_done

    def is_over(self) -> bool:
        """Return whether a budget is spent."""
        return self._budgets is not None and self._budgets.spent is not None

    def take_stored(self, visit: Visit) -> None:
        """Count the verdicts on a visit that is stored."""
        self._open.discard(visit.id)
        if self._levels is not None:
            self._levels.take_stored(visit)

    def take_given_up(self, visit: Visit) -> None:
        """Go on without the verdicts on a visit that was given up."""
        self._open.discard(visit.id)
        if self._growing is not None:
            self._growing.give_up(visit)
        if self._levels is not None:
            self._levels.take_given_up(visit)

    def take_dropped(self, visit: Visit) -> None:
        """Let a level ask for a visit again that failed on speculation."""
        if self._levels is not None:
            self._levels.take_dropped(visit)

    def more(self, idle: bool) -> Sequence[WorkItem]:
        """Return the visits of levels that begin now; those of the next grid; at the end, the continuations."""
        if self._levels is not None and (added := self._levels.begin()):
            self._open.update(visit.id for visit in added)
            return added
        if not idle:
            return ()
        if self._growing is not None and (items := self._next_grid(self._growing)):
            return items
        if self._continuations is None:
            return ()
        continuations, self._continuations = self._continuations, None
        return continuations()

    def _next_grid(self, growing: GrowingSweep) -> Sequence[WorkItem]:
        """Return the missing visits of the next grid of a sweep with goals, and its directions. Empty if none is."""
        if growing.is_done:
            return ()
        before = growing.prepared.sweep
        growing.refresh()
        missing = growing.advance()
        self._record_goals(growing.outcome())
        if growing.prepared.sweep == before:
            return ()  # a visit could not be read at once: the run is repeated
        self._unneeded = self.unneeded
        self._levels = levels_of(growing, missing)
        added = visits(missing.tasks)
        self._open.update(visit.id for visit in added)
        return [*growing.prepared.sweep.grid.directions_used, *added]

    def speculate(self, most: int) -> Sequence[Visit]:
        """Return visits that further levels will probably ask for."""
        return () if self._levels is None else self._levels.speculate(most)

    @property
    def unneeded(self) -> int:
        """Number of stored visits of `speculate` that no level has asked for."""
        return self._unneeded + (0 if self._levels is None else self._levels.unneeded)


def levels_of(growing: GrowingSweep, missing: MissingTasks) -> Levels | None:
    """Return the levels of a sweep's present grid, begun with its missing tasks. None if the grid is not adaptive."""
    if missing.requested.decisions is None:
        return None
    config, points = growing.prepared.config, [task.point for task in missing.tasks]
    retry_failed, speculate = config.retry == Retry.failed, config.cluster.speculate
    return Levels(growing.stored, missing.requested, points, retry_failed, speculate)


class Levels:
    """The levels of an adaptive grid during a run: each begins when every verdict of the one before is known.

    Lines and planes are independent of each other. Each stored visit is read once.
    """

    def __init__(
        self,
        stored: StoredSweep,
        requested: Requested,
        begun: Iterable[Point],
        retry_failed: bool = False,
        speculate: bool = False,
    ) -> None:
        """Go on from what is stored.

        Args:
            stored: The sweep.
            requested: The tasks that it asks for, as `analysis.requested` returns them. Its counts are added to.
            begun: The points of the visits that the run begins with.
            retry_failed: Whether the run tries tasks again that earlier runs gave up.
            speculate: Whether `speculate` returns any visits.
        """
        assert requested.decisions is not None, "the grid is not adaptive"
        self._stored = stored
        self._grid, self._counts = requested.decisions
        failed = () if retry_failed else failed_tasks(stored)
        self._unavailable: Collection[TaskKey] = {*stored.generations, *failed}
        self._begun = set(begun)
        self._refinements = list(requested.refinements)
        self._needed = set(self._grid.points(self._refinements))
        self._is_current = False  # whether `begin` has returned every visit that is asked for
        self._speculation = Speculation(self._grid) if speculate else None
        on_grid = {point for line in self._grid.lines for point in line.points.values()}
        stored_points = {point for point in on_grid if point.id in self._counts.counts}
        self._ahead = stored_points - self._needed  # stored or begun, and not asked for
        self._guessed: dict[Point, bool] = {}  # points begun on speculation -> whether they are stored

    @property
    def picture(self) -> LiveSurface:
        """The picture of the grid as it refines."""
        return LiveSurface(self._grid, self._counts.counts, self._begun)

    @property
    def are_done(self) -> bool:
        """True if every level that the rule asks for is complete."""
        return all(refinement.done for refinement in self._refinements)

    def take_stored(self, visit: Visit) -> None:
        """Count the verdicts on a visit that is stored."""
        responses = self._stored.study.generations.read_visit(visit.id)
        if responses is not None:  # otherwise it is damaged, and the level waits until it is measured again
            self._counts.add(responses)
        if visit.point in self._guessed:
            self._guessed[visit.point] = True

    def take_given_up(self, visit: Visit) -> None:
        """Take a visit that was given up as measured without a verdict."""
        self._counts.give_up([(visit.point.id, set_id) for set_id in visit.prompt_set_ids])

    def take_dropped(self, visit: Visit) -> None:
        """Forget a visit that failed on speculation: it is begun again when a level asks for it."""
        self._guessed.pop(visit.point, None)
        self._begun.discard(visit.point)
        self._ahead.discard(visit.point)
        self._is_current = False

    def begin(self) -> list[Visit]:
        """Return the visits of the levels that begin now, each once."""
        counts = self._counts.counts
        for i, (line, current) in enumerate(zip(self._grid.lines, self._refinements, strict=True)):
            if not current.done and all(line.points[node].id in counts for node in current.missing):
                self._refinements[i] = line.refine(counts)
                self._is_current = False
        if self._is_current:
            return []
        self._is_current = True
        points = self._grid.points(self._refinements)
        self._needed = set(points)
        self._ahead -= self._needed
        return self._visits(point for point in points if point not in self._begun)

    def speculate(self, most: int) -> list[Visit]:
        """Return visits that no level has asked for yet, but probably will; at most so many, each once."""
        if self._speculation is None:
            return []
        counts, ahead = self._counts.counts, len(self._ahead)
        points = self._speculation.take(most, self._refinements, counts, self._begun, ahead)
        self._ahead.update(points)
        self._guessed |= dict.fromkeys(points, False)
        return self._visits(points)

    @property
    def unneeded(self) -> int:
        """Number of visits begun on speculation that are stored and that no level has asked for."""
        return sum(is_stored and point not in self._needed for point, is_stored in self._guessed.items())

    def _visits(self, points: Iterable[Point]) -> list[Visit]:
        """Begin these points: return the visits of their tasks that are not stored and not given up."""
        begun = list(points)
        self._begun.update(begun)
        tasks = tasks_at(begun, self._stored.sweep.prompt_set_ids)
        return visits(task for task in tasks if task.key not in self._unavailable)
