"""Hosts of a test cluster: network namespaces with a raylet each, connected by a switch."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

PORT = 6379  # of the head's Ray
ROOT = Path(__file__).parents[3]


def run(*command: str | Path, check: bool = True) -> str:
    """Run a command and return its output. Raises RuntimeError if it fails and `check` is set."""
    completed = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if check and completed.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {completed.stderr.strip()}")
    return completed.stdout


@dataclass
class Host:
    """A network namespace with a raylet that is started again whenever it is gone.

    Attributes:
        hidden: A folder that this host does not see, or None.
        down_until: Monotonic time before which the raylet is not started again.
    """

    number: int
    label: str
    env: dict[str, str]
    hidden: Path | None = None
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
        """The name of this host's port at the switch."""
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

    def restart_if_gone(self, head: Host) -> None:
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
        """Return the process ids of this host."""
        return [int(pid) for pid in run("ip", "netns", "pids", self.name, check=False).split()]

    def processes(self, name: str) -> list[psutil.Process]:
        """Return the processes of this host whose command contains a name."""
        processes = []
        for pid in self.pids():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if any(name in part for part in process.cmdline()[:1]):
                    processes.append(process)
        return processes

    def kill_all(self) -> None:
        """Kill every process of this host."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()


@contextlib.contextmanager
def network(hosts: list[Host], switch: str) -> Iterator[None]:
    """Create the hosts' namespaces, each with a cable to the switch; remove them at the end."""
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
