"""The first stage of the GPU check, rehearsed on a CPU where only the packages that it names are installed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytest.importorskip("triton")

ROOT = Path(__file__).parents[3]
NEEDED = ("torch", "triton", "transformers", "numba", "safetensors", "numpy")


def with_requirements(names: tuple[str, ...]) -> set[str]:
    """Return distributions together with all that they require."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = canonicalize_name(left.pop())
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            needed = [Requirement(text) for text in required]
            left += [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return a folder with links to the needed packages alone."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in with_requirements(NEEDED):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))
    return folder


def run(bare: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the packages of a folder and this repository alone."""
    environment = {**os.environ, "PYTHONPATH": f"{bare}:{ROOT}", "TRITON_CACHE_DIR": str(bare.parent / "cache")}
    return subprocess.run(
        [sys.executable, "-S", *command],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.thorough
def test_the_first_stage_imports_no_more_than_it_names(bare: Path) -> None:
    assert not any((bare / name).exists() for name in ("vllm", "ray", "pyarrow", "pandas", "hydra", "pytest"))
    imported = run(bare, "-c", "from scripts.gpu_check import __main__, kernel, probes; import transformers, numba")
    assert imported.returncode == 0, imported.stderr[-3000:]
    assert run(bare, "-c", "import pyarrow").returncode == 1


@pytest.mark.slow
def test_the_first_stage_runs_on_a_bare_machine(bare: Path) -> None:
    completed = run(bare, "-m", "scripts.gpu_check", "--stages", "1", "--device", "cpu")
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    rows = [line.strip("| ").split(" | ") for line in completed.stdout.splitlines() if line.startswith("| ")]
    assert rows[0] == ["card", "stage", "check", "result"] and {len(row) for row in rows} == {4}
    table = {check: result for _, _, check, result in rows}
    assert "stage 1: 0 failures" in completed.stdout and "rehearsal" in completed.stdout
    assert table["kernel against the reference"] == "58 of 58 comparisons equal"
    assert {"bfloat16: device copy", "bfloat16: one term", "float32: one term, filter norm"} <= set(table)
    assert {"table look-up alone", "Philox alone", "registration with CUDA", "write of one slab by itself"} <= set(
        table
    )
