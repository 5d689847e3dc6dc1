"""A sweep on three hosts while everything that can die is killed: `python -m tests.cluster.chaos --seconds 180`; with
the embedded model in the real engine: `--engine vllm --seconds 400`.

Real raylets, each in a network namespace with a name, an address and a /tmp/ray of its own, joined by a switch. The
third host does not see the study's disk. What happens to them, at random: SIGKILL of the driver, of an actor, of a
raylet, of the head with all it runs; SIGSTOP of an actor past its deadline; a cut cable; a full disk. At the end the
study must equal an undisturbed one. Needs Linux, root and iproute2.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from orchestrator.store.events import read_all_events
from orchestrator.store.maintenance import compact, verify
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.temporary import create_disk_token
from orchestrator.sweep.grid import Grid, Sweep
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling, Visit, visits
from orchestrator.utils.errors import UserError
from workers.engines.base import EngineSpec

Responses = dict[tuple[str, str, str], str]

PORT = 6379
ROOT = Path(__file__).parents[2]
INTERRUPTED = 130


# What is swept.


@dataclass(frozen=True)
class Subject:
    """A model, what it is asked at `points` points, by how many actors; `deadline`: when a stopped one is given up;
    `pauses`: the least and the most time between two disturbances. Seconds throughout."""

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
    """The dummy, quickly; or the embedded model, whose actors take their time to load."""
    if engine == "dummy":
        spec = EngineSpec(kind="dummy", seconds=0.3)
        points = max(20, int(seconds * 3)) & ~1
        info = StudyInfo("dummy", "dummy", "float32", 1)
        return Subject(info, spec, tuple(prompt_sets()), points, actors=4, deadline=4.0, pauses=(2, 7))
    from orchestrator.config.compose import compose
    from orchestrator.config.presets import Presets
    from orchestrator.execution.resources import engine_spec
    from orchestrator.pipeline.prepare import prepare

    asked = compose(["probes.limit=6", "sampling.max_tokens=8", "engine.kv_cache_gib=0.1", "engine.threads=1"])
    prepared = prepare(asked, Presets(), sys.stderr)
    spec = engine_spec(prepared.config, prepared.model, "cpu", prepared.targets)
    points = max(20, int(seconds / 4)) & ~1
    return Subject(prepared.info, spec, prepared.prompt_sets, points, actors=2, deadline=30.0, pauses=(20, 50))


def prompt_sets() -> list[PromptSet]:
    def asked(group: str, n: int) -> PromptSet:
        prompts = tuple(Prompt(f"{group} question {i}", group) for i in range(n))
        tokens = tuple((i,) for i in range(n))
        return PromptSet(group, prompts, tuple(p.text for p in prompts), tokens, Sampling(16), "made up", "empty")

    return [asked("harmful", 8), asked("benign", 4)]


def left_of(study: Study, sweep: Sweep) -> list[Visit]:
    stored = study.generations.stored()
    return visits(task for task in sweep.tasks() if task.key not in stored)


def responses(study: Study) -> tuple[Responses, int]:
    """Every response that counts, and how many rows were met twice."""
    found: Responses = {}
    doubled = 0
    for _, table in study.generations.rows(study.generations.stored()):
        for row in table.select(["point_id", "prompt_set_id", "prompt_id", "response"]).to_pylist():
            key = row["point_id"], row["prompt_set_id"], row["prompt_id"]
            doubled += key in found
            found[key] = row["response"]
    return found, doubled


def undisturbed(out: Path, swept: Subject) -> Responses:
    """The same sweep by one actor in this process: no Ray, nothing that could go wrong."""
    from workers.actor import Actor

    study = Study.create(out, swept.info)
    spec = dataclasses.replace(swept.spec, seconds=0.0)
    actor = Actor(spec, str(study.root), study.id, create_disk_token(study.out))
    actor.load()
    actor.equip({s.id: s for s in swept.sets}, {d.id: actor.measure(d) for d in swept.sweep.grid.directions_used})
    for visit in left_of(study, swept.sweep):
        actor.visit(visit)
    return responses(study)[0]


# The driver, a process of its own.


def drive(out: Path, swept: Subject, address: str) -> int:
    """What `run` does: what is left of the sweep, and no more. Returns an exit code."""
    from orchestrator.execution import cluster
    from orchestrator.execution.dispatch import Dispatcher
    from orchestrator.execution.policy import DispatchPolicy
    from orchestrator.store.lease import Lease

    sweep = swept.sweep
    console = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Ray tells at length of every death
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
            job = Dispatcher(study, swept.spec, policy, lambda described: None, log.write)
            outcome = job.run(left_of(study, sweep), {s.id: s for s in swept.sets}, sweep.grid.directions_used)
    except UserError as error:
        print(f"  driver: {error}"[:160], file=console, flush=True)
        return 2
    return INTERRUPTED if outcome.interrupted else 3 if outcome.failures else 0


# The hosts.


def run(*command: str | Path, check: bool = True) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


@dataclass
class Host:
    """A network namespace with a raylet, which is started again whenever it is gone."""

    number: int
    label: str
    env: dict[str, str]
    hidden: Path | None = None  # what it does not see
    process: subprocess.Popen[bytes] | None = None
    down_until: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.label}{self.number}"

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number}"

    @property
    def port(self) -> str:
        """Its port at the switch."""
        return f"{self.label}p{self.number}"

    def inside(self, script: str) -> subprocess.Popen[bytes]:
        """Run a shell script on this host."""
        hide = f"mount -t tmpfs tmpfs {self.hidden} && " if self.hidden else ""
        prepare = f"mount -t tmpfs tmpfs /tmp/ray && {hide}hostname {self.name} && "
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, "unshare", "--uts", "--mount", "sh", "-c", prepare + script],
            env=self.env,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def tend(self, head: Host) -> None:
        """Start the raylet if it is not running and the host is not meant to be down."""
        if (self.process is not None and self.process.poll() is None) or time.monotonic() < self.down_until:
            return
        self.kill_all()
        role = f"--head --port={PORT} --include-dashboard=false" if self is head else f"--address={head.address}:{PORT}"
        ray = Path(sys.executable).parent / "ray"
        self.process = self.inside(
            f"exec {ray} start {role} --node-ip-address={self.address} --num-cpus=2 --disable-usage-stats "
            "--object-store-memory=80000000 --block"
        )

    def pids(self) -> list[int]:
        return [int(pid) for pid in run("ip", "netns", "pids", self.name, check=False).split()]

    def processes(self, named: str) -> list[psutil.Process]:
        found = []
        for pid in self.pids():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if any(named in part for part in process.cmdline()[:1]):
                    found.append(process)
        return found

    def kill_all(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()


@contextlib.contextmanager
def network(hosts: list[Host], switch: str) -> Iterator[None]:
    """The hosts' namespaces, each with a cable to the switch."""
    try:
        run("ip", "netns", "add", switch)
        run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "bridge", "up")
        for host in hosts:
            run("ip", "netns", "add", host.name)
            run("ip", "link", "add", "eth0", "netns", host.name, "type", "veth", "peer", host.port, "netns", switch)
            run("ip", "-n", switch, "link", "set", host.port, "master", "bridge", "up")
            run("ip", "-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            run("ip", "-n", host.name, "link", "set", "eth0", "up")
            run("ip", "-n", host.name, "link", "set", "lo", "up")
        yield
    finally:
        for host in hosts:
            host.kill_all()
            run("ip", "netns", "del", host.name, check=False)
        run("ip", "netns", "del", switch, check=False)


# The disturbances.


@dataclass
class Chaos:
    """The cluster, the driver, and what is done to them."""

    hosts: list[Host]
    switch: str
    out: Path
    swept: Subject
    options: list[str]  # with which a driver is called
    random: random.Random
    driver: subprocess.Popen[bytes] | None = None
    drivers: int = 0
    codes: collections.Counter[int] = field(default_factory=collections.Counter)
    done: collections.Counter[str] = field(default_factory=collections.Counter)
    undo: list[tuple[float, Callable[[], Any]]] = field(default_factory=list)

    @property
    def head(self) -> Host:
        return self.hosts[0]

    def tend(self) -> bool:
        """Keep raylets and driver going; whether a driver said that all is done."""
        now = time.monotonic()
        for entry in [entry for entry in self.undo if entry[0] <= now]:
            self.undo.remove(entry)
            entry[1]()
        for host in self.hosts:
            host.tend(self.head)
        if self.driver is not None and self.driver.poll() is None:
            return False
        if self.driver is not None:
            self.codes[self.driver.returncode] += 1
            if self.driver.returncode == 0:
                return True
        if not self.answers():
            return False
        command = [sys.executable, "-m", "tests.cluster.chaos", "--drive", self.out, *self.options]
        # The driver shares its host's Ray: it must see the session's sockets.
        assert self.head.process is not None
        inside = ["nsenter", "-t", self.head.process.pid, "--mount", "--uts", "--net", "--wd=" + str(ROOT)]
        self.driver = subprocess.Popen(
            list(map(str, [*inside, *command])),
            env=self.head.env,
            start_new_session=True,
            stderr=subprocess.DEVNULL,  # Ray tells at length of every death
        )
        self.drivers += 1
        return False

    def answers(self) -> bool:
        """Whether the head's Ray takes connections."""
        probe = f"import socket; socket.create_connection(('{self.head.address}', {PORT}), 1)"
        command = ["ip", "netns", "exec", self.head.name, sys.executable, "-S", "-c", probe]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def actors(self) -> list[psutil.Process]:
        return [process for host in self.hosts for process in host.processes("ray::Actor")]

    def later(self, seconds: float, what: Callable[[], Any]) -> None:
        self.undo.append((time.monotonic() + seconds, what))

    def disturb(self) -> str | None:
        """Do something terrible; what it was, or None where there was nothing to do it to."""
        what = self.random.choices(
            [self.kill_driver, self.kill_actor, self.kill_raylet, self.kill_head, self.stop_actor, self.cut, self.fill],
            weights=[3, 6, 3, 1, 2, 2, 2],
        )[0]
        told = what()
        if told:
            self.done[what.__name__.replace("_", " ")] += 1
        return told

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
        return "SIGKILL to the head and everything that hung on it"

    def cut(self) -> str:
        host = self.random.choice(self.hosts[1:])
        seconds = self.random.choice([1.0, 12.0])
        run("ip", "-n", self.switch, "link", "set", host.port, "down")
        self.later(seconds, lambda: run("ip", "-n", self.switch, "link", "set", host.port, "up"))
        return f"cable of {host.name} cut for {seconds:.0f} s"

    def fill(self) -> str:
        filler = self.out / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"\0" * (1 << 16))
        self.later(3.0, lambda: filler.unlink(missing_ok=True))
        return "disk full for 3 s"

    def _signal(self, candidates: list[psutil.Process], number: signal.Signals, whom: str) -> str | None:
        if not candidates:
            return None
        process = self.random.choice(candidates)
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
        return f"{number.name} to {whom}"

    def calm(self) -> None:
        """Undo what is still to be undone."""
        for _, undo in self.undo:
            undo()
        self.undo.clear()


def chaos(engine: str, seconds: float, seed: int) -> int:
    """Disturb a sweep for that long, let it end, and compare. Returns an exit code."""
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
        apart = multiprocessing.get_context("spawn")  # an engine leaves its memory with its process
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=apart) as pool:
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
            return _judge(Study.locate(out, swept.info), swept.sweep, expected, survived)
        finally:
            run("umount", "-l", out, check=False)


def _disturb(chaos: Chaos, seconds: float) -> Chaos:
    study = Study.locate(chaos.out, chaos.swept.info)
    until = time.monotonic() + 3 * seconds + 300
    began = following = 0.0
    while not chaos.tend():
        now = time.monotonic()
        stored = len(list((study.root / "generations").glob("*.parquet")))
        if stored and not began:
            began = now
        if now > until:
            print("  the sweep does not come to an end", flush=True)
            break
        if began and now - began >= seconds:
            chaos.calm()
        elif began and now > following:
            told = chaos.disturb()
            following = now + chaos.random.uniform(*chaos.swept.pauses)
            if told:
                print(f"  {now - began:5.0f} s  {stored:5d} parts  {told}", flush=True)
        time.sleep(0.2)
    if chaos.driver is not None and chaos.driver.poll() is None:
        chaos.driver.kill()
    return chaos


def _judge(located: Study, sweep: Sweep, expected: Responses, survived: Chaos) -> int:
    study = Study.open(located.root)
    found, doubled = responses(study)
    report = verify(study)
    lost = len(expected.keys() - found.keys())
    different = sum(found.get(key) != text for key, text in expected.items()) - lost
    unreadable = len(report.findings) + len(study.damaged())
    compact(study)
    merged, _ = responses(Study.open(located.root))
    kills = sum(survived.done.values())
    told = ", ".join(f"{what} {n}" for what, n in sorted(survived.done.items()))
    deaths = sum(event["event"] == "actor_died" for event in read_all_events(study.root))
    print(f"survived {kills} disturbances ({told}); {survived.drivers} drivers, {deaths} actors replaced")
    print(f"rows {len(found)} of {len(expected)}: lost {lost}, doubled {doubled}, different {different}; ", end="")
    print(f"unreadable files {unreadable}; after merging {'equal' if merged == expected else 'NOT EQUAL'}")
    sound = not (lost or doubled or different or unreadable) and found == expected == merged
    print("the study equals the undisturbed one" if sound else "THE STUDY DOES NOT EQUAL THE UNDISTURBED ONE")
    return 0 if sound else 1


def unavailable() -> str | None:
    """Why this cannot be done here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "takes Linux and root"
    for tool in ("ip", "unshare", "nsenter", "mount"):
        if shutil.which(tool) is None:
            return f"takes {tool}"
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
    parser.add_argument("--seed", type=int, default=None, help="of what is done, when, to whom")
    parser.add_argument("--engine", choices=("dummy", "vllm"), default="dummy", help="vllm: the embedded model")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.drive:
        return drive(asked.drive, subject(asked.engine, asked.seconds), f"10.77.0.1:{PORT}")
    why = unavailable()
    if why:
        print(f"skipped: chaos {why}")
        return 0
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(10**6)
    return chaos(asked.engine, asked.seconds, seed)


if __name__ == "__main__":
    sys.exit(main())
