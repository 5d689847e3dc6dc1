"""A real object store on loopback: Ceph's gateway, which speaks S3, with one monitor and one OSD in memory.

Debian's packages are downloaded once and unpacked, not installed, into the user's cache. The three processes need no
service manager and end with the context.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")
LIBRARIES = "usr/lib/x86_64-linux-gnu"
PATIENCE = 120.0
"""Seconds that the processes may take until they serve."""

_REGISTER = """
import ctypes, json, sys
library, settings, osd = sys.argv[1:]
rados = ctypes.CDLL(library)
cluster = ctypes.c_void_p()
command = json.dumps({"prefix": "osd new", "uuid": osd, "format": "json"}).encode()
result, length = ctypes.c_char_p(), ctypes.c_size_t()
assert rados.rados_create(ctypes.byref(cluster), b"admin") == 0
assert rados.rados_conf_read_file(cluster, settings.encode()) == 0
assert rados.rados_connect(cluster) == 0
assert rados.rados_mon_command(
    cluster, (ctypes.c_char_p * 1)(command), ctypes.c_size_t(1), b"", ctypes.c_size_t(0),
    ctypes.byref(result), ctypes.byref(length), ctypes.byref(result), ctypes.byref(length),
) == 0
"""


class CephUnavailableError(Exception):
    """The programs cannot be had on this machine; the message says why."""


@dataclass(frozen=True)
class Store:
    """An object store with one user.

    Attributes:
        endpoint: Address of the server, for AWS_ENDPOINT_URL.
        key: AWS_ACCESS_KEY_ID.
        secret: AWS_SECRET_ACCESS_KEY.
    """

    endpoint: str
    key: str
    secret: str


def ceph_programs(cache: Path) -> Path:
    """Return the folder into which Ceph's packages are unpacked; they are downloaded on the first call.

    Args:
        cache: Folder that keeps them.

    Raises:
        CephUnavailableError: This is not Debian 12 on x86-64, or the packages cannot be downloaded.
    """
    root = cache / "ceph-16"
    if (root / "complete").is_file():
        return root
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None or os.uname().machine != "x86_64":
        raise CephUnavailableError("Ceph's packages are unpacked on Debian for x86-64 only")
    unpacked = cache / f"ceph-16.{uuid.uuid4().hex}"
    downloads = unpacked / "downloads"
    downloads.mkdir(parents=True)
    try:
        planned = _output("apt-get", "install", "--simulate", "--no-install-recommends", *PACKAGES)
        names = [line.split()[1] for line in planned.splitlines() if line.startswith("Inst ")]
        names = sorted({*names, *PACKAGES})
        subprocess.run(["apt-get", "download", "-qq", *names], cwd=downloads, check=True, capture_output=True)
        for package in sorted(downloads.glob("*.deb")):
            subprocess.run(["dpkg", "-x", package, unpacked], check=True, capture_output=True)
        shutil.rmtree(downloads)
        (unpacked / "complete").touch()
        shutil.rmtree(root, ignore_errors=True)
        os.replace(unpacked, root)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        raise CephUnavailableError(f"Ceph's packages cannot be downloaded: {reason}") from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return root


@contextlib.contextmanager
def ceph_gateway(programs: Path, folder: Path) -> Iterator[Store]:
    """Run a monitor, an OSD in memory and a gateway while the context lasts; yield the store.

    Args:
        programs: What `ceph_programs` returned.
        folder: A new folder for their files. Sockets lie in it, so its path must be short (about 60 characters).

    Raises:
        TimeoutError: They do not serve within PATIENCE seconds; the message has the ends of their logs.
    """
    cluster = _Cluster(programs, folder)
    try:
        yield cluster.start()
    finally:
        cluster.stop()


class _Cluster:
    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self._processes: list[subprocess.Popen[bytes]] = []
        libraries = [programs / LIBRARIES, programs / LIBRARIES / "ceph", programs / "lib/x86_64-linux-gnu"]
        self._environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries))}
        self._port = _free_port()
        self._settings = folder / "ceph.conf"
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> Store:
        monitor = f"127.0.0.1:{_free_port()}"
        identity = str(uuid.uuid4())
        libraries = self._programs / LIBRARIES
        settings = {
            "fsid": identity,
            "mon_host": f"[v2:{monitor}]",
            "public_addr": "127.0.0.1",
            "auth_cluster_required": "none",
            "auth_service_required": "none",
            "auth_client_required": "none",
            "ms_mon_client_mode": "crc",  # the gateway wants a cipher otherwise, for which there are no keys
            "osd_objectstore": "memstore",
            "memstore_device_bytes": 1 << 30,
            "osd_pool_default_size": 1,
            "osd_pool_default_min_size": 1,
            "osd_pool_default_pg_num": 4,
            "osd_pool_default_pg_autoscale_mode": "off",
            "osd_crush_chooseleaf_type": 0,
            "mon_allow_pool_size_one": "true",
            "mon_max_pg_per_osd": 1000,
            "plugin_dir": libraries / "ceph",
            "erasure_code_dir": libraries / "ceph/erasure-code",
            "osd_class_dir": libraries / "rados-classes",
            "mon_data": self._folder / "mon",
            "osd_data": self._folder / "osd",
            "run_dir": self._folder,
            "admin_socket": self._folder / "$name.sock",
            "keyring": self._folder / "keyring",
            "log_file": self._folder / "$name.log",
            "mon_cluster_log_file": self._folder / "cluster.log",
            "rgw_frontends": f"beast endpoint=127.0.0.1:{self._port}",
            "rgw_data": self._folder / "gateway",
            "rgw_thread_pool_size": 64,
            "rgw_zone": "default",
            "rgw_dns_name": "localhost",
        }
        lines = ["[global]", *(f"{name} = {value}" for name, value in settings.items())]
        self._settings.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name in ("mon", "osd", "gateway"):
            (self._folder / name).mkdir()
        map_file = str(self._folder / "monmap")
        self._run("monmaptool", "--create", "--addv", "a", f"[v2:{monitor}]", "--fsid", identity, map_file)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", map_file)
        self._launch("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        self._register_osd(osd)
        self._run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd)
        self._launch("ceph-osd", "-i", "0")
        self._launch("radosgw", "-n", "client.gateway")
        self._wait_until_serving()
        user = self._run(
            "radosgw-admin", "-n", "client.admin", "user", "create", "--uid", "tester", "--display-name", "tester"
        )
        keys = json.loads(user[user.index("{") :])["keys"][0]
        return Store(f"http://127.0.0.1:{self._port}", keys["access_key"], keys["secret_key"])

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.kill()  # nothing outlives the test: what they hold is in memory
        for process in self._processes:
            process.wait()

    def _wait_until_serving(self) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and all(process.poll() is None for process in self._processes):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1.0):
                return
            time.sleep(0.2)
        raise TimeoutError(self._logs())

    def _register_osd(self, identity: str) -> None:
        """Tell the monitor of the OSD 0, by librados: the program `ceph` needs a library of the system's Python."""
        library = str(self._programs / LIBRARIES / "librados.so.2")
        script = [sys.executable, "-c", _REGISTER, library, str(self._settings), identity]
        subprocess.run(script, env=self._environment, check=True, timeout=PATIENCE)

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self._program(program)), *arguments]
        if program != "monmaptool":
            command += ["-c", str(self._settings)]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode != 0:
            raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr[-2000:]}\n{self._logs()}")
        return done.stdout

    def _launch(self, program: str, *arguments: str) -> None:
        command = [str(self._program(program)), "-f", *arguments, "-c", str(self._settings)]
        with open(self._folder / f"{program}.out", "wb") as output:
            self._processes.append(
                subprocess.Popen(command, env=self._environment, stdout=output, stderr=subprocess.STDOUT)
            )

    def _program(self, name: str) -> Path:
        return self._programs / "usr/bin" / name

    def _logs(self) -> str:
        texts = (path.read_text(errors="replace")[-1500:] for path in sorted(self._folder.glob("*.out")))
        return "\n".join(texts)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
