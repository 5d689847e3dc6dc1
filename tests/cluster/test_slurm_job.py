"""Test the SLURM job script with Ray's symmetric-run on one node: the time limit ends the first job, a second finishes.

srun and scontrol are stand-ins; everything else is real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.config.compose import compose
from orchestrator.execution import slurm
from tests.cluster.test_by_hand import IN_NAMESPACES, ROOT, home, require_network_namespace

__all__ = ["home"]

SRUN = '#!/bin/sh\nwhile [ "$1" != ray ]; do shift; done\nexec "$@"\n'
SCONTROL = '#!/bin/sh\n[ "$1" = requeue ] && echo "$*" >>"$HOME/requeued" || echo 127.0.0.1\n'
SESSION = r"""
set -eu
ip link set lo up
bash "$HOME/job.sh" >"$HOME/first.log" 2>&1 &
job=$!
until ls "$HOME"/studies/*/generations/*.parquet >/dev/null 2>&1; do kill -0 $job; sleep 0.2; done
kill -TERM $job
wait $job
ls "$HOME"/studies/*/generations/*.parquet | wc -l >"$HOME/stored"
bash "$HOME/job.sh" >"$HOME/second.log" 2>&1
ps -e -o args= >"$HOME/left"
"""


@pytest.mark.cluster
@pytest.mark.slow
def test_the_time_limit_stops_the_sweep_and_the_next_job_finishes_it(home: Path) -> None:
    require_network_namespace()
    sweep = ["engine=dummy", "engine.seconds=1", "grid.directions=1", "probes.limit=4", f"out={home / 'studies'}"]
    sweep += ["cluster=slurm", "cluster.slurm.gpus_per_node=0"]
    (home / "job.sh").write_text(slurm.job_script(compose(sweep), sweep))
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (home / name).write_text(text)
        (home / name).chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(home), "RAY_TMPDIR": str(home), "PYTHONPATH": str(ROOT)}
    environment |= {"PATH": f"{home}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node"}
    completed = subprocess.run(
        [*IN_NAMESPACES, "bash", "-c", SESSION], env=environment, capture_output=True, text=True, check=False
    )
    logs = [path.read_text() for path in sorted(home.glob("*.log"))]
    assert completed.returncode == 0, (completed.stderr, *logs)
    assert 0 < int((home / "stored").read_text()) < 21, "the first job must be interrupted"
    assert (home / "requeued").read_text() == "requeue 7\n"
    assert len(list(home.glob("studies/*/generations/*.parquet"))) == 21
    status = [sys.executable, "-m", "orchestrator", "status", str(home / "studies"), "--json"]
    (result,) = json.loads(subprocess.run(status, capture_output=True, text=True, check=True).stdout)
    assert result["state"] == "complete"
    assert "raylet" not in (home / "left").read_text()
