"""What is left to do in a dispatch: directions to measure, visits, and what a source of work adds to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.execution.outcome import Outcome
from orchestrator.execution.setup import DispatchSetup
from orchestrator.execution.visit_queue import VisitQueue
from orchestrator.execution.work_source import WorkSource
from orchestrator.sweep.continuations import ContinuationBatch
from orchestrator.sweep.directions import Direction
from orchestrator.sweep.tasks import Visit

if TYPE_CHECKING:
    import pyarrow as pa

    from orchestrator.execution.actor_pool import ActorPool


class Supply:
    """Keeps the queue of a dispatch filled, and knows the scalars of the directions that are measured."""

    def __init__(self, setup: DispatchSetup, queue: VisitQueue, pool: ActorPool, outcome: Outcome) -> None:
        """Supply nothing until `begin`."""
        self._study, self._policy, self._observe = setup.study, setup.policy, setup.observe
        self._queue, self._pool, self._outcome = queue, pool, outcome
        self._source = WorkSource()
        self._scalars: dict[str, pa.Table] = {}  # of the measured directions, by their ids
        self._reported_failures = 0  # number of visits given up that the source knows of

    @property
    def scalars(self) -> Mapping[str, pa.Table]:
        """Direction id -> scalars, of all directions once every one is measured; empty before."""
        return self._scalars if self._queue.all_measured else {}

    @property
    def unneeded(self) -> int:
        """Number of speculative visits that nothing asked for."""
        return self._source.unneeded

    def begin(self, visits: Sequence[Visit], directions: Iterable[Direction], source: WorkSource) -> None:
        """Queue the visits, and before them the directions that are not stored; ask `source` for more from now on."""
        self._source = source
        unmeasured = self._unmeasured(directions)
        self._queue.add(visits, unmeasured if visits else [])

    def add_work(self) -> bool:
        """Ask the source for more if fewer items wait than the actors can hold. Return whether it added any."""
        for failure in self._outcome.failures[self._reported_failures :]:
            self._source.take_given_up(failure.visit)
        self._reported_failures = len(self._outcome.failures)
        for visit in self._queue.take_dropped():
            self._source.take_dropped(visit)
        if self._source.is_over():
            self._queue.drop()
            return False
        if len(self._queue) > self._policy.in_flight * len(self._pool.slots):
            return False
        items = list(self._source.more(idle=not len(self._queue) and not self._pool.busy))
        self._add_directions([item for item in items if isinstance(item, Direction)])
        self._queue.add([item for item in items if not isinstance(item, Direction)], [])
        continuations = sum(len(item.continuations) for item in items if isinstance(item, ContinuationBatch))
        if continuations:
            self._observe("continuations_queued", continuations=continuations)
        guesses = self._speculate()
        if added := sum(isinstance(item, Visit) for item in items) + len(guesses):
            self._observe("visits_added", visits=added, speculative=len(guesses))
        return bool(items or guesses)

    def take_direction(self, direction: Direction, scalars: pa.Table) -> None:
        """Take the scalars of a measured direction; after the last one, send those of all directions to the actors."""
        self._scalars[direction.id] = scalars
        self._queue.mark_measured()
        if self._queue.all_measured:
            self._pool.provide_scalars(self._scalars)

    def take_stored(self, visit: Visit) -> None:
        """Tell the source that a visit is stored."""
        self._source.take_stored(visit)

    def _add_directions(self, directions: Sequence[Direction]) -> None:
        """Queue directions that are not stored; send the scalars of the others to the actors if there are no such."""
        if not directions:
            return
        unmeasured = self._unmeasured(directions)
        self._queue.add([], unmeasured)
        if not unmeasured:
            self._pool.provide_scalars(self._scalars)

    def _speculate(self) -> Sequence[Visit]:
        """Queue speculative visits for actors that would be idle while others work. Return them."""
        idle = len(self._pool.slots_holding(0)) - len(self._queue)
        if idle <= 0 or not self._pool.busy:
            return ()
        guesses = self._source.speculate(idle)
        self._queue.add_speculative(guesses)
        return guesses

    def _unmeasured(self, directions: Iterable[Direction]) -> list[Direction]:
        """Read the scalars of the directions that are stored; return the others."""
        unmeasured = []
        for direction in directions:
            table = self._study.directions.read(direction.id)
            if table is None:
                unmeasured.append(direction)
            else:
                self._scalars[direction.id] = table
        return unmeasured
