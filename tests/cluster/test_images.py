"""Build the images as far as this machine can; run sweeps in one container, and in two as hosts of one Ray cluster.

The CPU image takes minutes and several GB, and stays in buildah's storage (`buildah rmi --all` removes it). Of the GPU
image, only the stage without packages is built; test_lock.py resolves its packages.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.chaos.hosts import PORT, ROOT, Host, network, run

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


def test_the_embedded_model_runs_in_vllm_in_the_cpu_image(container: str, data: Path) -> None:
    small = [option for option in SWEEP if not option.startswith(("engine", "grid.steps"))]
    run(*inside(container, data, *small, "grid.steps=2", "probes.limit=2", "sampling.max_tokens=8", "engine=vllm"))
    assert list(data.glob("studies/*/sweeps/*/summary.json"))


def test_two_containers_are_one_ray_cluster(container: str, image: str, data: Path) -> None:
    if not shutil.which("ip"):
        pytest.skip("needs iproute2")
    other = run("buildah", "from", image).strip()
    head, worker = hosts = [Host(number, "img", dict(os.environ)) for number in (1, 2)]
    token = ("env", "RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN={'a1' * 32}", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0")

    def on(host: Host, name: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", host.name, *inside(name, data, *token, *command)]

    def start(host: Host, name: str, role: str) -> subprocess.Popen[bytes]:
        options = f"{role} --node-ip-address={host.address} --num-cpus=2 --object-store-memory=80000000 --block"
        return subprocess.Popen(
            on(host, name, "ray", "start", *options.split()), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    rays: list[subprocess.Popen[bytes]] = []
    try:
        with network(hosts, "imgswitch"):
            rays.append(start(head, container, f"--head --port={PORT} --include-dashboard=false"))
            run(*on(head, container, "bash", "-c", f"until (: </dev/tcp/{head.address}/{PORT}); do sleep 1; done"))
            rays.append(start(worker, other, f"--address={head.address}:{PORT}"))
            options = (f"cluster.address={head.address}:{PORT}", "cluster.actors=2", "cluster.cpus_per_actor=2")
            run(*on(head, container, *SWEEP, "grid.steps=60", "cluster=ray", *options))
    finally:
        for ray in rays:
            ray.wait()
        run("buildah", "rm", other)
    events = [json.loads(line) for path in data.glob("studies/*/events/**/*.jsonl") for line in path.open()]
    assert len({event["node"] for event in events if event["event"] == "actor_ready"}) == 2


def test_the_gpu_image_builds_up_to_its_packages(image: str) -> None:
    """Build the stage `base` on the base that the CPU image was built on."""
    base = ("--build-arg", "BASE=localhost/safety-landscape-base", "--target", "base", "--tag", "localhost/gpu-base")
    build = ("buildah", "build", "--isolation", "chroot", "--network", "host", "--format", "docker")
    run(*build, *base, "-f", str(ROOT / "docker" / "Dockerfile.gpu"), str(ROOT))
    run("buildah", "rmi", "localhost/gpu-base")
