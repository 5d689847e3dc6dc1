"""The SLURM job of a sweep: its options, quoting, the driver's arguments, and the end of the wall time.

Scripts that record their calls replace the programs of SLURM and Ray. sbatch stores the job script; srun and ray run
their command.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.config.compose import compose
from orchestrator.config.schema import ModelConfig
from orchestrator.execution import slurm
from orchestrator.models.resolve import ResolvedModel
from orchestrator.utils.errors import UserError
from tests.documents import read_documents

SPECIAL_CHARACTERS = ['system_prompt.text=it\'s "so", $HOME `id` \\ \n* é', "out=my studies"]
SRUN = '#!/bin/sh\necho "srun $*" >>"$NOTES"\nwhile [ "$1" != ray ]; do shift; done\nexec "$@"\n'
RAY = '#!/bin/sh\necho "ray $*" >>"$NOTES"\nwhile [ "$1" != -- ]; do shift; done\nshift\n"$@"\n'
SCONTROL = '#!/bin/sh\necho "scontrol $*" >>"$NOTES"\n[ "$1" = requeue ] || printf "node1\\nnode2\\n"\n'
SBATCH = '#!/bin/sh\necho "sbatch $*" >>"$NOTES"\ncat >"$NOTES.script"\necho "${SBATCH_SAYS:-4711;cluster}"\n'
DRIVER = """#!{python}
import json, os, signal, sys, time
open(os.environ["NOTES"] + ".driver", "w").write(json.dumps(sys.argv[1:]))
if os.environ.get("WAITS"):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    open(os.environ["NOTES"] + ".waits", "w").close()
    time.sleep(60)
sys.exit(int(os.environ.get("ENDS", "0")))
"""


class Site:
    """A PATH with scripts in place of the programs of a SLURM site, and the calls that they recorded."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs, self.notes = folder / "bin", folder / "notes"
        self.programs.mkdir()
        for name, text in {"srun": SRUN, "ray": RAY, "scontrol": SCONTROL, "sbatch": SBATCH}.items():
            self.add_program(name, text)
        self.add_program("driver", DRIVER.format(python=sys.executable))
        monkeypatch.setenv("PATH", f"{self.programs}:{os.environ['PATH']}")
        monkeypatch.setenv("NOTES", str(self.notes))
        monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-2]")
        monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
        monkeypatch.setenv("SLURM_JOB_ID", "4711")
        monkeypatch.chdir(folder)

    def add_program(self, program: str, text: str) -> None:
        (self.programs / program).write_text(text)
        (self.programs / program).chmod(0o755)

    def script(self, *overrides: str) -> Path:
        """Write the script of a job whose driver records its arguments."""
        path = self.programs.parent / "job.sh"
        text = slurm.job_script(compose(overrides), overrides, python=str(self.programs / "driver"))
        path.write_text(text, encoding="utf-8")
        return path

    def recorded(self, name: str = "") -> str:
        path = Path(f"{self.notes}{name}")
        return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true within 60 s"
        time.sleep(0.02)


def test_the_job_requests_exclusive_nodes(site: Site) -> None:
    lines = site.script("cluster=slurm", "cluster.slurm.nodes=3", "cluster.slurm.gpus_per_node=8",
                        "cluster.slurm.time=1-02:00:00", "cluster.slurm.partition=gpu",
                        'cluster.slurm.options=["--constraint=a100"]',
                        'cluster.slurm.setup=["module load cuda"]').read_text().splitlines()  # fmt: skip
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert options >= {"--nodes=3", "--exclusive", "--gpus-per-node=8", "--time=1-02:00:00", "--partition=gpu",
                     "--signal=B:TERM@120", "--requeue", "--constraint=a100"}  # fmt: skip
    assert not [line for line in lines if line.startswith(("#SBATCH --account", "#SBATCH --qos"))]
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first_command:] if line.startswith("#SBATCH")], "sbatch stops reading there"
    assert "module load cuda" in lines


@pytest.mark.parametrize(
    "overrides",
    [
        ["cluster=slurm"],
        ["cluster=slurm", "cluster.slurm.gpus_per_node=0", "cluster.slurm.requeues=0", *SPECIAL_CHARACTERS],
    ],
)
def test_shellcheck_reports_nothing(site: Site, overrides: list[str]) -> None:
    checker = shutil.which("shellcheck") or Path(sys.executable).parent / "shellcheck"
    if not Path(checker).exists():
        pytest.skip("shellcheck is not installed (extra `dev`)")
    completed = subprocess.run([checker, site.script(*overrides)], capture_output=True, text=True, check=False)
    assert (completed.returncode, completed.stdout) == (0, "")


def test_the_driver_gets_the_overrides_and_joins_the_jobs_ray(site: Site) -> None:
    overrides = [
        "cluster=slurm",
        "cluster.slurm.nodes=2",
        "cluster.dry_run=false",
        "+model=mistral7b",
        *SPECIAL_CHARACTERS,
    ]
    subprocess.run(["bash", site.script(*overrides)], check=True, cwd="/")
    arguments = json.loads(site.recorded(".driver"))
    assert arguments == [
        "-m",
        "orchestrator",
        "run",
        "+model=mistral7b",
        *SPECIAL_CHARACTERS,
        "cluster.kind=ray",
        "cluster.address=auto",
    ]
    (srun,) = (line for line in site.recorded().splitlines() if line.startswith("srun "))
    (ray,) = (line for line in site.recorded().splitlines() if line.startswith("ray "))
    assert "--nodes=2" in srun and "--ntasks-per-node=1" in srun
    assert ray.startswith("ray symmetric-run --address node1:6379 --min-nodes 2 --num-gpus 1 -- ")
    config = compose(arguments[3:])
    assert (config.cluster.kind, config.cluster.address, config.cluster.part) == ("ray", "auto", None)


def test_an_experiment_with_slurm_does_not_submit_again(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ncluster: {kind: slurm}\n")
    arguments = slurm.driver_arguments(["+experiment=mine", "cluster.slurm.nodes=2"], str(tmp_path))
    assert compose(arguments[:-1], arguments[-1].removeprefix("--config-dir=")).cluster.kind == "ray"


@pytest.mark.parametrize("code", ["0", "3"])
def test_the_jobs_exit_code_is_the_drivers(site: Site, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setenv("ENDS", code)
    assert subprocess.run(["bash", site.script("cluster=slurm")], check=False).returncode == int(code)
    assert "requeue" not in site.recorded()


@pytest.mark.parametrize(("restarts", "code"), [("0", 0), ("2", 130)])
def test_the_end_of_the_wall_time_stops_the_driver_and_requeues_the_job(
    site: Site, monkeypatch: pytest.MonkeyPatch, restarts: str, code: int
) -> None:
    monkeypatch.setenv("WAITS", "yes")
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    with subprocess.Popen(["bash", site.script("cluster=slurm", "cluster.slurm.requeues=2")]) as job:
        wait_for(lambda: Path(f"{site.notes}.waits").exists())
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == code
    assert ("scontrol requeue 4711" in site.recorded()) == (code == 0)


def test_run_submits_the_script_and_prints_the_jobs_number(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["run", "cluster=slurm", "engine=dummy", "grid.steps=2", "out=my studies"]
    assert main([*sweep, "--json"]) == 0
    assert read_documents(capsys.readouterr().out)["job"] == "4711"
    assert "'out=my studies'" in site.recorded(".script") and "sbatch --parsable" in site.recorded()
    assert not Path("my studies").exists()
    assert main([*sweep, "cluster.dry_run=true"]) == 0
    assert capsys.readouterr().out == site.recorded(".script")
    assert main([*sweep, "cluster.dry_run=true", "--json"]) == 0
    assert read_documents(capsys.readouterr().out)["script"] == site.recorded(".script")


def test_the_weights_of_model_judges_are_fetched_before_submission(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(model: ModelConfig) -> ResolvedModel:
        assert not site.notes.exists(), "sbatch was called"
        raise UserError("model.path", "null", f"{model.name} cannot be fetched")

    monkeypatch.setattr("orchestrator.pipeline.judge.resolve_model", resolve)
    monkeypatch.setattr("orchestrator.pipeline.prepare.prepare", lambda *_: None)
    monkeypatch.setattr("orchestrator.pipeline.growth.check_goals", lambda _: None)
    judges = ["judges=[keyword,wildguard]", "sampling.early_stop=false"]
    assert main(["run", "cluster=slurm", *judges]) == 2 and not site.notes.exists()
    assert main(["run", "cluster=slurm", "judge=keyword"]) == 0 and "sbatch --parsable" in site.recorded()


def test_sbatch_is_needed_only_for_a_submission(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["run", "cluster=slurm", "engine=dummy", "cluster.dry_run=true"]) == 0
    assert capsys.readouterr().out.startswith("#!")
    monkeypatch.setattr("orchestrator.pipeline.prepare.prepare", lambda *_: pytest.fail("it may download a model"))
    assert main(["run", "cluster=slurm", "engine=dummy"]) == 2
    assert capsys.readouterr().err.startswith("error: cluster=slurm: there is no sbatch on this machine")


def test_goals_are_checked_before_submission(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "cluster=slurm", "engine=dummy", "grid.range=[-0.2,0.2]", "until.visage=2"]) == 2
    assert capsys.readouterr().err.startswith("error: until.visage=2: ") and not site.notes.exists(), (
        "sbatch was called"
    )


def test_the_message_of_sbatch_is_passed_on(site: Site) -> None:
    site.add_program("sbatch", "#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    with pytest.raises(UserError, match="sbatch refused the job: sbatch: error: invalid partition"):
        slurm.submit("#!/bin/sh\n")


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        (["cluster.slurm.partition=a b"], "cluster.slurm.partition"),
        (["cluster.slurm.time=1\n#SBATCH --uid=0"], "cluster.slurm.time"),
        (['cluster.slurm.options=["constraint=a100"]'], "cluster.slurm.options"),
        (["cluster.slurm.nodes=0"], "cluster.slurm.nodes"),
        (["cluster.grace=100"], "cluster.slurm.warning"),
    ],
)
def test_user_errors_are_found_before_submission(overrides: list[str], field: str) -> None:
    with pytest.raises(UserError) as error:
        compose(["cluster=slurm", *overrides])
    assert error.value.field == field


def test_a_dry_run_without_slurm_is_refused() -> None:
    with pytest.raises(UserError, match="dry run is `plan`"):
        compose(["cluster.dry_run=true"])


def test_no_name_adds_a_line_to_the_script() -> None:
    config = compose(["cluster=slurm", "engine=dummy", "model.name=my model"])
    assert "#SBATCH --job-name=my-model-random-1d\n" in slurm.job_script(config, [])
    config.model.name = "x\ntouch injected #"
    assert "injected" not in [line.split()[0] for line in slurm.job_script(config, []).splitlines() if line.strip()]
    assert not [line for line in slurm.job_script(config, []).splitlines() if line.startswith("touch")]
    with pytest.raises(UserError, match="control characters"):
        compose(["cluster=slurm", "engine=dummy", 'model.name="x\ntouch injected #"'])
