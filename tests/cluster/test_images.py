"""Build the images as far as this machine can, and run a sweep in a container.

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

from tests.cluster.chaos.hosts import ROOT, run

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


def test_the_gpu_image_builds_up_to_its_packages(image: str) -> None:
    """Build the stage `base` on the base that the CPU image was built on."""
    base = ("--build-arg", "BASE=localhost/safety-landscape-base", "--target", "base", "--tag", "localhost/gpu-base")
    build = ("buildah", "build", "--isolation", "chroot", "--network", "host", "--format", "docker")
    run(*build, *base, "-f", str(ROOT / "docker" / "Dockerfile.gpu"), str(ROOT))
    run("buildah", "rmi", "localhost/gpu-base")
