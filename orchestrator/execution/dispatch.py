"""Visits to actors and receipts back: one wait loop, no snapshot, nothing that a crash could lose.

Each actor has one running and one queued visit, so that its device never waits for the driver. What is
left to do is always the sweep's tasks minus those stored; this loop only hurries them along.

What it tells its observer, and what a run's event log therefore holds (beside `run_started` and `run_finished`):

    actor_starting         slot
    actor_ready            slot, gpus, and what Actor.load says: actor, pid, host, node, engine, engine_id, versions,
                           load_seconds
    actor_failed_to_start  slot, why: it broke, or is refused and its node with it
    actor_abandoned        slot: it failed to start too often; the others go on
    actor_died             slot, why, blamed, and the visit or direction it was at; or it was late or broken, and ended
    visit_given            slot, visit, point_id, prompt_set_ids: running, or next in the actor's queue
    visit_done             slot, visit, point_id, prompt_set_ids, tasks, responses, tokens, seconds, write_seconds,
                           peak_memory_bytes
    visit_failed           slot, visit, point_id, prompt_set_ids, why: it will be tried again
    visit_quarantined      visit, point_id, prompt_set_ids, story: it will not, in this run
    direction_measured     slot, direction, seconds
    stopping               signal
    dispatch_finished      visits, responses, tokens, restarts, gpu_seconds, failures, interrupted: totals of this run
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
import signal
import statistics
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorUnavailableError, NodeDiedError, RayError, RayTaskError

from orchestrator.store.study import Study
from orchestrator.sweep.points import RandomDirection
from orchestrator.sweep.tasks import PromptSet, Visit
from orchestrator.utils.errors import UserError
from workers.actor import Actor, Receipt

if TYPE_CHECKING:
    from workers.engines.vllm import EngineSpec

Observe = Callable[..., None]

HOUSEKEEPING = 1.0  # seconds between two looks at deadlines and at room for actors
CLOSING = 5.0  # seconds that idle actors get in the end to give back what would outlive them
DURATIONS = 1000  # the last visits that a deadline is reckoned from


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How visits are handed out. None of it is in any identity.

    actors: None takes as many as the cluster has room for, more when nodes join. deadline_factor: of the usual time for
    as many tokens; reckoned from `deadline_after` visits on, never under `deadline_floor` seconds. grace: seconds that
    running visits are given after the first signal to stop.
    """

    actors: int | None = 1
    cpus_per_actor: float = 1
    gpus_per_actor: float = 0
    in_flight: int = 2
    max_attempts: int = 3
    deadline_floor: float = 120.0
    deadline_factor: float = 10.0
    deadline_after: int = 5
    max_failed_starts: int = 3
    grace: float = 30.0


@dataclass
class Failure:
    """A visit that was given up, with its story: one line for each attempt."""

    visit: Visit
    story: list[str]


@dataclass
class Outcome:
    """What came of a dispatch: totals, what was given up, and whether it was cut short."""

    visits: int = 0
    responses: int = 0
    tokens: int = 0
    restarts: int = 0
    actors: int = 0
    write_seconds: float = 0.0
    visit_seconds: float = 0.0
    gpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    engine_ids: set[str] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        """For a run's record: all but whether it was cut short."""
        return {
            "visits": self.visits,
            "responses": self.responses,
            "tokens": self.tokens,
            "restarts": self.restarts,
            "gpu_seconds": round(self.gpu_seconds, 3),
            "actors": self.actors,
            "peak_memory_bytes": self.peak_memory_bytes,
            "write_seconds": round(self.write_seconds, 3),
            "visit_seconds": round(self.visit_seconds, 3),
            "failures": [
                {"point_id": f.visit.point.id, "prompt_set_ids": list(f.visit.prompt_set_ids), "story": f.story}
                for f in self.failures
            ],
        }


Item = Visit | RandomDirection


@dataclass
class _Slot:
    """One actor and what it was given, in order: the first item is the one that runs."""

    number: int
    handle: Any
    loading: Any  # the reference of its load(), until that is answered
    ready_since: float | None = None
    described: Mapping[str, Any] = field(default_factory=dict)
    given: collections.deque[tuple[Any, Item]] = field(default_factory=collections.deque)
    front_since: float = 0.0
    proven: bool = False  # whether it has done a visit
    failing: bool = False  # whether its last visit failed

    @property
    def front(self) -> Any:
        """The reference that is answered next: an actor answers in order."""
        return self.loading if self.loading is not None else self.given[0][0] if self.given else None

    def give(self, ref: Any, item: Item) -> None:
        if not self.given:
            self.front_since = time.monotonic()
        self.given.append((ref, item))

    def take(self) -> Item:
        """The running item, which is answered; the next one runs from now on."""
        self.front_since = time.monotonic()
        return self.given.popleft()[1]


class Dispatch:
    """Runs visits on actors until every one is stored or given up.

    `admit` is called with each new actor's description and raises UserError to refuse it: that ends the run where no
    other actor is at work.
    `observe(event, **fields)` hears all that happens.
    """

    def __init__(
        self,
        study: Study,
        spec: EngineSpec,
        policy: Policy,
        admit: Callable[[Mapping[str, Any]], None],
        observe: Observe,
        actor: type[Actor] = Actor,
    ) -> None:
        self._study, self._spec, self._policy = study, spec, policy
        self._admit, self._observe, self._actor = admit, observe, actor
        self._signals_heard: list[str] = []
        self._outcome = self.outcome = Outcome()  # so far: there for a caller to whom an exception is raised
        self._first: Mapping[str, Any] | None = None

    def run(
        self, visits: Sequence[Visit], prompt_sets: Mapping[str, PromptSet], directions: Sequence[RandomDirection]
    ) -> Outcome:
        """Measure the directions that are not stored, then run the visits in their order.

        Raises UserError where an actor refuses to start for a reason the user must mend.
        """
        if not visits:
            return self._outcome
        self._pending = collections.deque(visits)
        self._attempts: dict[str, list[str]] = {}
        self._durations: collections.deque[float] = collections.deque(maxlen=DURATIONS)
        self._scalars = {d.id: self._study.read_direction(d.id) for d in directions}
        self._unmeasured = collections.deque(d for d in directions if self._scalars[d.id] is None)
        self._measuring = len(self._unmeasured)
        self._prompt_sets = prompt_sets
        # References to what every actor needs: the prompt sets, and the directions' scalars once all are measured.
        self._equipment = ray.put(dict(prompt_sets)), ray.put({} if self._measuring else self._scalars)
        self._slots: dict[int, _Slot] = {}
        self._failed_starts: collections.Counter[int] = collections.Counter()
        self._refused: set[str] = set()  # nodes
        self._failed_after_another: set[str] = set()  # visits that failed right after another one of their actor
        self._looked = -math.inf
        self._token = self._study.show_token()
        with self._signals():
            try:
                while self._unfinished():
                    self._keep_house()
                    self._feed()
                    self._collect()
                    if self._signals_heard:
                        self._finish_running()
                        break
                self._close_idle()
            except KeyboardInterrupt:  # the second signal
                self._outcome.interrupted = True
            finally:
                for slot in list(self._slots.values()):
                    self._retire(slot)
                self._study.hide_token(self._token)
                self._observe("dispatch_finished", **self._totals())
        return self._outcome

    def _totals(self) -> dict[str, Any]:
        total = self._outcome
        return {
            "visits": total.visits,
            "responses": total.responses,
            "tokens": total.tokens,
            "restarts": total.restarts,
            "gpu_seconds": round(total.gpu_seconds, 3),
            "failures": len(total.failures),
            "interrupted": total.interrupted,
        }

    # Starting and replacing actors.

    def _keep_house(self) -> None:
        """Now and then: start the actors that are wanting, and part with those past their deadline."""
        if time.monotonic() - self._looked < HOUSEKEEPING:
            return
        self._looked = time.monotonic()
        self._enforce_deadlines()
        self._staff()

    def _staff(self) -> None:
        """Start actors up to the number wanted; give up a slot that never starts."""
        busy = sum(bool(slot.given) for slot in self._slots.values())
        wanted = min(self._room(), len(self._pending) + len(self._unmeasured) + busy)
        for number in itertools.count():
            if len(self._slots) >= wanted:
                break
            if number not in self._slots and self._failed_starts[number] < self._policy.max_failed_starts:
                self._start(number)

    def _room(self) -> int:
        """How many actors there may be now. Raises UserError where the cluster's nodes cannot hold even one."""
        need = {"GPU": self._policy.gpus_per_actor, "CPU": self._policy.cpus_per_actor}
        need = {name: amount for name, amount in need.items() if amount > 0}
        nodes = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["NodeID"] not in self._refused]
        fits = [min((int(node.get(n, 0) / amount + 1e-9) for n, amount in need.items()), default=1) for node in nodes]
        abandoned = sum(n >= self._policy.max_failed_starts for n in self._failed_starts.values())
        if not any(fits) and not self._outcome.actors:
            raise UserError(
                "cluster",
                " and ".join(f"{amount:g} {name}" for name, amount in need.items()),
                "no node of the cluster has room for one actor: ask for less each, or join a larger node",
            )
        return (sum(fits) if self._policy.actors is None else self._policy.actors) - abandoned

    def _start(self, number: int) -> None:
        make = ray.remote(
            num_cpus=self._policy.cpus_per_actor,
            num_gpus=self._policy.gpus_per_actor,
            max_restarts=0,
            max_task_retries=0,
            label_selector={"ray.io/node-id": f"!in({','.join(self._refused)})"} if self._refused else None,
        )
        handle: Any = make(self._actor)  # what Ray makes of a class has no type
        handle = handle.remote(self._spec, str(self._study.root), self._study.id, self._token)
        self._slots[number] = _Slot(number, handle, handle.load.remote())
        self._observe("actor_starting", slot=number)

    def _ready(self, slot: _Slot) -> None:
        try:
            slot.described = ray.get(slot.loading)
            self._check_versions(slot.described)
            self._admit(slot.described)
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                self._refuse(slot, error.cause)
            else:
                self._failed_start(slot, str(error), blamed=True)
        except RayError as error:
            self._failed_start(slot, str(error), blamed=not self._is_loss(slot, error))
        except UserError as error:
            self._refuse(slot, error)
        else:
            slot.loading, slot.ready_since = None, time.monotonic()
            self._equip(slot)
            self._outcome.actors += 1
            self._outcome.engine_ids.add(slot.described["engine_id"])
            self._observe("actor_ready", slot=slot.number, gpus=self._policy.gpus_per_actor, **slot.described)

    def _check_versions(self, described: Mapping[str, Any]) -> None:
        """Raises UserError where an actor's machine has other versions of what decides a response than the first's."""
        self._first = self._first or described
        here, there = self._first["versions"], described["versions"]
        names = sorted(name for name in {*here, *there} - {"platform"} if here.get(name) != there.get(name))
        if names:
            told = ", ".join(f"{name} {there.get(name, 'none')} instead of {here.get(name, 'none')}" for name in names)
            remedy = f"has other versions than {self._first['host']}: {told}; install the same on every node"
            raise UserError("cluster", described["host"], remedy)

    def _refuse(self, slot: _Slot, error: UserError) -> None:
        """Do without an actor that has to be mended, and without its node, where others are at work; else raise."""
        if all(other.loading is not None for other in self._slots.values()):
            raise error from None
        if slot.described:
            self._refused.add(slot.described["node"])
        self._failed_start(slot, str(error), blamed=not slot.described)  # else it would be tried for ever

    def _failed_start(self, slot: _Slot, why: str, blamed: bool) -> None:
        self._observe("actor_failed_to_start", slot=slot.number, why=why[-2000:])
        self._retire(slot)
        if blamed:
            self._count_failed_start(slot.number, why)

    def _count_failed_start(self, number: int, why: str) -> None:
        self._failed_starts[number] += 1
        if self._failed_starts[number] >= self._policy.max_failed_starts:
            self._observe("actor_abandoned", slot=number)
            if not self._slots:
                told = f"no actor could be started that does a visit, in {self._failed_starts[number]} tries"
                raise UserError("engine", self._spec.kind, f"{told}; {_last(why)}")

    def _broken(self, slot: _Slot, visit: Visit, why: str) -> None:
        """Part with an actor of which two visits in a row failed.

        Where it has done nothing, its start has failed, so that an engine that breaks at once ends the run; unless the
        visit has come to this before: then it may be that only such are left as every engine fails at.
        """
        started = slot.proven or visit.id in self._failed_after_another
        self._failed_after_another.add(visit.id)
        self._replace(slot, f"two visits in a row failed: {_last(why)}", blamed=False)
        if not started:
            self._count_failed_start(slot.number, why)

    def _replace(self, slot: _Slot, why: str, blamed: bool = True) -> None:
        """Part with an actor: blame the visit that ran, put back all it was given; another one is started."""
        while slot.given and self._is_stored(slot):
            pass  # its actor died before the receipt was on its way; it was at the next one
        items = [item for _, item in slot.given]
        running = items[0] if items else None
        self._observe("actor_died", slot=slot.number, why=why[-2000:], blamed=blamed, **_named(running))
        if running is not None and blamed:
            if isinstance(running, RandomDirection):
                if self._attempt(running.id, why) >= self._policy.max_attempts:
                    raise RuntimeError(f"measuring direction {running.id} killed every actor that tried: {why}")
            else:
                items.pop(0)
                if not self._give_up(running, why):
                    self._pending.append(running)  # last, where it can do the least harm
        for item in reversed(items):
            if isinstance(item, RandomDirection):
                self._unmeasured.appendleft(item)
            else:
                self._pending.appendleft(item)
        self._retire(slot)
        self._outcome.restarts += 1
        self._looked = -math.inf  # another one is wanted now

    def _is_stored(self, slot: _Slot) -> bool:
        """Whether the running visit of a dead actor is stored nevertheless; then it is done."""
        visit = slot.given[0][1]
        table = self._study.read_visit(visit.id) if isinstance(visit, Visit) else None
        if table is None or not isinstance(visit, Visit):
            return False
        slot.take()
        seconds = float(table["seconds"][0].as_py()) if table.num_rows else 0.0
        tokens = sum(table["n_tokens"].to_pylist())
        receipt = Receipt(table.num_rows, tokens, seconds, 0.0, 0, slot.described["engine_id"])
        self._receive(slot, visit, receipt)
        return True

    def _retire(self, slot: _Slot) -> None:
        if slot.ready_since is not None:
            held = slot.described["load_seconds"] + time.monotonic() - slot.ready_since
            self._outcome.gpu_seconds += held * self._policy.gpus_per_actor
        _kill(slot)
        del self._slots[slot.number]

    def _is_loss(self, slot: _Slot, error: RayError) -> bool:
        """Whether an actor was lost for no fault of its visit: its node died, or cannot be reached."""
        if isinstance(error, (ActorUnavailableError, NodeDiedError)) or "node has died" in str(error):
            return True
        return any(n["NodeID"] == slot.described.get("node") and not n["Alive"] for n in ray.nodes())

    def _give_up(self, visit: Visit, why: str) -> bool:
        """Count an attempt that failed; after the last allowed one the visit is quarantined with its story."""
        if self._attempt(visit.id, why) < self._policy.max_attempts:
            return False
        story = self._attempts[visit.id]
        self._outcome.failures.append(Failure(visit, story))
        self._observe("visit_quarantined", story=story, **_named(visit))
        return True

    def _attempt(self, name: str, why: str) -> int:
        """Note why an attempt failed; how many did."""
        story = self._attempts.setdefault(name, [])
        story.append(_last(why))
        return len(story)

    # Handing out and taking in.

    def _equip(self, slot: _Slot) -> None:
        """Hand an actor that is ready its equipment. It does what it is told in order, so its visits will have that."""
        if slot.loading is None:
            slot.handle.equip.remote(*self._equipment)

    def _unfinished(self) -> bool:
        return bool(self._pending or self._unmeasured or any(slot.given for slot in self._slots.values()))

    def _feed(self) -> None:
        """One item for each actor, then a second one for each, unless the end is near and others will be idle."""
        for depth in range(self._policy.in_flight if len(self._pending) > len(self._slots) else 1):
            for slot in self._slots.values():
                if slot.loading is None and len(slot.given) == depth:
                    self._give(slot)

    def _give(self, slot: _Slot) -> None:
        if self._unmeasured and not slot.given:
            direction = self._unmeasured.popleft()
            slot.give(slot.handle.measure.remote(direction), direction)
        elif self._pending and (not self._measuring or self._pending[0].point.is_origin):
            visit = self._pending.popleft()
            slot.give(slot.handle.visit.remote(visit), visit)
            self._observe("visit_given", slot=slot.number, **_named(visit))

    def _collect(self) -> None:
        waiting = {slot.front: slot for slot in self._slots.values() if slot.front is not None}
        if not waiting:
            time.sleep(0.1)  # nothing fits anywhere for now
            return
        answered, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        if not answered:
            answered, _ = ray.wait(list(waiting), num_returns=1, timeout=0.5)
        for ref in answered:
            slot = waiting[ref]
            if slot.loading is not None:
                self._ready(slot)
            else:
                self._answered(slot)

    def _answered(self, slot: _Slot) -> None:
        try:
            answer = ray.get(slot.front)
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            if isinstance(slot.given[0][1], RandomDirection):
                raise
            visit = slot.take()
            assert isinstance(visit, Visit)
            self._observe("visit_failed", slot=slot.number, why=str(error)[-2000:], **_named(visit))
            if slot.failing:  # so the engine may be to blame: what another one makes of the visit will tell
                self._pending.append(visit)
                self._broken(slot, visit, str(error))
            elif not self._give_up(visit, str(error)):
                self._pending.append(visit)
            slot.failing = True
            return
        except RayError as error:
            self._replace(slot, str(error), blamed=not self._is_loss(slot, error))
            return
        began = slot.front_since
        item = slot.take()
        if isinstance(item, RandomDirection):
            self._study.write_direction(item.id, item.to_json(), answer)
            self._scalars[item.id] = answer
            self._measuring -= 1
            if not self._measuring:
                self._equipment = self._equipment[0], ray.put(self._scalars)
                for ready in self._slots.values():
                    self._equip(ready)
            self._observe("direction_measured", slot=slot.number, direction=item.id, seconds=time.monotonic() - began)
        else:
            self._receive(slot, item, answer)

    def _receive(self, slot: _Slot, visit: Visit, receipt: Receipt) -> None:
        if receipt.table is not None:
            self._study.write_generations(visit.id, receipt.table, slot.described["engine"])
        self._study.received(visit.id)
        self._durations.append(receipt.seconds / self._budget(visit))
        slot.proven, slot.failing, self._failed_starts[slot.number] = True, False, 0
        total = self._outcome
        total.visits += 1
        total.responses += receipt.n_responses
        total.tokens += receipt.n_tokens
        total.visit_seconds += receipt.seconds
        total.write_seconds += receipt.write_seconds
        total.peak_memory_bytes = max(total.peak_memory_bytes, receipt.peak_memory_bytes)
        self._observe(
            "visit_done",
            slot=slot.number,
            tasks=len(visit.prompt_set_ids),
            responses=receipt.n_responses,
            tokens=receipt.n_tokens,
            seconds=round(receipt.seconds, 4),
            write_seconds=round(receipt.write_seconds, 4),
            peak_memory_bytes=receipt.peak_memory_bytes,
            **_named(visit),
        )

    # Deadlines and stopping.

    def _budget(self, visit: Visit) -> int:
        """The tokens a visit may have to generate: what its time is scaled by."""
        sets = [self._prompt_sets[set_id] for set_id in visit.prompt_set_ids]
        return max(1, sum(len(s.prompts) * s.sampling.max_tokens for s in sets))

    def _enforce_deadlines(self) -> None:
        if len(self._durations) < self._policy.deadline_after:
            return
        usual = statistics.median(self._durations)
        for slot in list(self._slots.values()):
            if slot.given and isinstance(slot.given[0][1], Visit):
                allowed = self._policy.deadline_factor * usual * self._budget(slot.given[0][1])
                allowed = max(self._policy.deadline_floor, allowed)
                late = time.monotonic() - slot.front_since > allowed
                # It may be this loop that was held up, and the answer be there, or on its way.
                if late and not ray.wait([slot.front], timeout=HOUSEKEEPING)[0]:
                    self._replace(slot, f"past its deadline of {allowed:.0f} s")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM lets running visits finish, the second stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(signum: int, frame: types.FrameType | None) -> None:
            self._signals_heard.append(signal.Signals(signum).name)
            if len(self._signals_heard) > 1:
                raise KeyboardInterrupt

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _finish_running(self) -> None:
        """Give nothing more out; wait a while for the visit that each actor runs."""
        self._observe("stopping", signal=self._signals_heard[0])
        self._outcome.interrupted = True
        running = {slot.front: slot for slot in self._slots.values() if slot.given}
        until = time.monotonic() + self._policy.grace
        while running and time.monotonic() < until:
            answered, _ = ray.wait(list(running), num_returns=1, timeout=0.5)
            for ref in answered:
                self._answered(running.pop(ref))

    def _close_idle(self) -> None:
        """Let actors give back what would outlive their process, which is killed. One that is busy would not listen."""
        idle = [slot for slot in self._slots.values() if slot.loading is None and not slot.given]
        if closing := [slot.handle.close.remote() for slot in idle]:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSING)


def _named(item: Item | None) -> dict[str, Any]:
    """How events name what an actor was given."""
    if item is None:
        return {}
    if isinstance(item, RandomDirection):
        return {"direction": item.id}
    return {"visit": item.id, "point_id": item.point.id, "prompt_set_ids": list(item.prompt_set_ids)}


def _last(why: str) -> str:
    """A story's last line, which says what happened."""
    return (why.strip().splitlines() or ["no reason given"])[-1].strip()


def _kill(slot: _Slot) -> None:
    with contextlib.suppress(Exception):  # it may be dead already, and Ray may be gone
        ray.kill(slot.handle, no_restart=True)
