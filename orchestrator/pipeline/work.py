"""The work that a run adds to the visits it begins with: further levels of an adaptive grid, and continuations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from orchestrator.analysis.requested import AdaptiveGrid, failed_tasks, tasks_at
from orchestrator.execution.work_source import WorkSource
from orchestrator.pipeline.budgets import Budgets
from orchestrator.scoring.deciding import DecidingCounts
from orchestrator.store.parts import TaskKey
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.continuations import ContinuationBatch
from orchestrator.sweep.tasks import Visit, visits


class SweepWork(WorkSource):
    """The work that follows from the results of a run.

    As visits are stored, the next levels of an adaptive grid; when all are done, the continuations to measure. Nothing
    more begins when a budget is spent.
    """

    def __init__(
        self,
        continuations: Callable[[], Sequence[ContinuationBatch]],
        levels: Levels | None = None,
        begun: Sequence[Visit] = (),
        budgets: Budgets | None = None,
    ) -> None:
        """Prepare the work.

        Args:
            continuations: Returns the continuations to measure at the end. Called once.
            levels: The levels of an adaptive grid. None if every visit is known at the start.
            begun: The visits that the run begins with.
            budgets: The sweep's budgets. None: no limit.
        """
        self._open = {visit.id for visit in begun}  # visits that are neither stored nor given up
        self._continuations: Callable[[], Sequence[ContinuationBatch]] | None = continuations
        self._budgets = budgets
        self._levels = levels

    @property
    def is_done(self) -> bool:
        """Whether every visit that was asked for is stored or given up, and every level is complete."""
        return not self._open and (self._levels is None or self._levels.are_done)

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
        if self._levels is not None:
            self._levels.take_given_up(visit)

    def more(self, idle: bool) -> Sequence[Visit | ContinuationBatch]:
        """Return the visits of levels that begin now; at the end, the continuations."""
        if self._levels is not None and (added := self._levels.begin()):
            self._open.update(visit.id for visit in added)
            return added
        if not idle or self._continuations is None:
            return ()
        continuations, self._continuations = self._continuations, None
        return continuations()


class Levels:
    """The levels of an adaptive grid during a run: each begins when every verdict of the one before is known.

    Lines and planes are independent of each other. Each stored visit is read once.
    """

    def __init__(self, stored: StoredSweep, begun: Sequence[Visit], retry_failed: bool = False) -> None:
        """Count what is stored.

        Args:
            stored: The sweep.
            begun: The visits that the run begins with.
            retry_failed: Whether the run tries tasks again that earlier runs gave up.
        """
        self._stored = stored
        self._grid = AdaptiveGrid(stored.sweep.grid)
        self._counts = DecidingCounts(stored)
        self._counts.read_stored()
        failed = () if retry_failed else failed_tasks(stored)
        self._counts.give_up(failed)
        self._unavailable: Collection[TaskKey] = {*stored.generations, *failed}
        self._begun = {visit.point for visit in begun}
        self._refinements = [line.refine(self._counts.counts) for line in self._grid.lines]

    @property
    def are_done(self) -> bool:
        """Whether every level that the rule asks for is complete."""
        return all(refinement.done for refinement in self._refinements)

    def take_stored(self, visit: Visit) -> None:
        """Count the verdicts on a visit that is stored."""
        responses = self._stored.study.generations.read_visit(visit.id)
        if responses is not None:  # otherwise it is damaged, and the level waits until it is measured again
            self._counts.add(responses)

    def take_given_up(self, visit: Visit) -> None:
        """Take a visit that was given up as measured without a verdict."""
        self._counts.give_up([(visit.point.id, set_id) for set_id in visit.prompt_set_ids])

    def begin(self) -> list[Visit]:
        """Return the visits of the levels that begin now, each once."""
        counts = self._counts.counts
        for i, (line, current) in enumerate(zip(self._grid.lines, self._refinements, strict=True)):
            if not current.done and all(line.points[node].id in counts for node in current.missing):
                self._refinements[i] = line.refine(counts)
        points = [point for point in self._grid.points(self._refinements) if point not in self._begun]
        self._begun.update(points)
        tasks = tasks_at(points, self._stored.sweep.prompt_set_ids)
        return visits(task for task in tasks if task.key not in self._unavailable)
