"""Order, retries and giving up in the queue of visits, and deadlines from earlier visits."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.execution.deadlines import VisitDeadlines
from orchestrator.execution.outcome import Outcome
from orchestrator.execution.policy import DispatchPolicy
from orchestrator.execution.visit_queue import VisitQueue
from orchestrator.sweep.continuations import Continuation, ContinuationBatch
from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import ORIGIN, Point
from orchestrator.sweep.tasks import Visit

DIRECTION = RandomDirection(1)
AT_ORIGIN = Visit(ORIGIN, ("set",))
FIRST, SECOND = (Visit(Point.from_coefficients([(DIRECTION, alpha)]), ("set",)) for alpha in (0.1, 0.2))


class Queue(VisitQueue):
    """A queue that allows two attempts, with its events and outcome."""

    def __init__(self) -> None:
        self.outcome = Outcome()
        self.events: list[tuple[str, dict[str, Any]]] = []
        super().__init__(2, self.outcome, lambda event, **fields: self.events.append((event, fields)))


def test_visits_away_from_the_origin_wait_until_every_direction_is_measured() -> None:
    queue = Queue()
    queue.add([AT_ORIGIN, FIRST], [DIRECTION])
    assert len(queue) == 3 and queue.n_visits == 2
    assert queue.take(idle=False) == AT_ORIGIN, "an actor that is not idle gets no direction"
    assert queue.take(idle=True) == DIRECTION
    assert queue.take(idle=True) is None and not queue.all_measured
    queue.mark_measured()
    assert queue.all_measured and queue.take(idle=False) == FIRST and len(queue) == 0


def test_items_of_a_replaced_actor_are_put_back_first_in_their_order() -> None:
    queue = Queue()
    queue.add([SECOND], [])
    queue.put_back([AT_ORIGIN, FIRST])
    assert [queue.take(idle=True) for _ in range(4)] == [AT_ORIGIN, FIRST, SECOND, None]


def test_a_failed_visit_comes_last_and_is_given_up_after_the_last_attempt() -> None:
    queue = Queue()
    queue.add([SECOND], [])
    queue.record_failure(FIRST, "Traceback\n  line\nValueError: first\n")
    assert [queue.take(idle=True), queue.take(idle=True)] == [SECOND, FIRST] and not queue.events
    queue.record_failure(FIRST, "second")
    assert queue.take(idle=True) is None
    (failure,) = queue.outcome.failures
    assert (failure.visit, failure.errors) == (FIRST, ["ValueError: first", "second"])
    fields = {"story": failure.errors, "visit": FIRST.id, "point_id": FIRST.point.id, "prompt_set_ids": ["set"]}
    assert queue.events == [("visit_quarantined", fields)]


def test_a_speculative_visit_that_fails_is_dropped_and_tried_as_any_other_when_it_is_added_again() -> None:
    queue = Queue()
    queue.add_speculative([FIRST])
    assert queue.take(idle=True) == FIRST and queue.is_speculative(FIRST)
    queue.record_failure(FIRST, "first")
    assert queue.take_dropped() == [FIRST] and queue.take_dropped() == []
    assert len(queue) == 0 and not queue.outcome.failures and not queue.events
    queue.add([FIRST], [])
    for error in ("second", "third"):
        assert queue.take(idle=True) == FIRST and not queue.is_speculative(FIRST)
        queue.record_failure(FIRST, error)
    assert queue.outcome.failures[0].errors == ["second", "third"]


def test_a_direction_that_cannot_be_measured_ends_the_run() -> None:
    queue = Queue()
    queue.record_failure(DIRECTION, "it died")
    assert queue.take(idle=True) == DIRECTION
    with pytest.raises(RuntimeError, match=f"measuring direction {DIRECTION.id} killed every actor that tried"):
        queue.record_failure(DIRECTION, "it died")


def test_the_deadline_is_a_multiple_of_the_median_time_per_token() -> None:
    policy = DispatchPolicy(
        deadline_floor=1.0, deadline_factor=10.0, deadline_after=3, first_deadline_floor=60.0, min_tokens_per_second=0.5
    )
    deadlines = VisitDeadlines(policy)
    for seconds in (1.0, 2.0):
        deadlines.record(100, seconds)
        assert not deadlines.pace_is_known, "too few visits are completed"
        assert (deadlines.limit(10), deadlines.limit(100)) == (60.0, 200.0)
    deadlines.record(100, 300.0)
    assert deadlines.limit(100) == pytest.approx(20.0) and deadlines.limit(200) == pytest.approx(40.0)
    assert deadlines.limit(1) == 1.0, "the floor"
    deadlines.record(100, 1.0)
    assert deadlines.limit(100) == pytest.approx(15.0)


def test_the_deadline_of_a_direction_is_a_multiple_of_the_load_time_and_doubles_when_it_passes() -> None:
    deadlines = VisitDeadlines(DispatchPolicy(deadline_floor=120.0, deadline_factor=10.0))
    assert deadlines.limit_of_direction("a", 1.0) == 120.0 and deadlines.limit_of_direction("a", 60.0) == 600.0
    deadlines.record_late_direction("a")
    deadlines.record_late_direction("a")
    assert deadlines.limit_of_direction("a", 1.0) == 480.0 and deadlines.limit_of_direction("b", 1.0) == 120.0


def test_batches_of_continuations_need_no_direction_and_are_given_up_without_a_failure() -> None:
    queue = Queue()
    batch = ContinuationBatch((Continuation("c", "p", (1, 2), "text"),))
    queue.add([batch], [DIRECTION])
    assert queue.n_visits == 1 and queue.take(idle=False) == batch
    queue.record_failure(batch, "first")
    assert queue.take(idle=False) == batch and queue.events == []
    queue.record_failure(batch, "second")
    assert queue.n_visits == 0 and queue.outcome.failures == []
    assert queue.events == [("continuations_given_up", {"story": ["first", "second"], "batch": batch.id})]


def test_a_visit_is_left_for_another_slot_after_its_engine_was_lost_in_one() -> None:
    queue = Queue()
    queue.add([FIRST, SECOND], [])
    queue.avoid(FIRST, 0)
    assert queue.take(idle=True, slot=0, ready={1}) == SECOND, "the order of the others stays"
    assert queue.take(idle=True, slot=0, ready={1}) is None
    assert queue.take(idle=True, slot=1, ready={0}) == FIRST
    queue.avoid(FIRST, 1)
    queue.put_last(FIRST)
    assert queue.take(idle=True, slot=0, ready={1, 2}) is None, "slot 2 has not tried it"
    assert queue.take(idle=True, slot=0, ready={1}) == FIRST, "all that are ready have tried it"
    queue.put_last(FIRST)
    assert queue.take(idle=True, slot=0) == FIRST, "nobody else is ready"


def test_a_visit_that_is_avoided_does_not_let_others_overtake_the_directions() -> None:
    queue = Queue()
    queue.add([AT_ORIGIN, FIRST], [DIRECTION])
    queue.avoid(AT_ORIGIN, 0)
    assert queue.take(idle=True, slot=0, ready={1}) == DIRECTION
    assert queue.take(idle=True, slot=0, ready={1}) is None, "FIRST needs the direction"
