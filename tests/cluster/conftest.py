"""Fixtures: a Ray session for each test file that needs one, and a small study whose sweep tests dispatch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execution import cluster
from orchestrator.execution.dispatch import Dispatcher
from orchestrator.execution.outcome import Outcome
from orchestrator.execution.policy import DispatchPolicy
from orchestrator.execution.setup import DispatchSetup
from orchestrator.execution.work_source import WorkSource
from orchestrator.pipeline.admission import Admission
from orchestrator.pipeline.work import SweepWork
from orchestrator.store.runs import RunRecorder
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.temporary import create_disk_token
from orchestrator.sweep.continuations import ContinuationBatch
from orchestrator.sweep.grid import Grid, Sweep
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling, Visit, visits
from orchestrator.utils.choices import EngineKind
from tests.cluster.actors import HOLD, Held
from workers.actor import Actor
from workers.engines.base import EngineSpec

Event = dict[str, Any]
Responses = dict[tuple[str, str, str], str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


def prepare_environment() -> None:
    """Set the environment of raylets that tests start."""
    # With Ray's default niceness every other process on this machine has priority over the workers.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
    # Actors unpickle classes of these tests by name.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    prepare_environment()
    with cluster.session(cluster.ClusterSpec()):
        yield


def prompt_set(n: int = 6, group: str = "harmful") -> PromptSet:
    prompts = tuple(Prompt(f"{group} question {i}", group) for i in range(n))
    tokens = tuple((1, 2, i) for i in range(n))
    return PromptSet(group, prompts, tuple(p.text for p in prompts), tokens, Sampling(16), "made up", "empty")


class Job:
    """A sweep with the dummy engine in a study of its own; `run` may be called any number of times."""

    def __init__(self, out: Path, steps: int = 10, directions: int = 2) -> None:
        self.sets = [prompt_set(), prompt_set(4, "benign")]
        self.sweep = Sweep(Grid(steps=steps, directions=directions), tuple(s.id for s in self.sets))
        self.study = Study.create(out, StudyInfo("dummy", "dummy", "float32", 1))
        self.events: list[Event] = []
        self._released: Callable[[], bool] = lambda: True

    @property
    def missing(self) -> list[Visit]:
        """The visits that are not stored."""
        stored = self.study.generations.stored()
        return visits(task for task in self.sweep.tasks() if task.key not in stored)

    def hold(self, until: Callable[[], bool]) -> None:
        """Let actors run no visit until a condition of the events holds, which is tested after each event."""
        self._released = until
        (self.study.out / HOLD).touch()

    def run(
        self,
        seconds: float = 0.0,
        actor: type[Actor] = Held,
        on_event: Callable[[Event], None] = lambda event: None,
        check_actor: Callable[[Mapping[str, Any]], None] = lambda description: None,
        only: Sequence[Visit] | None = None,
        follow_up: Sequence[ContinuationBatch] = (),
        source: WorkSource | None = None,
        **policy: Any,
    ) -> Outcome:
        """Run the missing visits, or only some; a visit takes `seconds`. `on_event` is called with each event."""

        def observe(event: str, **fields: Any) -> None:
            self.events.append({"event": event, **fields})
            on_event(self.events[-1])
            if self._released():
                (self.study.out / HOLD).unlink(missing_ok=True)

        settings = {"actors": 2, "cpus_per_actor": 0, **policy}
        spec = EngineSpec(kind=EngineKind.dummy, seconds=seconds)
        setup = DispatchSetup(self.study, spec, DispatchPolicy(**settings), check_actor, observe, actor)
        self.dispatcher = Dispatcher(setup)
        todo = self.missing if only is None else only
        sets = {s.id: s for s in self.sets}
        work = source or SweepWork(lambda: follow_up)
        return self.dispatcher.run(todo, sets, self.sweep.grid.directions_used, work)

    def events_named(self, name: str) -> list[Event]:
        return [event for event in self.events if event["event"] == name]

    def slots(self, name: str) -> set[int]:
        """Return the slots that these events are about."""
        return {event["slot"] for event in self.events_named(name)}

    def pid(self, slot: int) -> int:
        """Return the process id of the actor that has this slot now."""
        return int(next(e["pid"] for e in reversed(self.events) if e["event"] == "actor_ready" and e["slot"] == slot))

    def responses(self) -> Responses:
        """Return every stored response. Fails if a row is stored twice."""
        responses: Responses = {}
        for _, table in self.study.generations.rows(self.study.generations.stored()):
            for row in table.select(["point_id", "prompt_set_id", "prompt_id", "response"]).to_pylist():
                key = row["point_id"], row["prompt_set_id"], row["prompt_id"]
                assert key not in responses, "a row is stored twice"
                responses[key] = row["response"]
        return responses


@pytest.fixture
def job(tmp_path: Path, ray_session: None) -> Job:
    return Job(tmp_path / "studies")


def admission(job: Job) -> Admission:
    """Return the callback that admits actors to a sweep of this job without stored rows."""
    path = job.study.root / "sweeps" / "test"
    path.mkdir(parents=True, exist_ok=True)
    return Admission([], mix=False, recorder=RunRecorder(SweepFolder(job.study, path), tasks=1))


def run_alone(job: Job) -> Responses:
    """Run the job by one actor in this process, without Ray, and return its responses."""
    actor = Actor(
        EngineSpec(kind=EngineKind.dummy), str(job.study.root), job.study.id, create_disk_token(job.study.out)
    )
    actor.load()
    actor.set_inputs({s.id: s for s in job.sets}, {d.id: actor.measure(d) for d in job.sweep.grid.directions_used})
    for visit in job.missing:
        actor.visit(visit)
    return job.responses()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Responses:
    return run_alone(Job(tmp_path_factory.mktemp("undisturbed") / "studies"))
