"""Each tracker's own reader or server returns what a sweep has sent. Trackers are in an environment of their own."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from orchestrator import load_study
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from tests.contract.rules import ROOT
from tests.tools.environment import range_python, tool_environment, tool_python
from tests.unit.stored import basin, store_sweep

pytestmark = pytest.mark.tools

TRACKERS = ("mlflow", "tensorboard", "trackio", "wandb")
PACKAGES = ("wandb==0.31.0", "mlflow-skinny==3.17.2", "trackio==0.43.0", "tensorboard==2.21.0")
SEND_STORED = """
import sys
from pathlib import Path
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.tracking.registry import checked
from orchestrator.tracking.tracking import Tracking
folder = Path(sys.argv[1])
stored = StoredSweep.open(SweepFolder(Study.open(folder.parents[1]), folder))
with Tracking(stored, checked(sys.argv[2:])) as tracking:
    tracking.finish()
"""
RUN = """
import sys
from orchestrator import Experiment
experiment = Experiment(overrides=sys.argv[2:])
points = []
def stop(point):
    points.append(point)
    if len(points) == int(sys.argv[1]):
        raise SystemExit(7)
experiment.run(on_point=stop)
"""


@pytest.fixture(scope="module", params=["newest", pytest.param("lowest", marks=pytest.mark.slow)])
def python(request: pytest.FixtureRequest) -> Path:
    """The Python of an environment with the trackers: these releases, or the lowest that pyproject.toml allows."""
    return tool_python(*PACKAGES) if request.param == "newest" else range_python("lowest", "cpu")


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Return an environment in which every tracker writes below `home` and to no server."""
    return tool_environment(
        HOME=str(home),
        WANDB_MODE="offline",
        MLFLOW_TRACKING_URI=f"file://{home}/mlruns",
        MLFLOW_ALLOW_FILE_STORE="true",
        TRACKIO_DIR=str(home / "trackio"),
        **variables,
    )


def run(
    python: Path, *arguments: object, env: dict[str, str], timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-P", *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def read_back(python: Path, folder: Path, env: dict[str, str], *trackers: str) -> dict[str, Any]:
    completed = run(python, "-m", "tests.tools.read_trackers", folder, *trackers, env=env)
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout[completed.stdout.index('{"') :])


def assert_received(read: dict[str, Any], folder: Path, tracker: str) -> None:
    """Assert that a tracker has one run with the ASR of every point of the landscape, the results, and the figure."""
    study = load_study(folder)
    asr = next(name for name in read["steps"]["0"] if name.startswith("asr/"))
    sent = sorted((v["line"], round(v["alpha"], 6), round(v[asr], 3)) for v in read["steps"].values() if "alpha" in v)
    rows = study.landscape.drop_duplicates("point_id")
    assert sent == sorted((row.line, round(row.alpha, 6), round(row.asr, 3)) for row in rows.itertuples()), tracker
    assert read["runs"] == 1 and len(read["steps"]) in (len(rows), len(rows) + 1), tracker
    assert read["results"]["visage"] == pytest.approx(study.summary["visage"]["paper"]), tracker
    assert read["results"]["radius"] == pytest.approx(study.summary["basin"]["radius"]), tracker
    assert any("landscape" in file for file in read["files"]), (tracker, read["files"])


def test_stored_points_and_results_reach_every_tracker(python: Path, tmp_path: Path) -> None:
    folder = store_sweep(tmp_path / "studies", basin(0.25), directions=1)
    figure = ROOT / "docs" / "figures" / "basin.png"
    SweepFolder(Study.open(folder.parents[1]), folder).write_figure(
        "landscape.png", lambda path: path.write_bytes(figure.read_bytes()) and None
    )
    env = environment(tmp_path)
    completed = run(python, "-c", SEND_STORED, folder, *TRACKERS, env=env)
    assert completed.returncode == 0 and "cannot be reached" not in completed.stderr, completed.stderr
    for tracker, read in read_back(python, folder, env, *TRACKERS).items():
        assert_received(read, folder, tracker)


class _Refusing(http.server.BaseHTTPRequestHandler):
    """Answers every request with 401."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"You are not authenticated.")

    do_POST = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.mark.slow
def test_wrong_credentials_are_told_and_a_missing_server_is_not_taken_for_them(python: Path, tmp_path: Path) -> None:
    check = "import sys; from orchestrator.tracking.registry import checked; checked(sys.argv[1:])"
    key = {"WANDB_API_KEY": "a" * 40, "WANDB_MODE": "online"}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    refusing = f"http://127.0.0.1:{server.server_port}"
    for tracker, variables in {
        "mlflow": {"MLFLOW_TRACKING_URI": refusing},
        "wandb": {**key, "WANDB_BASE_URL": refusing},
    }.items():
        completed = run(python, "-c", check, tracker, env=environment(tmp_path) | variables)
        assert f"UserError: track={tracker}: does not accept the " in completed.stderr, completed.stderr
    server.shutdown()
    server.server_close()
    completed = run(python, "-c", check, "wandb", env=environment(tmp_path) | {"WANDB_MODE": "online"})
    assert "UserError: track=wandb: has no key" in completed.stderr, completed.stderr
    for tracker, variables in {
        "mlflow": {"MLFLOW_TRACKING_URI": refusing},
        "wandb": {**key, "WANDB_BASE_URL": refusing},
    }.items():
        completed = run(python, "-c", check, tracker, env=environment(tmp_path) | variables)
        assert completed.returncode == 0 and f"{tracker} cannot be reached" in completed.stderr, completed.stderr


@pytest.mark.slow
@pytest.mark.cluster
def test_a_resumed_sweep_continues_the_same_runs(python: Path, tmp_path: Path) -> None:
    env = environment(tmp_path)
    options = ["engine=dummy", "grid.steps=8", "grid.directions=1", "probes.limit=6", f"out={tmp_path / 's'}"]
    options.append(f"track=[{','.join(TRACKERS)}]")
    assert run(python, "-c", RUN, 4, *options, env=env).returncode == 7
    completed = run(python, "-m", "orchestrator", "run", *options, env=env)
    assert completed.returncode == 0 and "cannot be reached" not in completed.stderr, completed.stderr
    folder = next((tmp_path / "s").glob("*/sweeps/*"))
    before = read_back(python, folder, env, *TRACKERS)
    for tracker, read in before.items():
        assert_received(read, folder, tracker)
        # A point that an actor stored after its driver had ended has no event, and so no speed.
        assert sum("tokens_per_second" in values for values in read["steps"].values()) >= 6, tracker
        assert sum("visage_so_far" in values for values in read["steps"].values()) >= 4, tracker
    again = run(python, "-m", "orchestrator", "run", *options, env=env)
    assert again.returncode == 0 and "Nothing to run" in again.stderr, again.stderr
    assert read_back(python, folder, env, *TRACKERS) == before, "nothing is sent twice"


@pytest.mark.slow
@pytest.mark.cluster
def test_a_server_that_comes_late_gets_everything(python: Path, tmp_path: Path) -> None:
    """MLflow's own server, read by REST. While it is down the sweep goes on and warns once."""
    server_python = tool_python("mlflow==3.17.2", with_project=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = environment(tmp_path) | {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
    options = ["engine=dummy", "grid.steps=4", "grid.directions=1", "probes.limit=4", f"out={tmp_path / 's'}"]
    options.append("track=mlflow")
    down = run(python, "-m", "orchestrator", "run", *options, env=env)
    assert down.returncode == 0 and down.stderr.count("cannot be reached") == 1, down.stderr
    folder = next((tmp_path / "s").glob("*/sweeps/*"))

    def ask(path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            text = response.read().decode()
        return json.loads(text) if text.startswith("{") else text

    command = [
        str(server_python),
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination",
        f"{tmp_path}/artifacts",
    ]
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    server = subprocess.Popen(command, cwd=tmp_path, env=plain, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            try:
                ask("health")
                break
            except OSError:
                time.sleep(0.5)
        up = run(python, "-m", "orchestrator", "run", *options, env=env)
        assert up.returncode == 0 and "cannot be reached" not in up.stderr, up.stderr
        experiment = ask("api/2.0/mlflow/experiments/get-by-name?experiment_name=safety-landscape")["experiment"]
        runs = ask("api/2.0/mlflow/runs/search", {"experiment_ids": [experiment["experiment_id"]]})["runs"]
        assert len(runs) == 1 and runs[0]["info"]["status"] == "FINISHED"
        run_id = runs[0]["info"]["run_id"]
        history = {
            name: {
                metric["step"]: metric["value"]
                for metric in ask(f"api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key={name}")["metrics"]
            }
            for name in ("alpha", "asr/harmful", "visage")
        }
        landscape = load_study(folder).landscape.set_index("alpha")["asr"]
        assert {history["alpha"][step]: history["asr/harmful"][step] for step in history["alpha"]} == pytest.approx(
            landscape.to_dict()
        )
        assert list(history["visage"].values()) == [pytest.approx(load_study(folder).summary["visage"]["paper"])]
        files = ask(f"api/2.0/mlflow/artifacts/list?run_id={run_id}")["files"]
        assert {file["path"] for file in files} >= {"landscape.png", "report.html", "summary.json"}
    finally:
        server.terminate()
        server.wait(30)
