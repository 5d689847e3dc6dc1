"""Queue of the work that no actor holds: visits to run and directions to measure. It also counts failed attempts.

A visit flows: queue -> slot -> actor -> receipt -> store. It leaves the queue when it is assigned to an actor's slot
and comes back if it failed or its actor died. After too many failed attempts the run gives it up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence

from orchestrator.execution.events import Observer, WorkItem, item_fields, last_line
from orchestrator.execution.outcome import Failure, Outcome
from orchestrator.sweep.continuations import ContinuationBatch
from orchestrator.sweep.directions import Direction
from orchestrator.sweep.tasks import Visit


class VisitQueue:
    """Queue of visits in their order and, ahead of them, the directions to measure.

    Moving along a direction requires its scalars. Until every direction is measured, `take` returns visits of the
    origin only. Batches of continuations, which are measured at the origin, wait among the visits.
    """

    def __init__(self, max_attempts: int, outcome: Outcome, observe: Observer) -> None:
        self._max_attempts = max_attempts
        self._outcome = outcome
        self._observe = observe
        self._visits: deque[Visit | ContinuationBatch] = deque()
        self._directions: deque[Direction] = deque()
        self._unmeasured = 0  # number of directions without a result, including those that an actor is measuring
        self._avoided: dict[str, set[int]] = {}  # slots whose engines were lost with an item, by its id
        self._errors: dict[str, list[str]] = {}  # why each attempt failed, by the id of the visit or direction
        self._speculative: set[str] = set()  # ids of visits that nothing asks for yet
        self._dropped: list[Visit] = []

    def add(self, visits: Iterable[Visit | ContinuationBatch], directions: Iterable[Direction]) -> None:
        """Append visits or batches of continuations, and directions that have to be measured before them."""
        added = list(directions)
        self._visits.extend(visits)
        self._directions.extend(added)
        self._unmeasured += len(added)

    def add_speculative(self, visits: Iterable[Visit]) -> None:
        """Append visits that nothing asks for yet. They are dropped, not tried again, if they fail."""
        added = list(visits)
        self._visits.extend(added)
        self._speculative.update(visit.id for visit in added)

    def is_speculative(self, visit: Visit) -> bool:
        """Return whether a visit was added by `add_speculative`."""
        return visit.id in self._speculative

    def take_dropped(self) -> list[Visit]:
        """Return the speculative visits that have failed since the last call."""
        dropped, self._dropped = self._dropped, []
        return dropped

    @property
    def n_visits(self) -> int:
        """Number of visits that wait."""
        return len(self._visits)

    @property
    def all_measured(self) -> bool:
        """True if every direction has a result."""
        return self._unmeasured == 0

    def __len__(self) -> int:
        return len(self._visits) + len(self._directions)

    def take(self, idle: bool, slot: int = 0, ready: Collection[int] = ()) -> WorkItem | None:
        """Remove and return the next item for an actor, or None if there is nothing for it yet.

        Args:
            idle: Whether the actor has nothing to do. Directions go to idle actors only.
            slot: Number of the actor's slot.
            ready: Numbers of the slots whose actors are ready. Items that avoid `slot` are left for those that they do
                not avoid.
        """
        if self._directions and idle:
            return self._directions.popleft()
        for i, item in enumerate(self._visits):
            avoided = self._avoided.get(item.id, frozenset[int]())
            if slot in avoided and not avoided.issuperset(ready):
                continue
            if not self.all_measured and not _is_at_origin(item):
                return None
            del self._visits[i]
            return item
        return None

    def avoid(self, item: Visit | ContinuationBatch, slot: int) -> None:
        """Let an item avoid a slot from now on, because the engine there was lost with it."""
        self._avoided.setdefault(item.id, set()).add(slot)

    def put_back(self, items: Sequence[WorkItem]) -> None:
        """Return items to the front, in their order, without counting an attempt."""
        for item in reversed(items):
            if isinstance(item, Direction):
                self._directions.appendleft(item)
            else:
                self._visits.appendleft(item)

    def put_last(self, visit: Visit | ContinuationBatch) -> None:
        """Return a visit to the end, where it delays the others least, without counting an attempt."""
        self._visits.append(visit)

    def drop(self) -> None:
        """Remove everything that waits."""
        self._visits.clear()
        self._directions.clear()

    def mark_measured(self) -> None:
        """Count one direction as measured."""
        self._unmeasured -= 1

    def record_failure(self, item: WorkItem, why: str) -> None:
        """Count a failed attempt; return the item to the queue, or give it up after the last allowed attempt.

        A speculative visit is dropped. If it is added again, it is tried as often as any other.

        Raises:
            RuntimeError: If the item is a direction and this was its last allowed attempt: no visit can do without it.
        """
        if isinstance(item, Visit) and item.id in self._speculative:
            self._speculative.discard(item.id)
            self._dropped.append(item)
            return
        errors = self._errors.setdefault(item.id, [])
        errors.append(last_line(why))
        exhausted = len(errors) >= self._max_attempts
        if isinstance(item, Direction):
            if exhausted:
                raise RuntimeError(f"measuring direction {item.id} killed every actor that tried: {why}")
            self._directions.appendleft(item)
        elif not exhausted:
            self.put_last(item)
        elif isinstance(item, ContinuationBatch):
            self._observe("continuations_given_up", story=errors, **item_fields(item))
        else:
            self._outcome.failures.append(Failure(item, errors))
            self._observe("visit_quarantined", story=errors, **item_fields(item))


def _is_at_origin(item: Visit | ContinuationBatch) -> bool:
    return isinstance(item, ContinuationBatch) or item.point.is_origin
