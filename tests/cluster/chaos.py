"""Run a sweep on three hosts while drivers, actors and raylets are killed at random.

    python -m tests.cluster.chaos --seconds 180
    python -m tests.cluster.chaos --engine vllm --seconds 400    # the embedded model in the real engine
    python -m tests.cluster.chaos --seconds 1500 --record        # writes what was counted to benchmarks/RESULTS.md

The raylets are real, each in a network namespace with a name, an address and a /tmp/ray of its own (see `hosts.py`).
The third host does not see the study's disk. Disturbances are random: SIGKILL of the driver, an actor, a raylet,
the gcs_server, or the head and everything on it; SIGSTOP of an actor until its deadline; a cut cable; a full disk. A
reader checks every stored answer all the while. At the end the study must equal an undisturbed one. Needs Linux, root
and iproute2.
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

from benchmarks.results import machine, section, table
from orchestrator.store.compaction import compact
from orchestrator.store.events import read_all_events
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.temporary import create_disk_token
from orchestrator.store.verification import verify
from orchestrator.sweep.grid import Grid, Sweep
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling, Visit, visits
from orchestrator.utils.choices import EngineKind
from orchestrator.utils.errors import SessionLostError, UserError
from tests.cluster.chaos_reader import Key, Reader, read_responses
from tests.cluster.hosts import PORT, ROOT, Host, network, run
from workers.engines.base import EngineSpec

Responses = dict[Key, str]

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
    return read_responses(study)[0]


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
    except SessionLostError as error:
        print(f"  driver: {error}"[:160], file=console, flush=True)
        return INTERRUPTED
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
            [
                self.kill_driver,
                self.kill_actor,
                self.kill_raylet,
                self.kill_gcs_server,
                self.kill_head,
                self.stop_actor,
                self.cut,
                self.fill,
            ],
            weights=[3, 6, 4, 2, 1, 2, 2, 2],
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
        host = self.random.choice(self.hosts)
        host.down_until = time.monotonic() + self.random.uniform(0, 5)
        return self._signal(host.processes("raylet"), signal.SIGKILL, f"the raylet of {host.name}")

    def kill_gcs_server(self) -> str | None:
        self.head.down_until = time.monotonic() + self.random.uniform(0, 5)
        return self._signal(self.head.processes("gcs_server"), signal.SIGKILL, "the gcs_server")

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


def chaos(engine: str, seconds: float, seed: int, record: bool) -> int:
    """Disturb a sweep, let it end, and compare its study with an undisturbed one. Returns an exit code."""
    where = machine()
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
        "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
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
        run("mount", "-t", "tmpfs", "-o", f"size={max(48, int(seconds / 8))}m", "tmpfs", out)
        hosts = [Host(n, label, env, hidden=out if n == 3 else None) for n in (1, 2, 3)]
        print(f"{swept.points} points on 3 hosts, {engine}, disturbed for {seconds:.0f} s, seed {seed}", flush=True)
        options = ["--engine", engine, "--seconds", str(seconds)]
        try:
            located = Study.locate(out, swept.info)
            with network(hosts, f"{label}s"), Reader(located.root, expected) as reader:
                survived = _disturb(Chaos(hosts, f"{label}s", out, swept, options, random.Random(seed)), seconds)
            outcome = _compare(located, expected, survived, reader)
            print("\n".join(outcome.lines()))
            if record:
                section("chaos", outcome.markdown(where, engine, seconds, seed))
            return 0 if outcome.is_sound else 1
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


@dataclass(frozen=True)
class ChaosOutcome:
    """The counts of a disturbed sweep.

    Attributes:
        disturbances: How often each disturbance happened.
        drivers: Number of drivers that were started.
        deaths: Number of actors that were replaced.
        rows: Number of stored answers.
        expected: Number of answers of the undisturbed study.
        lost: Answers that are missing.
        doubled: Answers that are stored twice.
        different: Answers that differ from the undisturbed ones.
        unreadable: Files that do not verify.
        equal_after_merging: Whether the study equals the undisturbed one after its parts were merged.
        reads: How often the reader read the study while it was disturbed.
        checked: Number of answers that the reader checked.
        problems: What the reader found.
    """

    disturbances: collections.Counter[str]
    drivers: int
    deaths: int
    rows: int
    expected: int
    lost: int
    doubled: int
    different: int
    unreadable: int
    equal_after_merging: bool
    reads: int
    checked: int
    problems: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """True if the study equals the undisturbed one, and every answer that was read meanwhile did."""
        faults = self.lost or self.doubled or self.different or self.unreadable or self.problems
        return not faults and self.rows == self.expected and self.equal_after_merging

    def lines(self) -> list[str]:
        """Return the counts as lines for the terminal."""
        counts = ", ".join(f"{name} {n}" for name, n in sorted(self.disturbances.items()))
        merged = "equal" if self.equal_after_merging else "NOT EQUAL"
        return [
            f"survived {self.disturbances.total()} disturbances ({counts}); {self.drivers} drivers, "
            f"{self.deaths} actors replaced",
            f"rows {self.rows} of {self.expected}: lost {self.lost}, doubled {self.doubled}, "
            f"different {self.different}; unreadable files {self.unreadable}; after merging {merged}",
            f"a reader checked {self.checked} answers in {self.reads} reads: {len(self.problems)} problems",
            *(f"  {problem}" for problem in self.problems[:5]),
            "the study equals the undisturbed one" if self.is_sound else "THE STUDY DOES NOT EQUAL THE UNDISTURBED ONE",
        ]

    def markdown(self, where: str, engine: str, seconds: float, seed: int) -> str:
        """Return the section for RESULTS.md."""
        counts = [[name, str(n)] for name, n in sorted(self.disturbances.items())]
        merged = "yes" if self.equal_after_merging else "no"
        results = [
            ["answers stored, of those of an undisturbed run", f"{self.rows:,} of {self.expected:,}"],
            ["lost, doubled, different", f"{self.lost}, {self.doubled}, {self.different}"],
            ["files that do not verify", str(self.unreadable)],
            ["equal to the undisturbed study after merging", merged],
            ["answers that a reader checked meanwhile", f"{self.checked:,} in {self.reads:,} reads"],
            ["of these wrong, doubled or gone, and errors", str(len(self.problems))],
            ["drivers started, actors replaced", f"{self.drivers}, {self.deaths}"],
        ]
        options = f"--engine {engine} --seconds {seconds:.0f} --seed {seed} --record"
        return (
            f"## Disturbed sweeps\n\n`python -m tests.cluster.chaos {options}`: a sweep on three hosts in network "
            f"namespaces.\n\n{where}\n\n"
            f"{table(['disturbance', 'times'], [*counts, ['all', str(self.disturbances.total())]])}\n\n"
            f"{table(['result', 'count'], results)}"
        )


def _compare(located: Study, expected: Responses, survived: Chaos, reader: Reader) -> ChaosOutcome:
    study = Study.open(located.root)
    actual, duplicates = read_responses(study)
    report = verify(study)
    lost = len(expected.keys() - actual.keys())
    unreadable = len(report.findings) + len(study.damaged())
    compact(study)
    merged, _ = read_responses(Study.open(located.root))
    return ChaosOutcome(
        disturbances=survived.done,
        drivers=survived.drivers,
        deaths=sum(event["event"] == "actor_died" for event in read_all_events(study.root)),
        rows=len(actual),
        expected=len(expected),
        lost=lost,
        doubled=duplicates,
        different=sum(actual.get(key) != text for key, text in expected.items()) - lost,
        unreadable=unreadable,
        equal_after_merging=merged == expected,
        reads=reader.reads,
        checked=reader.checked,
        problems=tuple(reader.problems),
    )


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
    parser.add_argument("--record", action="store_true", help="write what was counted to benchmarks/RESULTS.md")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        return drive(options.drive, subject(options.engine, options.seconds), f"10.77.0.1:{PORT}")
    reason = unavailable()
    if reason:
        print(f"skipped: chaos {reason}")
        return 0
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    return chaos(options.engine, options.seconds, seed, options.record)


if __name__ == "__main__":
    sys.exit(main())
