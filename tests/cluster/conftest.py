"""A Ray session for each file that asks for one; a small study with the dummy engine; a dispatch and what it says."""

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
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.temporary import create_disk_token
from orchestrator.sweep.grid import Grid, Sweep
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling, Visit, visits
from workers.actor import Actor
from workers.engines.base import EngineSpec

Event = dict[str, Any]
Responses = dict[tuple[str, str, str], str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


def prepare_environment() -> None:
    """For raylets that tests start."""
    # Else whatever else this machine does comes first.
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
    """A sweep of the dummy in a study of its own, run as often as one likes."""

    def __init__(self, out: Path, steps: int = 10, directions: int = 2) -> None:
        self.sets = [prompt_set(), prompt_set(4, "benign")]
        self.sweep = Sweep(Grid(steps=steps, directions=directions), tuple(s.id for s in self.sets))
        self.study = Study.create(out, StudyInfo("dummy", "dummy", "float32", 1))
        self.events: list[Event] = []
        self.described: list[Mapping[str, Any]] = []

    @property
    def left(self) -> list[Visit]:
        stored = self.study.generations.stored()
        return visits(task for task in self.sweep.tasks() if task.key not in stored)

    def run(
        self,
        seconds: float = 0.0,
        actor: type[Actor] = Actor,
        on: Callable[[Event], None] = lambda event: None,
        admit: Callable[[Mapping[str, Any]], None] = lambda described: None,
        only: Sequence[Visit] | None = None,
        **policy: Any,
    ) -> Outcome:
        """Run what is left; `on` hears every event as it happens."""

        def observe(event: str, **fields: Any) -> None:
            self.events.append({"event": event, **fields})
            on(self.events[-1])

        settings = {"actors": 2, "cpus_per_actor": 0, **policy}
        spec = EngineSpec(kind="dummy", seconds=seconds)
        self.dispatch = Dispatcher(self.study, spec, DispatchPolicy(**settings), admit, observe, actor)
        wanted = self.left if only is None else only
        return self.dispatch.run(wanted, {s.id: s for s in self.sets}, self.sweep.grid.directions_used)

    def heard(self, name: str) -> list[Event]:
        return [event for event in self.events if event["event"] == name]

    def pid(self, slot: int) -> int:
        """The process of the actor that has this slot now."""
        return int(next(e["pid"] for e in reversed(self.events) if e["event"] == "actor_ready" and e["slot"] == slot))

    def responses(self) -> Responses:
        """Every stored response once. Fails where a row is doubled."""
        found: Responses = {}
        for _, table in self.study.generations.rows(self.study.generations.stored()):
            for row in table.select(["point_id", "prompt_set_id", "prompt_id", "response"]).to_pylist():
                key = row["point_id"], row["prompt_set_id"], row["prompt_id"]
                assert key not in found, "a row counts twice"
                found[key] = row["response"]
        return found


@pytest.fixture
def job(tmp_path: Path, ray_session: None) -> Job:
    return Job(tmp_path / "studies")


def alone(job: Job) -> Responses:
    """What the job's study holds when nothing goes wrong: one actor in this process, no Ray."""
    actor = Actor(EngineSpec(kind="dummy"), str(job.study.root), job.study.id, create_disk_token(job.study.out))
    actor.load()
    actor.equip({s.id: s for s in job.sets}, {d.id: actor.measure(d) for d in job.sweep.grid.directions_used})
    for visit in job.left:
        actor.visit(visit)
    return job.responses()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Responses:
    return alone(Job(tmp_path_factory.mktemp("undisturbed") / "studies"))
