"""Ray's own processes die, or do not start: nothing stored is lost, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from orchestrator.execution import cluster
from orchestrator.execution.session_folder import session_folder
from orchestrator.utils.errors import SessionLostError, UserError
from tests.cluster.conftest import Event, Job, Responses, prepare_environment


def pid_of(name: str) -> int:
    node: Any = ray._private.worker._global_node
    return int(node.all_processes[name][0].process.pid)


def test_the_rest_runs_in_another_session(tmp_path: Path, undisturbed: Responses) -> None:
    prepare_environment()
    job = Job(tmp_path / "studies")
    for victim in ("raylet", "gcs_server"):
        before = len(job.missing)

        def kill_later(event: Event, before: int = before, victim: str = victim) -> None:
            if event["event"] == "visit_done" and len(job.missing) <= before - 2:
                os.kill(pid_of(victim), signal.SIGKILL)

        with cluster.session(cluster.ClusterSpec()):
            with pytest.raises(SessionLostError, match=victim):
                job.run(seconds=0.2, on_event=kill_later)
            assert cluster.ended_process() == victim
            assert not job.dispatcher.outcome.failures  # no visit is to blame
        assert 0 < len(job.missing) < before
    with cluster.session(cluster.ClusterSpec()):
        job.run()
    assert job.missing == [] and job.responses() == undisturbed


DRIVER = """
import os, sys
from pathlib import Path
from tests.cluster.conftest import Job
from orchestrator.execution import cluster
with cluster.session(cluster.ClusterSpec()):
    print(os.path.dirname(os.environ["RAY_AUTH_TOKEN_PATH"]), flush=True)
    Job(Path(sys.argv[1])).run(seconds=60, on_event=lambda event: print(event["event"], flush=True))
"""


def test_nothing_outlives_a_killed_driver_for_long(tmp_path: Path) -> None:
    prepare_environment()
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert driver.stdout is not None
    folder = Path(driver.stdout.readline().strip())
    assert any("visit_given" in line for line in driver.stdout)
    left = psutil.Process(driver.pid).children(recursive=True)
    assert any("ray::Held" in " ".join(process.cmdline()) for process in left), "the actor is among them"
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(left, timeout=30)  # Ray's agents would take 61 s, and an actor its whole visit
    assert alive == []
    assert folder.is_dir()
    with session_folder(None):
        assert not folder.exists()  # the next session removes what a killed driver has left


class SlowStarts:
    """Stands in for a start of Ray: it fails as on a busy machine, until it has been called often enough."""

    def __init__(self, failures: int) -> None:
        self.failures, self.calls = failures, 0

    def __call__(self, folder: Path, metrics_port: int | None) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise Exception("The current node timed out during startup. This could happen because ...")


def test_a_start_that_times_out_is_tried_again_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    init, lines = SlowStarts(failures=2), list[str]()
    monkeypatch.setattr(cluster, "_start_once", init)
    with cluster.session(cluster.ClusterSpec(), notify=lines.append):
        assert init.calls == 3
    assert len(lines) == 2 and all("timed out during startup" in line for line in lines) and "2 of 3" in lines[0]


def test_a_start_that_always_times_out_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_start_once", SlowStarts(failures=9))
    with (
        pytest.raises(UserError, match="did not start in 3 attempts") as error,
        cluster.session(cluster.ClusterSpec(), notify=lambda line: None),
    ):
        pytest.fail("the session is open")
    assert "\n" not in str(error.value)


def test_the_wait_for_the_node_outlasts_rays_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    answers = iter([RuntimeError("not known yet"), RuntimeError("not known yet"), {"labels": {}}])

    def get_node(*_: object) -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with cluster._longer_wait_for_node():
        assert services.get_node("address", "id") == {"labels": {}}
    assert services.get_node is get_node
