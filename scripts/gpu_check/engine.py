"""Stages 2 and 3: vLLM with tiny random models, and one small sweep."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import torch

from scripts.gpu_check.kernel import Row

ROOT = Path(__file__).parents[2]
DEVICE_VARIABLE = "GPU_CHECK_DEVICE"  # of tests/gpu: `cpu` rehearses


def run(device: torch.device) -> tuple[list[Row], list[str]]:
    """Run tests/gpu in a process of its own. Returns the rows of the result's table, and what is wrong."""
    environment = {**os.environ, DEVICE_VARIABLE: device.type}
    environment.pop("TRITON_INTERPRET", None)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "tests/gpu", f"--junitxml={report}", "-p", "no:cacheprovider"]
        begin = time.perf_counter()
        completed = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
        took = time.perf_counter() - begin
        if not report.exists():
            return [], [f"pytest did not run: {completed.stdout[-2000:]}{completed.stderr[-2000:]}"]
        cases = list(ElementTree.parse(report).iter("testcase"))
    rows, wrong = [], []
    for case in cases:
        problem = next((child for child in case if child.tag in ("failure", "error")), None)
        skipped = any(child.tag == "skipped" for child in case)
        result = "FAILED" if problem is not None else "skipped" if skipped else "passed"
        notes = [f", {p.get('name')} {p.get('value')}" for p in case.iter("property")]
        name = re.sub(r"^test_", "", case.get("name", "")).replace("_", " ")
        rows.append((name, f"{result}{''.join(notes)} ({float(case.get('time', 0)):.0f} s)"))
        if problem is not None:
            wrong.append(f"{name}: {(problem.text or '')[-1500:]}")
    return [*rows, ("stage 2", f"{took:.0f} s")], wrong


def run_sweep(device: torch.device) -> tuple[list[Row], list[str]]:
    """Measure a line of the embedded model. On a CPU the dummy engine rehearses."""
    environment = dict(os.environ)
    environment.pop("TRITON_INTERPRET", None)
    with tempfile.TemporaryDirectory() as folder:
        sweep = [
            "grid.directions=1",
            "grid.steps=8",
            "probes.limit=16",
            "sampling.max_tokens=64",
            f"out={folder}/study",
        ]
        if device.type == "cpu":
            sweep.append("engine=dummy")
        begin = time.perf_counter()
        command = [sys.executable, "-m", "orchestrator", "run", *sweep]
        completed = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
        took = time.perf_counter() - begin
    if completed.returncode != 0:
        return [], [f"the sweep ended with {completed.returncode}: {completed.stderr[-2000:]}"]
    return [("a sweep of 9 points and 16 prompts, from start to report", f"{took:.0f} s")], []
