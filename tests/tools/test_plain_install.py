"""The package without extras, installed in an environment of its own, reads studies and says what measuring needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.rules import ROOT
from tests.tools.environment import find_uv
from tests.unit.stored import basin, store_sweep

pytestmark = [pytest.mark.tools, pytest.mark.slow]


def test_the_plain_package_reads_studies_and_names_the_extra_that_measures(tmp_path: Path) -> None:
    uv, python = find_uv(), tmp_path / "plain" / "bin" / "python"
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir"]
    subprocess.run([*build, tmp_path / "wheel", ROOT], check=True)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "plain"], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, wheel], check=True)
    first, second = (store_sweep(tmp_path / "studies", basin(0.3), model=name, directions=1) for name in ("a", "b"))

    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [python, "-P", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, check=False)

    listed = call("-c", "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))").stdout
    assert "pandas" in listed.split() and not {"torch", "ray", "numba", "transformers"} & {*listed.split()}
    for arguments in (["status", "studies"], ["report", first], ["gate", first, "visage=0", "gate.allow_single=true"],
                      ["compare", first, second], ["reduce", first], ["verify", "studies"]):  # fmt: skip
        done = call("-m", "orchestrator", *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    read = f"from orchestrator import load_study; print(len(load_study({str(first)!r}).landscape))"
    assert call("-c", f"import orchestrator.report.viewer.app; {read}").stdout.strip() == "11"
    for verb in ("run", "plan", "models"):
        done = call("-m", "orchestrator", verb)
        assert done.returncode == 2, done.stderr
        assert f"verb={verb}: needs ray, which is not installed: pip install 'safety-landscape[" in done.stderr
    assert len(list((tmp_path / "studies").glob("[!.]*"))) == 2, "`run` stored nothing"
