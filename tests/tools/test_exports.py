"""Exported files are read back by the tools they are for, in environments of their own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import load_study
from orchestrator.cli.main import main
from tests.contract.rules import ROOT
from tests.tools.environment import tool_python
from tests.unit.stored import basin, store_sweep

pytestmark = pytest.mark.tools

INSPECT, VTK = "inspect-ai==0.3.285", "vtk==9.7.2"


def read_back(package: str, name: str, sweep: Path, to: Path) -> dict[str, Any]:
    """Export a sweep and return what the tool reads."""
    assert main(["export", name, str(sweep), f"to={to}"]) == 0
    command = [str(tool_python(package, with_project=False)), str(ROOT / "tests" / "tools" / "read_exports.py")]
    completed = subprocess.run([*command, name, str(to)], capture_output=True, text=True, timeout=300, check=False)
    assert completed.returncode == 0, completed.stderr
    read: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
    return read


def test_inspect_reads_a_log_for_each_point(tmp_path: Path) -> None:
    sweep = store_sweep(tmp_path / "out", basin(0.3), directions=1, steps=4)
    logs = read_back(INSPECT, "inspect", sweep, tmp_path / "logs")
    study = load_study(sweep)
    landscape = study.landscape.set_index("alpha")
    assert sorted(log["alpha"] for log in logs.values()) == landscape.index.tolist()
    for log in logs.values():
        row = landscape.loc[log["alpha"]]
        stored = study.generations[study.generations["point_id"] == row["point_id"]]
        assert log["status"] == "success"
        assert sorted(zip(log["completions"], log["classes"], strict=True)) == sorted(
            zip(stored["response"], stored["keyword"], strict=True)
        )
        assert 100 * log["attack_success_rate"] == pytest.approx(row["asr"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random_1d", "random_2d"])
def test_vtk_reads_lines_and_planes(kind: str, tmp_path: Path) -> None:
    sweep = store_sweep(tmp_path / "out", basin(0.3), kind=kind, steps=4, leave_out=lambda node: node.alpha == 0.5)
    files = read_back(VTK, "vtp", sweep, tmp_path / "files")
    landscape = load_study(sweep).landscape
    for (name, read), (_, rows) in zip(files.items(), landscape.groupby("line"), strict=True):
        assert read["cells"] == ([1, 0] if kind == "random_1d" else [0, 16]), name
        expected = sorted(zip(rows["alpha"], rows["beta"].fillna(0.0), rows["asr"], strict=True))
        assert np.array(sorted(map(tuple, read["asr"]))) == pytest.approx(np.array(expected), nan_ok=True)
