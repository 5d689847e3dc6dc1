"""Wait of actors that the cluster has not placed yet: it is told to the user, and limited for a run without any actor.

Ray itself waits without limit and without a word until a node has enough free resources.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.execution.events import Observer
from orchestrator.execution.policy import DispatchPolicy
from orchestrator.utils.console import duration

FIRST_NOTICE = 5.0  # seconds after which a wait for resources is told; a process needs one or two to start
SECOND_NOTICE = 60.0  # seconds after which it is told again; then each time that the wait has doubled

NodeResources = Callable[[], Sequence[tuple[Mapping[str, float], Mapping[str, float]]]]
"""Returns (free, total) resources of each node on which an actor may run."""


class NoActorPlacedError(Exception):
    """The cluster had no free resources for any actor within `cluster.wait_limit` seconds."""


class PlacementWait:
    """Time for which actors of a run have waited for the cluster's resources.

    Args:
        policy: The resources of an actor, and the limit.
        nodes: Returns the resources of the cluster's nodes.
        observe: Called with each event.
    """

    def __init__(self, policy: DispatchPolicy, nodes: NodeResources, observe: Observer) -> None:
        self._limit, self._nodes, self._observe = policy.wait_limit, nodes, observe
        self._needed = policy.resources
        self._since: float | None = None  # since when actors wait; None if none does
        self._has_actor = False  # whether the run had an actor when the wait began
        self._next_notice = 0.0  # seconds of waiting after which the wait is told

    def check(self, pending: int, placed: int) -> None:
        """Tell of a wait if it is due.

        A run that has an actor goes on with it: its wait for further ones is told once and has no limit.

        Args:
            pending: Number of actors that are wanted and have no process yet.
            placed: Number of actors that have one.

        Raises:
            NoActorPlacedError: If the run has no actor and has waited for longer than the limit.
        """
        now = time.monotonic()
        if not pending:
            self._since = None
            return
        if self._since is None or self._has_actor != (placed > 0):
            self._since, self._has_actor, self._next_notice = now, placed > 0, FIRST_NOTICE
        waited = now - self._since
        if not placed and waited > self._limit:
            why = _describe(self._fields(pending, placed, waited))
            hint = "stored results are kept, and the same command resumes"
            raise NoActorPlacedError(f"cluster.wait_limit={self._limit:g}: {why}; {hint}")
        if waited < self._next_notice or (waited < SECOND_NOTICE and not self._is_short()):
            return
        self._next_notice = max(SECOND_NOTICE, 2 * waited) if not placed else float("inf")
        self._observe("actors_waiting", **self._fields(pending, placed, waited))

    def _is_short(self) -> bool:
        """Return whether no node has free what an actor needs. Otherwise Ray is only slow to start its process."""
        return not any(
            all(free.get(name, 0.0) >= amount for name, amount in self._needed.items()) for free, _ in self._nodes()
        )

    def _fields(self, pending: int, placed: int, waited: float) -> dict[str, Any]:
        """Return the fields of the event `actors_waiting`."""
        nodes = self._nodes()
        return {
            "pending": pending,
            "placed": placed,
            "seconds": round(waited, 1),
            "limit": self._limit,
            "needed": self._needed,
            "free": {name: sum(free.get(name, 0.0) for free, _ in nodes) for name in self._needed},
            "most_free": {name: max((free.get(name, 0.0) for free, _ in nodes), default=0.0) for name in self._needed},
            "total": {name: sum(total.get(name, 0.0) for _, total in nodes) for name in self._needed},
        }


def describe_wait(fields: Mapping[str, Any]) -> str:
    """Return what an event `actors_waiting` with these fields tells the user, without an end mark."""
    if fields["placed"]:
        return _describe(fields)
    return f"{_describe(fields)}; waiting for at most {duration(fields['limit'])} (cluster.wait_limit)"


def _describe(fields: Mapping[str, Any]) -> str:
    needed, free, most, total = (fields[name] for name in ("needed", "free", "most_free", "total"))
    needs = " and ".join(f"{amount:g} {name}" for name, amount in needed.items()) or "no GPU or CPU of its own"
    has = [
        f"{free[name]:g} of {total[name]:g} {name}"
        + (f" (at most {most[name]:g} on one node)" if most[name] < amount <= free[name] else "")
        for name, amount in needed.items()
    ]
    resources = f"{needs}, and the cluster has free: {', '.join(has)}" if has else needs
    if fields["placed"]:
        wait = "1 more actor waits" if fields["pending"] == 1 else f"{fields['pending']:,} more actors wait, each"
        return f"{wait} for {resources}; the run goes on with {fields['placed']:,}"
    return f"no actor has started for {duration(fields['seconds'])}: each needs {resources}"
