"""Test a cluster that the scripts start in its own network and process namespaces: it requires the token."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IN_NAMESPACES = ["unshare", "--user", "--map-root-user", "--pid", "--net", "--mount-proc", "--fork", "--kill-child"]

SESSION = r"""
set -eu
ip link set lo up
few="--num-cpus 1 --object-store-memory 80000000"
scripts/cluster_start.sh head -- $few
PORT=7379 scripts/cluster_start.sh worker 127.0.0.1:6379 -- $few 2>/dev/null
ss --listening --tcp --numeric --no-header | awk '{print $4}' >"$HOME/listening"
count='import ray; ray.init("auto", logging_level=50); print(sum(node["Alive"] for node in ray.nodes()))'
for mode in token disabled; do
    RAY_AUTH_MODE=$mode .venv/bin/python -c "$count" >"$HOME/$mode" 2>/dev/null || echo refused >"$HOME/$mode"
done
scripts/cluster_stop.sh >/dev/null 2>&1
ps -e -o args= >"$HOME/left"
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A home folder with a short path: Ray puts its sockets there, and a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="h-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def require_network_namespace() -> None:
    """Skip the test if this machine cannot give it a network of its own."""
    for program in ("unshare", "ip", "ss", "ps"):
        if not shutil.which(program):
            pytest.skip(f"{program} is missing: Debian's util-linux, iproute2 and procps have it")
    if subprocess.run([*IN_NAMESPACES, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not allow network namespaces")


def test_a_worker_without_a_token_fails_with_advice(home: Path) -> None:
    environment = {**os.environ, "HOME": str(home), "RAY_AUTH_TOKEN": ""}
    start = [ROOT / "scripts" / "cluster_start.sh", "worker", "127.0.0.1"]
    completed = subprocess.run(start, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 2
    assert "copy ~/.ray/auth_token from the head" in completed.stderr


@pytest.mark.cluster
@pytest.mark.slow
def test_the_scripts_start_join_and_stop_a_cluster(home: Path) -> None:
    require_network_namespace()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(home), "RAY_TMPDIR": str(home), "NODE_IP": "127.0.0.1"}
    completed = subprocess.run(
        [*IN_NAMESPACES, "bash", "-c", SESSION], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    output = {name: (home / name).read_text() for name in ("listening", "token", "disabled", "left")}
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o077 == 0
    assert "scripts/cluster_start.sh worker 127.0.0.1:6379" in completed.stdout
    assert (output["token"].strip(), output["disabled"].strip()) == ("2", "refused"), json.dumps(output)
    loopback = ("127.0.0.1:", "[::ffff:127.0.0.1]:")
    exposed = [address for address in output["listening"].split() if not address.startswith(loopback)]
    assert not exposed, "nothing may listen on another address than the given one"
    assert "raylet" not in output["left"]
    assert "gcs_server" not in output["left"]
