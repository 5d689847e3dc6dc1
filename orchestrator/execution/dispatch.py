"""Dispatch visits to Ray actors in one wait loop.

A visit flows: queue -> slot -> actor -> receipt -> store.

    VisitQueue   holds the visits that no actor has, counts failed attempts, and gives up visits that fail too often
    ActorPool    starts actors and assigns each a slot; a slot holds one running visit and the next one
    Actor        (in `workers`) writes the weights of the visit's point, generates and stores responses, sends a receipt
    Dispatcher   assigns visits, takes receipts, replaces actors that died, are late or broken
    Supply       keeps the queue filled: with directions to measure, visits, and what a WorkSource adds to them
    WorkSource   adds visits that depend on results, and what is to be done after the last visit

The dispatcher has no state that must survive it: after a restart, the sweep's tasks minus those stored remain to do.
`events.py` lists the events that it reports.
"""

from __future__ import annotations

import math
import signal
import threading
import time
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError

from orchestrator.execution.actor_pool import ActorPool, ActorSlot
from orchestrator.execution.deadlines import VisitDeadlines, token_budget
from orchestrator.execution.events import WorkItem, item_fields, last_line, shortened
from orchestrator.execution.outcome import Outcome
from orchestrator.execution.placement import NoActorPlacedError
from orchestrator.execution.session_watch import check_session
from orchestrator.execution.setup import DispatchSetup
from orchestrator.execution.supply import Supply
from orchestrator.execution.visit_queue import VisitQueue
from orchestrator.execution.work_source import WorkSource
from orchestrator.sweep.continuations import ContinuationBatch
from orchestrator.sweep.directions import Direction
from orchestrator.sweep.tasks import PromptSet, Visit
from orchestrator.utils.errors import SessionLostError, UserError
from workers.actor import LogProbabilityReceipt, Receipt
from workers.failures import EngineLostError

if TYPE_CHECKING:
    import pyarrow as pa


CHECK_INTERVAL = 1.0  # seconds between two checks of deadlines and of the number of actors


class Dispatcher:
    """Dispatcher of one run: it runs visits on actors until each visit is stored or given up."""

    def __init__(self, setup: DispatchSetup) -> None:
        """Prepare a run; nothing is started yet."""
        self.outcome = Outcome()  # totals so far; valid even if `run` raises
        self._study, self._policy, self._observe = setup.study, setup.policy, setup.observe
        self._queue = VisitQueue(setup.policy.max_attempts, self.outcome, setup.observe)
        self._pool = ActorPool(setup, self.outcome)
        self._supply = Supply(setup, self._queue, self._pool, self.outcome)
        self._deadlines = VisitDeadlines(setup.policy)
        self._signals = _StopSignals()
        self._prompt_sets: Mapping[str, PromptSet] = {}
        self._ended_actors: set[str] = set()  # ids of items whose failure led to the replacement of an actor
        self._last_check = -math.inf

    def run(
        self,
        visits: Sequence[Visit],
        prompt_sets: Mapping[str, PromptSet],
        directions: Sequence[Direction],
        source: WorkSource | None = None,
    ) -> Outcome:
        """Measure the directions that are not stored, run the visits in their order, and what the source adds.

        The first SIGINT or SIGTERM lets running visits finish; the second one stops at once. A run that gets none of
        the cluster's resources within `DispatchPolicy.wait_limit` ends as if it was interrupted.

        Args:
            visits: The visits to run.
            prompt_sets: Prompt set id -> prompt set, for every prompt set of the visits.
            directions: Every direction of the visits' points that needs scalars.
            source: Adds further visits, and continuations to measure at the end. None: nothing.

        Returns:
            The totals of this run. Visits that were given up are in its `failures`.

        Raises:
            SessionLostError: If a process of the local Ray session has ended. Nothing can be dispatched in it any more.
            UserError: If an actor cannot start, or a visit cannot run, for a reason that the user has to correct.
            RuntimeError: If measuring a direction fails too often.
        """
        self._prompt_sets = prompt_sets
        self._supply.begin(visits, directions, source or WorkSource())
        if not visits and not self._supply.add_work():
            return self.outcome
        self._pool.open(prompt_sets, self._supply.scalars)
        with self._signals:
            try:
                self._loop()
                self._pool.close_idle()
            except KeyboardInterrupt:  # the second signal
                self.outcome.interrupted = True
            except NoActorPlacedError as error:
                self.outcome.interrupted = True
                self._observe("wait_ended", why=str(error))
            except SessionLostError:
                self._pool.abandon()
                raise
            except Exception:
                check_session()  # rather the cause than the error that it led to
                raise
            finally:
                self._pool.shut_down()
                self.outcome.unneeded = self._supply.unneeded
                self._observe("dispatch_finished", **self.outcome.event_fields())
        return self.outcome

    def _loop(self) -> None:
        """Keep actors at work until nothing is left, or until a signal arrives."""
        while self._supply.add_work() or len(self._queue) > 0 or self._pool.busy > 0:
            check_session()
            self._check_actors()
            self._assign()
            for slot in self._pool.wait():
                if slot.is_ready:
                    self._handle_result(slot)
                else:
                    self._pool.finish_start(slot)
            if self._signals.received:
                self._finish_running()
                break

    # Assigning work.

    def _check_actors(self) -> None:
        """Replace late actors and start missing ones, at most once per CHECK_INTERVAL seconds."""
        if time.monotonic() - self._last_check < CHECK_INTERVAL:
            return
        self._last_check = time.monotonic()
        self._replace_late()
        self._pool.end_late_starts()
        self._pool.start_missing(len(self._queue))
        self._pool.check_placement(len(self._queue))

    def _assign(self) -> None:
        """Assign one item to each actor, then a second one unless so few are left that other actors would be idle."""
        ready = {slot.number for slot in self._pool.slots if slot.is_ready}
        for items in range(self._policy.in_flight):
            for slot in self._pool.slots_holding(items):
                if not len(self._queue) or (items > 0 and self._queue.n_visits <= len(self._pool.slots)):
                    return
                item = self._queue.take(idle=not slot.assigned, slot=slot.number, ready=ready)
                if item is None:
                    continue
                slot.assign(item)
                if isinstance(item, Visit):
                    self._observe("visit_given", slot=slot.number, **item_fields(item))

    # Taking results.

    def _handle_result(self, slot: ActorSlot) -> None:
        """Take the result of the running item, or replace the actor if there will be none."""
        try:
            result = ray.get(slot.next_result)
        except RayTaskError as error:
            self._handle_error(slot, error)
        except RayError as error:
            check_session()  # no visit is to blame if the whole session has ended
            self._replace(slot, str(error), blamed=not self._pool.was_lost(slot, error))
        else:
            started = slot.running_since
            item = slot.finish_running()
            if isinstance(item, Direction):
                self._take_direction(slot, item, result, time.monotonic() - started)
            elif isinstance(item, ContinuationBatch):
                self._take_log_probabilities(slot, item, result)
            else:
                self._take_receipt(slot, item, result)

    def _handle_error(self, slot: ActorSlot, error: RayTaskError) -> None:
        """Handle an exception that the running item raised in its actor; the actor itself is still alive."""
        if isinstance(error.cause, UserError):
            raise error.cause from None
        if isinstance(error.cause, EngineLostError):
            self._replace_lost(slot, str(error.cause))
            return
        if isinstance(slot.running, Direction):
            raise error
        item, why = slot.finish_running(), str(error)
        is_visit = isinstance(item, Visit)
        event = "visit_failed" if is_visit else "continuations_failed"
        self._observe(event, slot=slot.number, why=shortened(why), **item_fields(item))
        if isinstance(item, Visit) and slot.last_visit_failed:  # the engine may be at fault: try another actor
            self._queue.put_last(item)
            self._replace_broken(slot, item, why)
        else:
            self._queue.record_failure(item, why)
        slot.last_visit_failed = is_visit

    def _take_direction(self, slot: ActorSlot, direction: Direction, scalars: pa.Table, seconds: float) -> None:
        """Store a measured direction."""
        self._study.directions.write(direction.id, direction.to_json(), scalars)
        self._supply.take_direction(direction, scalars)
        self._observe("direction_measured", slot=slot.number, direction=direction.id, seconds=seconds)

    def _take_log_probabilities(
        self, slot: ActorSlot, batch: ContinuationBatch, receipt: LogProbabilityReceipt
    ) -> None:
        """Store the log-probabilities of a batch."""
        self._study.log_probabilities.write(batch.id, receipt.table, slot.description["engine"])
        self._deadlines.record(token_budget(batch, self._prompt_sets), receipt.seconds)
        self._observe("continuations_done", slot=slot.number, **receipt.event_fields(), **item_fields(batch))

    def _take_receipt(self, slot: ActorSlot, visit: Visit, receipt: Receipt) -> None:
        """Count a completed visit, and store its rows if they are in the receipt."""
        if receipt.table is not None:
            self._study.generations.write(visit.id, receipt.table, slot.description["engine"])
        self._study.generations.add_expected_part(visit.id)
        self._supply.take_stored(visit)
        self._deadlines.record(token_budget(visit, self._prompt_sets), receipt.seconds)
        self._pool.record_success(slot)
        self.outcome.add_visit(receipt)
        self.outcome.speculative += self._queue.is_speculative(visit)
        self._observe(
            "visit_done",
            slot=slot.number,
            tasks=len(visit.prompt_set_ids),
            responses=receipt.n_responses,
            tokens=receipt.n_tokens,
            seconds=round(receipt.seconds, 4),
            write_seconds=round(receipt.write_seconds, 4),
            peak_memory_bytes=receipt.peak_memory_bytes,
            **item_fields(visit),
        )

    # Replacing actors.

    def _replace(self, slot: ActorSlot, why: str, blamed: bool = True) -> None:
        """End an actor and return its items to the queue; the next `_check_actors` starts another one.

        Args:
            slot: The actor's slot.
            why: The reason, for the event log and for the list of failed attempts of a blamed item.
            blamed: Whether the running item counts as failed.
        """
        while slot.assigned and self._take_stored(slot):
            pass  # this visit is stored, but the actor died before its receipt arrived; check its next item
        running, items = slot.running, [item for _, item in slot.assigned]
        self._observe("actor_died", slot=slot.number, why=shortened(why), blamed=blamed, **item_fields(running))
        if running is not None and blamed:
            self._queue.record_failure(running, why)
            items = items[1:]
        self._queue.put_back(items)
        self._pool.retire(slot)
        self.outcome.restarts += 1
        self._last_check = -math.inf

    def _take_stored(self, slot: ActorSlot) -> bool:
        """Count a dead actor's running visit as completed if the actor stored it. Return whether it did."""
        visit = slot.running
        table = self._study.generations.read_visit(visit.id) if isinstance(visit, Visit) else None
        if table is None or not isinstance(visit, Visit):
            return False
        slot.finish_running()
        seconds = float(table["seconds"][0].as_py()) if table.num_rows else 0.0
        tokens = sum(table["n_tokens"].to_pylist())
        receipt = Receipt(table.num_rows, tokens, seconds, 0.0, 0, slot.description["engine_id"])
        self._take_receipt(slot, visit, receipt)
        return True

    def _replace_late(self) -> None:
        """Replace actors whose running item is past its deadline. That does not count as a failure of a direction."""
        for slot in self._pool.slots:
            item = slot.running
            if isinstance(item, Direction):
                limit = self._deadlines.limit_of_direction(item.id, slot.description["load_seconds"])
                if slot.is_late(limit):
                    self._deadlines.record_late_direction(item.id)
                    self._replace(slot, f"past its deadline of {limit:.0f} s", blamed=False)
            elif item is not None:
                allowed = self._deadlines.limit(token_budget(item, self._prompt_sets))
                if not slot.is_late(allowed):
                    continue
                why = f"past its deadline of {allowed:.0f} s"
                if self._deadlines.pace_is_known:
                    self._replace(slot, why)
                else:  # perhaps the engine never answers
                    self._replace_lost(slot, f"{why} for one of the first visits (cluster.min_tokens_per_second)")

    def _replace_broken(self, slot: ActorSlot, visit: Visit, why: str) -> None:
        """Replace an actor of which two visits in a row failed."""
        self._replace(slot, f"two visits in a row failed: {last_line(why)}", blamed=False)
        self._count_if_never_worked(slot, visit, why)

    def _replace_lost(self, slot: ActorSlot, why: str) -> None:
        """Replace an actor whose engine cannot go on; its visit is tried in another slot if there is one."""
        item = slot.running
        if isinstance(item, (Visit, ContinuationBatch)):
            self._queue.avoid(item, slot.number)
        self._replace(slot, why)
        if item is not None:
            self._count_if_never_worked(slot, item, why)

    def _count_if_never_worked(self, slot: ActorSlot, item: WorkItem, why: str) -> None:
        """Count the start of a replaced actor as failed if the actor has never completed a visit.

        So an engine that never works, or a GPU on which none works, ends its slot and perhaps the run. The start does
        not count if the same item has led to a replacement before: perhaps the items that are left fail on every actor.
        """
        start_failed = not slot.has_completed_visit and item.id not in self._ended_actors
        self._ended_actors.add(item.id)
        if start_failed:
            self._pool.count_failed_start(slot.number, why)

    # Stopping.

    def _finish_running(self) -> None:
        """After a signal: assign nothing more and wait, within the grace period, for the running items."""
        self._observe("stopping", signal=self._signals.received[0])
        self.outcome.interrupted = True
        running = {slot.next_result: slot for slot in self._pool.slots if slot.assigned}
        until = time.monotonic() + self._policy.grace
        while running and time.monotonic() < until:
            arrived, _ = ray.wait(list(running), num_returns=1, timeout=0.5)
            for reference in arrived:
                self._handle_result(running.pop(reference))


class _StopSignals:
    """Signal handlers that record the first SIGINT or SIGTERM; the second one raises KeyboardInterrupt.

    Only the main thread may install signal handlers; in other threads nothing is recorded.
    """

    def __init__(self) -> None:
        self.received: list[str] = []
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._record) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _record(self, signum: int, frame: types.FrameType | None) -> None:
        self.received.append(signal.Signals(signum).name)
        if len(self.received) > 1:
            raise KeyboardInterrupt
