"""Build the images as far as this machine can, and run sweeps in one container and in a cluster of two.

The CPU image takes minutes and several GB, and stays in buildah's storage (`buildah rmi --all` removes it). Of the GPU
image, only the stage without packages is built; test_lock.py resolves its packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.cluster.chaos.hosts import ROOT, Host, network, run

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("buildah") or not shutil.which("debootstrap"),
        reason="needs root, buildah and debootstrap",
    ),
]
IMAGE = "localhost/safety-landscape:0.1.0-cpu"
SWEEP = ("safety-landscape", "run", "engine=dummy", "out=/mnt/studies", "grid.steps=10", "grid.directions=1")

PATIENCE = 1500  # seconds for starting the cluster and running a sweep on it; a quiet machine takes one minute

# Enter a root folder as a container engine does: with networks, mounts, processes and shared memory of its own, as the
# image's user. All processes and mounts end with the first process. In buildah's own chroots, containers would see each
# other's processes.
CONTAINER = r"""
set -e
host=$1 root=$2 data=$3
shift 3
hostname "$host"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir -p "$root/mnt"
mount --bind "$data" "$root/mnt"
exec chroot --userspec=1000:1000 "$root" env -C /mnt -i "$@"
"""
HEAD = r"""
set -e
/app/scripts/cluster_start.sh head -- $FEW
count='import ray; ray.init("auto", logging_level=50); print(sum(node["Alive"] for node in ray.nodes()))'
until [ "$(python -c "$count")" = 2 ]; do sleep 1; done
exec safety-landscape run engine=dummy engine.seconds=0.5 out=/mnt/studies grid.steps=60 grid.directions=1 \
    cluster=ray cluster.address=auto cluster.actors=2 cluster.cpus_per_actor=2
"""
WORKER = r"""
until (: <"/dev/tcp/$HEAD/6379") 2>/dev/null; do sleep 1; done
exec env BLOCK=1 /app/scripts/cluster_start.sh worker "$HEAD" -- $FEW
"""


@pytest.fixture(scope="module")
def image() -> str:
    """Build the CPU image on a base of Debian's packages and print its size, or take the one named in IMAGE."""
    if "IMAGE" in os.environ:
        return os.environ["IMAGE"]
    environment = dict(os.environ)
    if "UV_FIND_LINKS" not in environment and "PIP_FIND_LINKS" in environment:
        environment["UV_FIND_LINKS"] = environment["PIP_FIND_LINKS"]
    built = subprocess.run(
        [ROOT / "docker" / "build_image.sh", "cpu", "debian"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    print(built.stdout)
    return IMAGE


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder for the containers' /mnt that user 1000 can write to. A mount on a volume would be hidden."""
    folder = tmp_path / "data"
    folder.mkdir()
    os.chown(folder, 1000, 1000)
    return folder


@pytest.fixture
def container(image: str) -> Iterator[str]:
    name = run("buildah", "from", image).strip()
    yield name
    run("buildah", "rm", name)


def inside(container: str, data: Path, *command: str) -> list[str]:
    """Return the command that runs a command in a container as the image's user, in the caller's network."""
    options = ["--isolation", "chroot", "--network", "host", "--volume", f"{data}:/mnt", "--workingdir", "/mnt"]
    return ["buildah", "run", *options, container, "--", *command]


def test_a_sweep_runs_in_the_cpu_image_without_root_or_compiler(container: str, data: Path) -> None:
    assert run(*inside(container, data, "id", "-u")).strip() == "1000"
    writable = run(*inside(container, data, "sh", "-c", "find /app /usr /etc -writable ! -type l; true"))
    assert writable == ""
    assert run(*inside(container, data, "sh", "-c", "command -v cc g++ strip || true")) == ""
    run(*inside(container, data, *SWEEP))
    (summary,) = data.glob("studies/*/sweeps/*/summary.json")
    assert json.loads(summary.read_text())


@pytest.fixture
def root_folders(image: str) -> Iterator[list[Path]]:
    """Mount the root folders of two containers."""
    names: list[str] = []
    try:
        for _ in range(2):
            names.append(run("buildah", "from", image).strip())
        yield [Path(run("buildah", "mount", name).strip()) for name in names]
    finally:
        for name in names:
            run("buildah", "rm", name, check=False)


def in_container(host: Host, root: Path, data: Path, script: str, variables: Mapping[str, str]) -> list[str]:
    """Return the command that runs a script of bash in a container on a host."""
    environment = {
        "HOME": "/data",
        "PATH": "/app/.venv/bin:/usr/local/bin:/usr/bin:/bin",
        "SAFETY_LANDSCAPE_CACHE": "/data/cache",
        "NODE_IP": host.address,
        "FEW": "--num-cpus 2 --object-store-memory 80000000",
        "RAY_AUTH_MODE": "token",
        "RAY_raylet_start_wait_time_s": "600",  # 60 are not enough beside an image build
        **variables,
    }
    namespaces = [
        "unshare",
        "--mount",
        "--uts",
        "--ipc",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        CONTAINER,
        "sh",
    ]
    command = [*(f"{name}={value}" for name, value in environment.items()), "bash", "-c", script]
    return ["ip", "netns", "exec", host.name, *namespaces, host.name, str(root), str(data), *command]


@pytest.mark.skipif(not shutil.which("ip"), reason="needs iproute2")
def test_two_containers_are_one_ray_cluster(root_folders: list[Path], data: Path, tmp_path: Path) -> None:
    """The hosts of the two containers have networks of their own, and actors of one sweep run on both."""
    hosts = head, worker = [Host(number, "img", {}) for number in (1, 2)]
    variables = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "HEAD": head.address}
    output = [tmp_path / name for name in ("head", "worker")]
    of_head, of_worker = (
        in_container(host, root, data, script, variables)
        for host, root, script in zip(hosts, root_folders, (HEAD, WORKER), strict=True)
    )
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in output]
        stack.enter_context(network([head, worker], "imgswitch"))  # kills every process of the hosts at the end
        worker.process = subprocess.Popen(of_worker, stdout=files[1], stderr=files[1])
        ended = subprocess.run(of_head, stdout=files[0], stderr=files[0], timeout=PATIENCE, check=False)
    assert ended.returncode == 0, "\n".join(path.read_text(errors="replace")[-3000:] for path in output)
    events = [json.loads(line) for path in data.glob("studies/*/events/*.jsonl") for line in path.open()]
    assert {event["host"] for event in events if event["event"] == "actor_ready"} == {"img1", "img2"}
    slots = {event["slot"] for event in events if event["event"] == "visit_done"}
    assert slots == {0, 1}, "both actors must have completed visits"
    assert list(data.glob("studies/*/sweeps/*/summary.json"))


def test_the_gpu_image_builds_up_to_its_packages(image: str) -> None:
    """Build the stage `base` on the base that the CPU image was built on."""
    base = ("--build-arg", "BASE=localhost/safety-landscape-base", "--target", "base", "--tag", "localhost/gpu-base")
    build = ("buildah", "build", "--isolation", "chroot", "--network", "host", "--format", "docker")
    run(*build, *base, "-f", str(ROOT / "docker" / "Dockerfile.gpu"), str(ROOT))
    run("buildah", "rmi", "localhost/gpu-base")
