"""Reading a study needs none of the libraries that measure one: they are made impossible to import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.stored import basin, store_sweep

pytestmark = pytest.mark.thorough


MEASURING = ("torch", "ray", "numba", "vllm", "transformers", "tokenizers", "datasets", "peft", "trl", "triton")
READ_ALL = """
import json, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name in json.loads(sys.argv[1]):
            raise ImportError(f"{name} is imported to read a study")
sys.meta_path.insert(0, Blocker())
import pytest

from orchestrator import load_study
from orchestrator.cli.main import main
from orchestrator.report.viewer.app import make_app

first, second = sys.argv[2:]
study = load_study(first)
assert len(study.landscape) and study.summary["points_done"] and len(study.generations) and len(study.points)
assert main(["gate", first, "visage=0", "gate.allow_single=true", "-q"]) == 0
assert main(["compare", first, second, f"html={first}/compared.html", f"csv={first}/compared.csv", "-q"]) == 0
assert main(["report", first, "-q"]) == 0
assert main(["reduce", first, "-q"]) == 0
assert main(["verify", first, "-q"]) == 0
assert main(["status", first, "-q"]) == 0
"""


def test_studies_are_read_without_the_libraries_that_measure(tmp_path: Path) -> None:
    sweeps = [store_sweep(tmp_path, basin(0.3), model=name, directions=1) for name in ("one", "other")]
    command = [sys.executable, "-P", "-c", READ_ALL, json.dumps(MEASURING), *map(str, sweeps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (sweeps[0] / "report.html").is_file() and (sweeps[0] / "compared.html").is_file()
