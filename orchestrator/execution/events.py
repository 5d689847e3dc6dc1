"""Events of a dispatch, which the dispatcher reports to its observer and which are written to the run's event log.

The log also has `run_started` and `run_finished` (see docs/formats.md and docs/study.md). Each event and its fields:

    actor_starting         slot
    actors_waiting         pending, placed: number of actors without and with a process; seconds; limit; needed:
                           resource -> amount for each actor; free, total: of all nodes; most_free: of one node
    wait_ended             why: no actor was placed within cluster.wait_limit, and the run ends as if interrupted
    actor_ready            slot, gpus, and the description from `Actor.load`: actor, pid, host, node, engine, engine_id,
                           versions, machine, load_seconds
    actor_failed_to_start  slot, why: the start failed, or the actor and its node are refused
    actor_abandoned        slot: it failed to start too often; the other slots go on
    actor_died             slot, why, blamed, and the visit or direction that was running. The actor died, was late, or
                           its engine was broken or lost its GPU; in all but the first case the dispatcher ended it
    visits_added           visits: so many were added to those that the run began with (adaptive grids), speculative of
                           them before any level asked for them
    visit_given            slot, visit, point_id, prompt_set_ids: the visit runs, or is next in the actor's queue
    visit_done             slot, visit, point_id, prompt_set_ids, tasks, responses, tokens, seconds, write_seconds,
                           peak_memory_bytes
    visit_failed           slot, visit, point_id, prompt_set_ids, why: the visit may be tried again
    visit_quarantined      visit, point_id, prompt_set_ids, story: the visit is given up: not tried again in this run
    direction_measured     slot, direction, seconds
    continuations_queued   continuations: all visits are done, and so many responses have no log-probability yet
    continuations_done     slot, batch, continuations, tokens, seconds: their log-probabilities are stored
    continuations_failed   slot, batch, why: the batch may be tried again
    continuations_given_up batch, story: the batch is not tried again in this run
    stopping               signal
    dispatch_finished      visits, responses, tokens, restarts, gpu_seconds, ready_seconds, idle_seconds, speculative,
                           unneeded, failures, interrupted: totals of this run (see `RunTotals`)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.sweep.continuations import ContinuationBatch
from orchestrator.sweep.directions import Direction
from orchestrator.sweep.tasks import Visit

Observer = Callable[..., None]
"""Called as `observer(event, **fields)` for each event, in the order in which they happen."""


def ignore_event(event: str, **fields: Any) -> None:
    """Observer that does nothing."""


def all_of(*observers: Observer) -> Observer:
    """Return an observer that calls these observers, in their order."""

    def observe(event: str, **fields: Any) -> None:
        for observer in observers:
            observer(event, **fields)

    return observe


WorkItem = Visit | Direction | ContinuationBatch
"""Unit of work for an actor: a visit to run, a direction to measure, or continuations to measure at the origin."""

LONGEST_REASON = 2000  # maximum number of characters of an error in an event, from its end, where the message is


def item_fields(item: WorkItem | None) -> dict[str, Any]:
    """Return the event fields that identify a work item; an empty dictionary for None."""
    if item is None:
        return {}
    if isinstance(item, Direction):
        return {"direction": item.id}
    if isinstance(item, ContinuationBatch):
        return {"batch": item.id}
    return {"visit": item.id, "point_id": item.point.id, "prompt_set_ids": list(item.prompt_set_ids)}


def shortened(why: str) -> str:
    """Return the last lines of an error message, at most LONGEST_REASON characters: the part that events keep."""
    if len(why) <= LONGEST_REASON:
        return why
    end = why[-LONGEST_REASON:]
    return end.partition("\n")[2] or end  # the first line is cut, perhaps in the middle of a path


def last_line(why: str) -> str:
    """Return the last line of an error message: a traceback ends with the error itself."""
    lines = why.strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"
