"""The disturbances: what can be killed, stopped, cut, filled, set wrong or started twice while a sweep runs."""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.cluster.chaos.clock import Clock
from tests.cluster.chaos.hosts import PORT, ROOT, Host, run
from tests.cluster.chaos.second import SecondDriver, held_by
from tests.cluster.chaos.subject import Expected, Subject
from tests.cluster.chaos.verbs import VERBS, Verbs

OFFSETS = (-40 * 86400.0, -3600.0, -90.0, 0.0, 90.0, 3600.0, 40 * 86400.0)  # seconds by which a clock is wrong
FULL = 3.0  # seconds for which the disk is full
COMPLETE = 0
GENTLE = ("step clock", "cut briefly", *(f"kill {verb}" for verb in VERBS))


@dataclass
class Chaos:
    """The cluster, the driver, and the disturbances.

    Attributes:
        clocks: The clock of each host.
        out: The root of studies, on a small file system of its own.
        scratch: A folder for logs.
        number: The sweep that runs.
        expected: What that sweep gives if nothing disturbs it.
        driver: The driver at work.
        codes: How often drivers ended with each exit code.
        done: How often each disturbance happened.
        problems: One line for each fault.
        undo: Disturbances to undo: monotonic time and function.
    """

    hosts: list[Host]
    clocks: list[Clock]
    switch: str
    out: Path
    scratch: Path
    subject: Subject
    verbs: Verbs
    random: random.Random
    expected: Expected
    number: int = 0
    driver: subprocess.Popen[bytes] | None = None
    second: SecondDriver | None = None
    drivers: int = 0
    codes: collections.Counter[int] = field(default_factory=collections.Counter)
    done: collections.Counter[str] = field(default_factory=collections.Counter)
    problems: list[str] = field(default_factory=list)
    undo: list[tuple[float, Callable[[], Any]]] = field(default_factory=list)
    deck: list[str] = field(default_factory=list)

    @property
    def head(self) -> Host:
        return self.hosts[0]

    @property
    def sweep(self) -> Path:
        """The folder of the sweep that runs."""
        return self.out / self.expected.study / "sweeps" / self.expected.sweep

    def keep_running(self) -> bool:
        """Restart raylets and driver if they ended. Returns whether a driver reported that the sweep is complete."""
        now = time.monotonic()
        for entry in [entry for entry in self.undo if entry[0] <= now]:
            self.undo.remove(entry)
            entry[1]()
        for host in self.hosts:
            host.restart_if_gone(self.head)
        if killed := self.verbs.attend():
            self._count(f"kill {killed}")
        self._attend_second()
        if self.driver is not None and self.driver.poll() is None:
            return False
        if self.driver is not None and self._ended(self.driver):
            return True
        self.driver = self._start_driver(self.head, self._log("driver")) if self._head_accepts() else None
        self.drivers += self.driver is not None
        return False

    def _ended(self, driver: subprocess.Popen[bytes]) -> bool:
        """Record the end of a driver. Returns whether the sweep is complete."""
        self.driver = None
        self.codes[driver.returncode] += 1
        text = self._log("driver").read_text(encoding="utf-8", errors="replace")
        if "Traceback" in text:
            self.problems.append(f"a driver ended with {driver.returncode}: {text[text.index('Traceback') :][-1500:]}")
        elif driver.returncode > 0 and text.strip():
            print(f"  driver {driver.returncode}: {text.strip().splitlines()[-1]}"[:200], flush=True)
        return driver.returncode == COMPLETE

    def _log(self, name: str) -> Path:
        return self.scratch / f"{name}.err"

    def _start_driver(self, host: Host, log: Path) -> subprocess.Popen[bytes]:
        """Start a driver. It shares its host's Ray: it must see the session's sockets."""
        assert host.process is not None
        inside = ["nsenter", "-t", host.process.pid, "--mount", "--uts", "--net", f"--wd={ROOT}"]
        command = [sys.executable, "-m", "orchestrator", "run", f"out={self.out}"]
        with open(log, "wb") as file:
            return subprocess.Popen(
                list(map(str, [*inside, *command, *self.subject.overrides(self.number)])),
                env=host.env,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=file,
            )

    def _attend_second(self) -> None:
        if self.second is None or self.second.process.poll() is None:
            return
        verdict, self.second = self.second.verdict(), None
        if verdict is not None:
            self._count("start second driver")
            self.problems += [verdict] if verdict else []

    def _head_accepts(self) -> bool:
        """Return whether the head's Ray accepts connections."""
        probe = f"import socket; socket.create_connection(('{self.head.address}', {PORT}), 1)"
        command = ["ip", "netns", "exec", self.head.name, sys.executable, "-S", "-c", probe]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _actors(self) -> list[psutil.Process]:
        """Return the processes of all actors."""
        return [process for host in self.hosts for process in host.processes("ray::Actor")]

    def undo_later(self, seconds: float, undo: Callable[[], Any]) -> None:
        self.undo.append((time.monotonic() + seconds, undo))

    def _count(self, name: str) -> None:
        self.done[name] += 1

    def disturb(self) -> str | None:
        """Do the next disturbance that is possible now. Returns what was done, or None if none is possible."""
        if not self.deck:
            self.deck = self._shuffled()
        for name in self.deck:
            if description := self._do(name):
                self.deck.remove(name)
                return description
        # Those that are left need a driver and actors at work. Meanwhile do what does not keep them from starting.
        return self._do(self.random.choice(GENTLE))

    def _shuffled(self) -> list[str]:
        """Return all disturbances in a random order. Those that stop everything for long tend to come later."""
        cheap = ["kill driver", "kill actor", "kill actor", "fill disk", "use up inodes",
                 "start second driver", *GENTLE]  # fmt: skip
        costly = ["kill raylet", "kill gcs server", "kill head", "stop actor", "cut"]
        ranked = [(self.random.uniform(0, 1), name) for name in cheap]
        ranked += [(self.random.uniform(0.3, 1), name) for name in costly]
        return [name for _, name in sorted(ranked)]

    def _do(self, name: str) -> str | None:
        verb = name.removeprefix("kill ")
        if verb in VERBS:
            known = (self.sweep / "summary.json").exists() or verb in ("judge", "reduce", "compact", "verify")
            known = known and (self.sweep / "sweep.json").exists()
            return f"{verb} starts, to be killed" if known and self.verbs.start(verb, self.sweep) else None
        description: str | None = getattr(self, name.replace(" ", "_"))()
        if description and name != "start second driver":  # which counts when it has ended
            self._count(name)
        return description

    def kill_driver(self) -> str | None:
        if self.driver is None or self.driver.poll() is not None:
            return None
        os.kill(self.driver.pid, signal.SIGKILL)
        return "SIGKILL to the driver"

    def start_second_driver(self) -> str | None:
        if self.second or self.driver is None or not held_by(self.sweep / "lease.json", self.driver.pid):
            return None
        host = self.random.choice([host for host in self.hosts[:2] if host.processes("raylet")] or [None])
        if host is None:
            return None
        log = self._log("second")
        self.second = SecondDriver(self._start_driver(host, log), self.driver, log)
        return f"a second driver starts on {host.name}"

    def kill_actor(self) -> str | None:
        return self._signal(self._actors(), signal.SIGKILL, "an actor")

    def stop_actor(self) -> str | None:
        return self._signal(self._actors(), signal.SIGSTOP, "an actor")

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

    def cut(self, seconds: float = 12.0) -> str:
        host = self.random.choice(self.hosts[1:])
        run("ip", "-n", self.switch, "link", "set", host.port, "down")
        self.undo_later(seconds, functools.partial(run, "ip", "-n", self.switch, "link", "set", host.port, "up"))
        return f"cable of {host.name} cut for {seconds:.0f} s"

    def cut_briefly(self) -> str:
        return self.cut(1.0)

    def step_clock(self) -> str:
        number, seconds = self.random.randrange(len(self.clocks)), self.random.choice(OFFSETS)
        self.clocks[number].set(seconds)
        return f"clock of {self.hosts[number].name} set {seconds:+.0f} s off"

    def fill_disk(self) -> str:
        filler = self.out / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"\0" * (1 << 16))
        self.undo_later(FULL, lambda: filler.unlink(missing_ok=True))
        return f"disk full for {FULL:.0f} s"

    def use_up_inodes(self) -> str:
        folder = self.out / "fillers"
        with contextlib.suppress(OSError):
            folder.mkdir()
            for number in range(10**7):
                (folder / str(number)).touch()
        self.undo_later(FULL, lambda: shutil.rmtree(folder, ignore_errors=True))
        return f"no inode left for {FULL:.0f} s"

    def _signal(self, candidates: list[psutil.Process], number: signal.Signals, target: str) -> str | None:
        if not candidates:
            return None
        process = self.random.choice(candidates)
        try:
            process.send_signal(number)
        except psutil.Error:
            return None
        return f"{number.name} to {target}"

    def calm(self) -> None:
        """Undo the disturbances that are still in effect."""
        for _, undo in self.undo:
            undo()
        self.undo.clear()
        for clock in self.clocks:
            clock.set(0.0)

    def end(self) -> None:
        """End the drivers."""
        for process in filter(None, (self.driver, self.second.process if self.second else None)):
            if process.poll() is None:
                process.kill()
                process.wait()
