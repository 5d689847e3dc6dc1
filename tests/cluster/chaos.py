"""Run a sweep on three hosts while drivers, actors and raylets are killed at random.

    python -m tests.cluster.chaos --seconds 180
    python -m tests.cluster.chaos --engine vllm --seconds 400    # the embedded model in the real engine

The raylets are real, each in a network namespace with a name, an address and a /tmp/ray of its own (see `hosts.py`).
The third host does not see the study's disk. Disturbances are random: SIGKILL of the driver, an actor, a raylet,
or the head and everything on it; SIGSTOP of an actor until its deadline; a cut cable; a full disk. At the end the study
must equal an undisturbed one. Needs Linux, root and iproute2.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from orchestrator.store.compaction import compact
from orchestrator.store.events import read_all_events
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.temporary import create_disk_token
from orchestrator.store.verification import verify
from orchestrator.sweep.grid import Grid, Sweep
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling, Visit, visits
from orchestrator.utils.choices import EngineKind
from orchestrator.utils.errors import UserError
from tests.cluster.hosts import PORT, ROOT, Host, network, run
from workers.engines.base import EngineSpec

Responses = dict[tuple[str, str, str], str]

INTERRUPTED = 130


# The sweep.


@dataclass(frozen=True)
class Subject:
    """A sweep to disturb.

    Attributes:
        info: The model.
        spec: The engine of each actor.
        sets: The prompt sets of each point.
        points: Approximate number of points.
        actors: Number of actors.
        deadline: Seconds after which a stopped actor is replaced.
        pauses: Shortest and longest time between two disturbances, in seconds.
    """

    info: StudyInfo
    spec: EngineSpec
    sets: tuple[PromptSet, ...]
    points: int
    actors: int
    deadline: float
    pauses: tuple[float, float]

    @property
    def sweep(self) -> Sweep:
        return Sweep(Grid(steps=self.points // 2, directions=2), tuple(s.id for s in self.sets))


def subject(engine: str, seconds: float) -> Subject:
    """Return a sweep with the dummy engine, which is fast, or with the embedded model, whose actors load slowly."""
    if engine == "dummy":
        spec = EngineSpec(kind=EngineKind.dummy, seconds=0.3)
        points = max(20, int(seconds * 3)) & ~1
        info = StudyInfo("dummy", "dummy", "float32", 1)
        return Subject(info, spec, tuple(prompt_sets()), points, actors=4, deadline=4.0, pauses=(2, 7))
    from orchestrator.config.compose import compose
    from orchestrator.config.presets import Presets
    from orchestrator.execution.resources import engine_spec
    from orchestrator.pipeline.prepare import prepare

    config = compose(["probes.limit=6", "sampling.max_tokens=8", "engine.kv_cache_gib=0.1", "engine.threads=1"])
    prepared = prepare(config, Presets())
    spec = engine_spec(prepared.config, prepared.model, "cpu", prepared.targets)
    points = max(20, int(seconds / 4)) & ~1
    return Subject(prepared.info, spec, prepared.prompt_sets, points, actors=2, deadline=30.0, pauses=(20, 50))


def prompt_sets() -> list[PromptSet]:
    def prompt_set(group: str, n: int) -> PromptSet:
        prompts = tuple(Prompt(f"{group} question {i}", group) for i in range(n))
        tokens = tuple((i,) for i in range(n))
        return PromptSet(group, prompts, tuple(p.text for p in prompts), tokens, Sampling(16), "made up", "empty")

    return [prompt_set("harmful", 8), prompt_set("benign", 4)]


def missing_visits(study: Study, sweep: Sweep) -> list[Visit]:
    """Return the visits of the sweep that are not stored."""
    stored = study.generations.stored()
    return visits(task for task in sweep.tasks() if task.key not in stored)


def responses(study: Study) -> tuple[Responses, int]:
    """Return every response that counts, and the number of rows that are stored twice."""
    stored: Responses = {}
    n_duplicates = 0
    for _, table in study.generations.rows(study.generations.stored()):
        for row in table.select(["point_id", "prompt_set_id", "prompt_id", "response"]).to_pylist():
            key = row["point_id"], row["prompt_set_id"], row["prompt_id"]
            n_duplicates += key in stored
            stored[key] = row["response"]
    return stored, n_duplicates


def undisturbed(out: Path, swept: Subject) -> Responses:
    """Run the same sweep by one actor in this process, without Ray, and return its responses."""
    from workers.actor import Actor

    study = Study.create(out, swept.info)
    spec = dataclasses.replace(swept.spec, seconds=0.0)
    actor = Actor(spec, str(study.root), study.id, create_disk_token(study.out))
    actor.load()
    actor.set_inputs({s.id: s for s in swept.sets}, {d.id: actor.measure(d) for d in swept.sweep.grid.directions_used})
    for visit in missing_visits(study, swept.sweep):
        actor.visit(visit)
    return responses(study)[0]


# The driver, which runs in its own process.


def drive(out: Path, swept: Subject, address: str) -> int:
    """Run the missing visits of the sweep, as the command `run` does. Returns an exit code."""
    from orchestrator.execution import cluster
    from orchestrator.execution.dispatch import Dispatcher
    from orchestrator.execution.policy import DispatchPolicy
    from orchestrator.execution.setup import DispatchSetup
    from orchestrator.store.lease import Lease

    sweep = swept.sweep
    console = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Ray reports every death at length
    try:
        study = Study.create(out, swept.info)
        for prompts in swept.sets:
            study.prompt_sets.write(prompts)
        folder = SweepFolder.of(study, sweep).path
        with Lease(out, folder / "lease.json"), cluster.session(cluster.ClusterSpec("ray", address)):
            log = study.events(f"{time.time_ns()}-{os.getpid()}")
            policy = DispatchPolicy(
                actors=swept.actors, cpus_per_actor=1, deadline_floor=swept.deadline, max_attempts=10, grace=5
            )
            job = Dispatcher(DispatchSetup(study, swept.spec, policy, lambda description: None, log.write))
            outcome = job.run(missing_visits(study, sweep), {s.id: s for s in swept.sets}, sweep.grid.directions_used)
    except UserError as error:
        print(f"  driver: {error}"[:160], file=console, flush=True)
        return 2
    return INTERRUPTED if outcome.interrupted else 3 if outcome.failures else 0


# The disturbances.


@dataclass
class Chaos:
    """The cluster, the driver, and the disturbances.

    Attributes:
        options: Options of the driver's command line.
        codes: How often drivers ended with each exit code.
        done: How often each disturbance happened.
        undo: Disturbances to undo: monotonic time and function.
    """

    hosts: list[Host]
    switch: str
    out: Path
    swept: Subject
    options: list[str]
    random: random.Random
    driver: subprocess.Popen[bytes] | None = None
    drivers: int = 0
    codes: collections.Counter[int] = field(default_factory=collections.Counter)
    done: collections.Counter[str] = field(default_factory=collections.Counter)
    undo: list[tuple[float, Callable[[], Any]]] = field(default_factory=list)

    @property
    def head(self) -> Host:
        return self.hosts[0]

    def keep_running(self) -> bool:
        """Restart raylets and driver if they ended. Returns whether a driver reported that the sweep is complete."""
        now = time.monotonic()
        for entry in [entry for entry in self.undo if entry[0] <= now]:
            self.undo.remove(entry)
            entry[1]()
        for host in self.hosts:
            host.restart_if_gone(self.head)
        if self.driver is not None and self.driver.poll() is None:
            return False
        if self.driver is not None:
            self.codes[self.driver.returncode] += 1
            if self.driver.returncode == 0:
                return True
        if not self.head_accepts():
            return False
        command = [sys.executable, "-m", "tests.cluster.chaos", "--drive", self.out, *self.options]
        # The driver shares its host's Ray: it must see the session's sockets.
        assert self.head.process is not None
        inside = ["nsenter", "-t", self.head.process.pid, "--mount", "--uts", "--net", "--wd=" + str(ROOT)]
        self.driver = subprocess.Popen(
            list(map(str, [*inside, *command])),
            env=self.head.env,
            start_new_session=True,
            stderr=subprocess.DEVNULL,  # Ray reports every death at length
        )
        self.drivers += 1
        return False

    def head_accepts(self) -> bool:
        """Return whether the head's Ray accepts connections."""
        probe = f"import socket; socket.create_connection(('{self.head.address}', {PORT}), 1)"
        command = ["ip", "netns", "exec", self.head.name, sys.executable, "-S", "-c", probe]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def actors(self) -> list[psutil.Process]:
        """Return the processes of all actors."""
        return [process for host in self.hosts for process in host.processes("ray::Actor")]

    def undo_later(self, seconds: float, undo: Callable[[], Any]) -> None:
        self.undo.append((time.monotonic() + seconds, undo))

    def disturb(self) -> str | None:
        """Disturb something at random. Returns what was done, or None if there was nothing to disturb."""
        disturbance = self.random.choices(
            [self.kill_driver, self.kill_actor, self.kill_raylet, self.kill_head, self.stop_actor, self.cut, self.fill],
            weights=[3, 6, 3, 1, 2, 2, 2],
        )[0]
        description = disturbance()
        if description:
            self.done[disturbance.__name__.replace("_", " ")] += 1
        return description

    def kill_driver(self) -> str | None:
        if self.driver is None or self.driver.poll() is not None:
            return None
        os.kill(self.driver.pid, signal.SIGKILL)
        return "SIGKILL to the driver"

    def kill_actor(self) -> str | None:
        return self._signal(self.actors(), signal.SIGKILL, "an actor")

    def stop_actor(self) -> str | None:
        return self._signal(self.actors(), signal.SIGSTOP, "an actor")

    def kill_raylet(self) -> str | None:
        host = self.random.choice(self.hosts[1:])
        host.down_until = time.monotonic() + self.random.uniform(0, 5)
        return self._signal(host.processes("raylet"), signal.SIGKILL, f"the raylet of {host.name}")

    def kill_head(self) -> str | None:
        if not self.head.processes("gcs_server"):
            return None
        for host in self.hosts:
            host.kill_all()
        return "SIGKILL to the head and everything on it"

    def cut(self) -> str:
        host = self.random.choice(self.hosts[1:])
        seconds = self.random.choice([1.0, 12.0])
        run("ip", "-n", self.switch, "link", "set", host.port, "down")
        self.undo_later(seconds, lambda: run("ip", "-n", self.switch, "link", "set", host.port, "up"))
        return f"cable of {host.name} cut for {seconds:.0f} s"

    def fill(self) -> str:
        filler = self.out / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"\0" * (1 << 16))
        self.undo_later(3.0, lambda: filler.unlink(missing_ok=True))
        return "disk full for 3 s"

    def _signal(self, candidates: list[psutil.Process], number: signal.Signals, target: str) -> str | None:
        if not candidates:
            return None
        process = self.random.choice(candidates)
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
        return f"{number.name} to {target}"

    def calm(self) -> None:
        """Undo the disturbances that are still in effect."""
        for _, undo in self.undo:
            undo()
        self.undo.clear()


def chaos(engine: str, seconds: float, seed: int) -> int:
    """Disturb a sweep, let it end, and compare its study with an undisturbed one. Returns an exit code."""
    swept = subject(engine, seconds)
    label = f"sl{os.getpid() % 10000:x}"
    token = secrets.token_hex(32)
    env = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_initial_delay_ms": "2000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "3000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_worker_niceness": "0",
        "PYTHONPATH": str(ROOT),
    }
    Path("/tmp/ray").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        spawn = multiprocessing.get_context("spawn")  # an engine's memory is freed only with its process
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
            expected = pool.submit(undisturbed, Path(folder) / "undisturbed", swept).result()
        out = Path(folder) / "studies"
        out.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", out)
        hosts = [Host(n, label, env, hidden=out if n == 3 else None) for n in (1, 2, 3)]
        print(f"{swept.points} points on 3 hosts, {engine}, disturbed for {seconds:.0f} s, seed {seed}", flush=True)
        options = ["--engine", engine, "--seconds", str(seconds)]
        try:
            with network(hosts, f"{label}s"):
                survived = _disturb(Chaos(hosts, f"{label}s", out, swept, options, random.Random(seed)), seconds)
            return _compare(Study.locate(out, swept.info), swept.sweep, expected, survived)
        finally:
            run("umount", "-l", out, check=False)


def _disturb(chaos: Chaos, seconds: float) -> Chaos:
    study = Study.locate(chaos.out, chaos.swept.info)
    deadline = time.monotonic() + 3 * seconds + 300
    started = next_disturbance = 0.0
    while not chaos.keep_running():
        now = time.monotonic()
        stored = len(list((study.root / "generations").glob("*.parquet")))
        if stored and not started:
            started = now
        if now > deadline:
            print("  the sweep does not come to an end", flush=True)
            break
        if started and now - started >= seconds:
            chaos.calm()
        elif started and now > next_disturbance:
            description = chaos.disturb()
            next_disturbance = now + chaos.random.uniform(*chaos.swept.pauses)
            if description:
                print(f"  {now - started:5.0f} s  {stored:5d} parts  {description}", flush=True)
        time.sleep(0.2)
    if chaos.driver is not None and chaos.driver.poll() is None:
        chaos.driver.kill()
    return chaos


def _compare(located: Study, sweep: Sweep, expected: Responses, survived: Chaos) -> int:
    study = Study.open(located.root)
    actual, duplicates = responses(study)
    report = verify(study)
    lost = len(expected.keys() - actual.keys())
    different = sum(actual.get(key) != text for key, text in expected.items()) - lost
    unreadable = len(report.findings) + len(study.damaged())
    compact(study)
    merged, _ = responses(Study.open(located.root))
    kills = sum(survived.done.values())
    counts = ", ".join(f"{name} {n}" for name, n in sorted(survived.done.items()))
    deaths = sum(event["event"] == "actor_died" for event in read_all_events(study.root))
    print(f"survived {kills} disturbances ({counts}); {survived.drivers} drivers, {deaths} actors replaced")
    print(f"rows {len(actual)} of {len(expected)}: lost {lost}, doubled {duplicates}, different {different}; ", end="")
    print(f"unreadable files {unreadable}; after merging {'equal' if merged == expected else 'NOT EQUAL'}")
    sound = not (lost or duplicates or different or unreadable) and actual == expected == merged
    print("the study equals the undisturbed one" if sound else "THE STUDY DOES NOT EQUAL THE UNDISTURBED ONE")
    return 0 if sound else 1


def unavailable() -> str | None:
    """Return why chaos cannot run on this machine, or None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    for tool in ("ip", "unshare", "nsenter", "mount"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    probe = f"sl{os.getpid() % 10000:x}probe"
    try:
        run("ip", "netns", "add", probe)
        run("ip", "netns", "del", probe)
    except RuntimeError as error:
        return f"no network namespace can be made: {error}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=180, help="how long to disturb")
    parser.add_argument("--seed", type=int, default=None, help="seed of the random disturbances")
    parser.add_argument("--engine", choices=("dummy", "vllm"), default="dummy", help="vllm: the embedded model")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        return drive(options.drive, subject(options.engine, options.seconds), f"10.77.0.1:{PORT}")
    reason = unavailable()
    if reason:
        print(f"skipped: chaos {reason}")
        return 0
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    return chaos(options.engine, options.seconds, seed)


if __name__ == "__main__":
    sys.exit(main())
