"""Ray actors of a dispatch: start them, refuse unsuitable ones, wait for their results, and retire them.

An actor has a numbered slot, which its replacement takes over. A slot holds the items that were assigned to its actor,
in order. The first one runs; the others wait in the actor's own queue, so that its device never waits for the driver.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorUnavailableError, NodeDiedError, RayError, RayTaskError

from orchestrator.execution.cluster import has_process, resources_of_nodes
from orchestrator.execution.events import WorkItem, last_line, shortened
from orchestrator.execution.outcome import Outcome
from orchestrator.execution.placement import PlacementWait
from orchestrator.execution.session_watch import check_session
from orchestrator.execution.setup import DispatchSetup
from orchestrator.store.temporary import create_disk_token, remove_disk_token
from orchestrator.sweep.continuations import ContinuationBatch
from orchestrator.sweep.directions import ENTRY_POINTS, Direction
from orchestrator.sweep.tasks import PromptSet
from orchestrator.utils.errors import NodeError, UserError
from orchestrator.utils.plugins import loaded_modules
from workers.actor import DRIVER

if TYPE_CHECKING:
    import pyarrow as pa


CLOSE_TIMEOUT = 5.0  # seconds that idle actors get at the end to release resources that would outlive them
PROBES = 16  # maximum number of actors for which a check asks Ray whether they have a process: a millisecond each
LATE_TIMEOUT = 1.0  # seconds to wait for a late result before its actor is replaced


@dataclass
class ActorSlot:
    """One actor and the items assigned to it.

    Attributes:
        number: Number of the slot, from 0.
        handle: Ray's handle of the actor.
        created: Reference that Ray resolves when the actor's constructor has returned.
        loading: Reference to the result of `load`; None once the actor is ready.
        loading_since: Monotonic time since which the actor's process is known to run; None before, when the actor may
            wait for resources.
        ready_since: Monotonic time at which the actor became ready; None before.
        description: What `load` returned; empty before.
        assigned: References and items in order; the first item runs.
        running_since: Monotonic time since which the first item runs.
        idle_since: Monotonic time since which nothing is assigned to the ready actor.
        idle_seconds: Time for which nothing was assigned before.
        has_completed_visit: Whether the actor has completed a visit.
        last_visit_failed: Whether the latest visit failed.
    """

    number: int
    handle: Any
    created: Any
    loading: Any
    loading_since: float | None = None
    ready_since: float | None = None
    description: Mapping[str, Any] = field(default_factory=dict)
    assigned: collections.deque[tuple[Any, WorkItem]] = field(default_factory=collections.deque)
    running_since: float = 0.0
    idle_since: float = 0.0
    idle_seconds: float = 0.0
    has_completed_visit: bool = False
    last_visit_failed: bool = False

    @property
    def is_ready(self) -> bool:
        """True if the actor has loaded its engine and is admitted."""
        return self.loading is None

    @property
    def next_result(self) -> Any:
        """Ray reference to the next result that the actor will return; None if no call is pending."""
        if self.loading is not None:
            return self.loading
        return self.assigned[0][0] if self.assigned else None

    @property
    def running(self) -> WorkItem | None:
        """The item that runs, or None."""
        return self.assigned[0][1] if self.assigned else None

    def assign(self, item: WorkItem) -> None:
        """Send an item to the actor."""
        if isinstance(item, ContinuationBatch):
            method = self.handle.log_probabilities
        else:
            method = self.handle.measure if isinstance(item, Direction) else self.handle.visit
        reference = method.remote(item)
        if not self.assigned:
            self.running_since = time.monotonic()
            self.idle_seconds += self.running_since - self.idle_since
        self.assigned.append((reference, item))

    def finish_running(self) -> WorkItem:
        """Remove and return the running item. The next one runs from now on."""
        self.running_since = self.idle_since = time.monotonic()
        return self.assigned.popleft()[1]

    def is_late(self, limit: float) -> bool:
        """Return whether the running item takes longer than `limit` seconds and has no result yet.

        If the driver was slow, the result may have arrived by now, so this waits up to LATE_TIMEOUT for it.
        """
        if time.monotonic() - self.running_since <= limit:
            return False
        finished, _ = ray.wait([self.next_result], timeout=LATE_TIMEOUT)
        return not finished

    def is_late_to_load(self, limit: float) -> bool:
        """Return whether the actor's process has run for more than `limit` seconds without loading its engine."""
        if self.is_ready or self.loading_since is None or time.monotonic() - self.loading_since <= limit:
            return False
        loaded, _ = ray.wait([self.loading], timeout=LATE_TIMEOUT)
        return not loaded


def ship_plugins() -> None:
    """Let Ray send directions of installed packages with their code, so that only the driver needs the packages."""
    for module in loaded_modules(ENTRY_POINTS):
        ray.cloudpickle.register_pickle_by_value(module)


class ActorPool:
    """Pool of the actors of a run: it starts, admits or refuses, and retires them."""

    def __init__(self, setup: DispatchSetup, outcome: Outcome) -> None:
        ship_plugins()
        self._setup, self._outcome = setup, outcome
        self._study, self._policy, self._observe = setup.study, setup.policy, setup.observe
        self._token = ""
        self._prompt_sets: Any = None  # Ray's reference to the prompt sets, which every actor needs
        self._scalars: Any = None  # Ray's reference to the directions' scalars, which every actor needs
        self._slots: dict[int, ActorSlot] = {}
        self._failed_starts: collections.Counter[int] = collections.Counter()  # in a row, by slot
        self._refused_nodes: set[str] = set()
        self._refused_slots: set[int] = set()  # those of which an actor was refused and none became ready since
        self._first_description: Mapping[str, Any] | None = None  # of the first actor: the others must match it
        self._wait = PlacementWait(self._policy, lambda: resources_of_nodes(self._refused_nodes), self._observe)

    def open(self, prompt_sets: Mapping[str, PromptSet], scalars: Mapping[str, pa.Table]) -> None:
        """Publish, before the first actor starts, what every actor needs.

        Args:
            prompt_sets: Prompt set id -> prompt set.
            scalars: Direction id -> scalars. Empty if a direction has yet to be measured.
        """
        self._token = create_disk_token(self._study.out)
        self._prompt_sets = ray.put(dict(prompt_sets))
        self._scalars = ray.put(dict(scalars))

    def shut_down(self) -> None:
        """Retire all actors."""
        for slot in self.slots:
            self.retire(slot)
        remove_disk_token(self._study.out, self._token)

    def abandon(self) -> None:
        """Forget all actors without asking Ray, which would not answer: they end with their session."""
        for slot in self.slots:
            self._count_seconds(slot)
            del self._slots[slot.number]

    @property
    def slots(self) -> list[ActorSlot]:
        """The slots that have an actor, ready or not."""
        return list(self._slots.values())

    @property
    def busy(self) -> int:
        """Number of actors that have something to do."""
        return sum(bool(slot.assigned) for slot in self._slots.values())

    def slots_holding(self, items: int) -> list[ActorSlot]:
        """Return the slots of ready actors that hold exactly this number of items."""
        return [slot for slot in self._slots.values() if slot.is_ready and len(slot.assigned) == items]

    # Starting actors.

    def start_missing(self, waiting: int) -> None:
        """Start actors until there are as many as allowed. Slots that were abandoned stay empty.

        Args:
            waiting: Number of items in the queue. There are never more actors than items left.
        """
        target = min(self._capacity(), waiting + self.busy)
        for number in itertools.count():
            if len(self._slots) >= target:
                break
            if number not in self._slots and self._failed_starts[number] < self._policy.max_failed_starts:
                self._start(number)

    def _capacity(self) -> int:
        """Return the maximum number of actors now. Raises UserError if no node of the cluster can hold one."""
        needed = self._policy.resources
        nodes = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["NodeID"] not in self._refused_nodes]
        fits = [min((int(node.get(n, 0) / amount + 1e-9) for n, amount in needed.items()), default=1) for node in nodes]
        if not any(fits) and not self._slots and not self._outcome.actors:
            raise UserError(
                "cluster",
                " and ".join(f"{amount:g} {name}" for name, amount in needed.items()),
                "no node of the cluster has room for one actor: request less per actor, or join a larger node",
            )
        abandoned = sum(n >= self._policy.max_failed_starts for n in self._failed_starts.values())
        return (sum(fits) if self._policy.actors is None else self._policy.actors) - abandoned

    def _start(self, number: int) -> None:
        """Start an actor in an empty slot, on a node that is not refused."""
        make = ray.remote(
            num_cpus=self._policy.cpus_per_actor,
            num_gpus=self._policy.gpus_per_actor,
            max_restarts=0,
            max_task_retries=0,
            label_selector=(
                {"ray.io/node-id": f"!in({','.join(self._refused_nodes)})"} if self._refused_nodes else None
            ),
        )
        remote_class: Any = make(self._setup.actor)  # Ray's classes have no types
        handle = remote_class.remote(self._setup.spec, str(self._study.root), self._study.id, self._token)
        self._slots[number] = ActorSlot(number, handle, handle.__ray_ready__.remote(), handle.load.remote())
        self._observe("actor_starting", slot=number)

    def finish_start(self, slot: ActorSlot) -> None:
        """Take the result of an actor's `load`: admit the actor, refuse it, or count a failed start.

        Raises:
            UserError: If every actor that has loaded so far was refused, or if no actor can be started at all.
        """
        try:
            slot.description = ray.get(slot.loading)
            self._check_versions(slot.description)
            self._setup.check_actor(slot.description)
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                self._refuse(slot, error.cause)
            else:
                self._fail_start(slot, str(error), blamed=True)
        except RayError as error:
            check_session()
            self._fail_start(slot, str(error), blamed=not self.was_lost(slot, error))
        except UserError as error:
            self._refuse(slot, error)
        else:
            slot.loading, slot.ready_since = None, time.monotonic()
            slot.idle_since = slot.ready_since
            self._refused_slots.discard(slot.number)
            if self._first_description is None:
                self._first_description = slot.description
            self._send_inputs(slot)
            self._outcome.actors += 1
            ready = sum(other.is_ready for other in self._slots.values())
            self._outcome.actors_at_once = max(self._outcome.actors_at_once, ready)
            self._observe("actor_ready", slot=slot.number, gpus=self._policy.gpus_per_actor, **slot.description)

    def end_late_starts(self) -> None:
        """Count the start of each actor that is late to load as failed. Raises UserError if no actor can be started."""
        limit = self._policy.load_limit
        for slot in self.slots:
            if slot.is_late_to_load(limit):
                self._fail_start(slot, f"has not loaded within {limit:.0f} s (cluster.load_limit)", blamed=True)

    def check_placement(self, waiting: int) -> None:
        """Tell of actors that wait for resources of the cluster.

        Args:
            waiting: Number of items in the queue.

        Raises:
            NoActorPlacedError: If no actor has been placed within `DispatchPolicy.wait_limit`.
        """
        unplaced = [slot for slot in self._slots.values() if not slot.is_ready and slot.loading_since is None]
        if unplaced:
            created, _ = ray.wait([slot.created for slot in unplaced], num_returns=len(unplaced), timeout=0)
            probed = {slot.number for slot in random.sample(unplaced, min(PROBES, len(unplaced)))}
            for slot in unplaced:
                if slot.created in created or (slot.number in probed and has_process(slot.handle)):
                    slot.loading_since = time.monotonic()
        pending = sum(slot.loading_since is None for slot in unplaced)
        if not self._slots and waiting:
            pending = 1  # no node can hold an actor for now
        self._wait.check(pending, len(self._slots) - sum(slot.loading_since is None for slot in unplaced))

    def _check_versions(self, description: Mapping[str, Any]) -> None:
        """Compare an actor's versions of what affects responses with those of the first actor.

        Raises:
            NodeError: They differ.
        """
        if self._first_description is None:
            return
        expected, actual = (_compared(each["versions"]) for each in (self._first_description, description))
        names = sorted(name for name in {*expected, *actual} if expected.get(name) != actual.get(name))
        if names:
            changes = ", ".join(
                f"{name} {actual.get(name, 'none')} instead of {expected.get(name, 'none')}" for name in names
            )
            first = self._first_description["host"]
            remedy = f"has other versions than {first}: {changes}; install the same on every node"
            raise NodeError("cluster", description["host"], remedy, description["node"])

    def _refuse(self, slot: ActorSlot, error: UserError) -> None:
        """Continue without an actor that has a user error.

        If its node has the error (NodeError), no more actors are started there. Else its start counts as failed, so
        that it is not repeated forever.

        Raises:
            UserError: `error`, if no other actor is ready, nor loads for the first time in its slot.
        """
        self._refused_slots.add(slot.number)
        if all(other.number in self._refused_slots and not other.is_ready for other in self._slots.values()):
            raise error from None
        if isinstance(error, NodeError):
            self._refused_nodes.add(error.node)
        self._fail_start(slot, str(error), blamed=not isinstance(error, NodeError))

    def _fail_start(self, slot: ActorSlot, why: str, blamed: bool) -> None:
        self._observe("actor_failed_to_start", slot=slot.number, why=shortened(why))
        self.retire(slot)
        if blamed:
            self.count_failed_start(slot.number, why)

    def count_failed_start(self, number: int, why: str) -> None:
        """Count a failed start of a slot; abandon the slot after too many in a row.

        Raises:
            UserError: If the slot is abandoned and no other slot has an actor.
        """
        self._failed_starts[number] += 1
        tries = self._failed_starts[number]
        if tries < self._policy.max_failed_starts:
            return
        self._observe("actor_abandoned", slot=number)
        if not self._slots:
            remedy = f"no actor could be started that completes a visit, in {tries} tries; {last_line(why)}"
            raise UserError("engine", self._setup.spec.kind, remedy)

    def record_success(self, slot: ActorSlot) -> None:
        """Record that the slot's actor has completed a visit, so that failures before it no longer count."""
        slot.has_completed_visit, slot.last_visit_failed = True, False
        self._failed_starts[slot.number] = 0

    # Sending prompt sets and scalars.

    def provide_scalars(self, scalars: Mapping[str, pa.Table]) -> None:
        """Send the scalars of all directions to the actors that are ready, and to later ones when they are ready."""
        self._scalars = ray.put(dict(scalars))
        for slot in self._slots.values():
            if slot.is_ready:
                self._send_inputs(slot)

    def _send_inputs(self, slot: ActorSlot) -> None:
        """Send prompt sets and scalars to a ready actor. Visits that are sent later run with them."""
        slot.handle.set_inputs.remote(self._prompt_sets, self._scalars)

    # Waiting for results, and ending actors.

    def wait(self) -> list[ActorSlot]:
        """Wait up to half a second and return the slots whose next result has arrived."""
        waiting = {slot.next_result: slot for slot in self._slots.values() if slot.next_result is not None}
        if not waiting:
            time.sleep(0.1)  # no actor fits on any node for now
            return []
        arrived, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        if not arrived:
            arrived, _ = ray.wait(list(waiting), num_returns=1, timeout=0.5)
        return [waiting[reference] for reference in arrived]

    def was_lost(self, slot: ActorSlot, error: RayError) -> bool:
        """Return whether an actor was lost through no fault of its visit: its node died or cannot be reached."""
        if isinstance(error, (ActorUnavailableError, NodeDiedError)) or "node has died" in str(error):
            return True
        return any(n["NodeID"] == slot.description.get("node") and not n["Alive"] for n in ray.nodes())

    def close_idle(self) -> None:
        """Let idle actors release resources that would outlive their processes. Busy actors would answer too late."""
        closing = [slot.handle.close.remote() for slot in self.slots_holding(0)]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_TIMEOUT)

    def retire(self, slot: ActorSlot) -> None:
        """Kill an actor and empty its slot."""
        self._count_seconds(slot)
        with contextlib.suppress(Exception):  # it may be dead already, and Ray may have ended
            ray.kill(slot.handle, no_restart=True)
        del self._slots[slot.number]

    def _count_seconds(self, slot: ActorSlot) -> None:
        """Add the time of a slot's actor, which ends now, to the totals."""
        if slot.ready_since is None:
            return
        now = time.monotonic()
        ready = now - slot.ready_since
        self._outcome.gpu_seconds += (slot.description["load_seconds"] + ready) * self._policy.gpus_per_actor
        self._outcome.ready_seconds += ready
        self._outcome.idle_seconds += slot.idle_seconds + (0.0 if slot.assigned else now - slot.idle_since)


def _compared(versions: Mapping[str, str]) -> dict[str, str]:
    """Return the versions that actors must share: without the platform, and of NVIDIA's driver the branch only.

    Nodes of a cluster often have different patches of a branch. Kernels come with the packages, not with the driver.
    """
    compared = {name: version for name, version in versions.items() if name != "platform"}
    if DRIVER in compared:
        compared[DRIVER] = compared[DRIVER].partition(".")[0]
    return compared
