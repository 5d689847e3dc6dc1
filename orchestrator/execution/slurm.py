"""Run a sweep as a SLURM job: write the job script from a template, and submit it with sbatch."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.config.schema import Config
from orchestrator.utils.errors import UserError
from orchestrator.utils.names import job_name
from orchestrator.utils.paths import DATA_DIR, expanded

TEMPLATE = DATA_DIR / "slurm.sh.j2"
SUBMISSION_OPTIONS = ("cluster", "cluster.kind", "cluster.address", "cluster.dry_run")  # not passed to the driver


def job_script(
    config: Config, overrides: Sequence[str], config_dir: str | None = None, python: str = sys.executable
) -> str:
    """Return the script of a job that starts Ray on its own nodes and runs the sweep there.

    Args:
        config: The validated configuration, which has the job's resources in `cluster.slurm`.
        overrides: The overrides of the command line; the driver in the job gets those that do not concern submission.
        config_dir: The user's own configuration folder, if there is one.
        python: The interpreter of the driver; Ray's programs are expected beside it.
    """
    import jinja2

    slurm = config.cluster.slurm
    options = [
        f"--job-name={job_name(f'{config.model.name}-{config.name}')}",
        f"--nodes={slurm.nodes}",
        "--ntasks-per-node=1",
        "--exclusive",
        "--mem=0",  # all memory of the nodes
    ]
    if slurm.gpus_per_node:
        options.append(f"--gpus-per-node={slurm.gpus_per_node}")
    for key in ("time", "partition", "account", "qos"):
        value = getattr(slurm, key)
        if value:
            options.append(f"--{key}={value}")
    options += [
        f"--signal=B:TERM@{slurm.warning}",
        "--requeue" if slurm.requeues else "--no-requeue",
        "--open-mode=append",
        "--output=slurm-%j.log",
        *slurm.options,
    ]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["quote"] = shlex.quote
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        options=options,
        folder=str(Path.cwd()),
        programs=str(Path(python).parent),
        setup=slurm.setup,
        python=python,
        arguments=driver_arguments(overrides, config_dir),
        port=slurm.port,
        gpus=slurm.gpus_per_node,
        requeues=slurm.requeues,
    )


def driver_arguments(overrides: Sequence[str], config_dir: str | None = None) -> list[str]:
    """Return the arguments of the driver in the job: it joins the job's Ray instead of submitting again."""
    kept = [text for text in overrides if not _concerns_submission(text.lstrip("+").partition("=")[0])]
    folder = [] if config_dir is None else [f"--config-dir={expanded(config_dir).absolute()}"]
    return [*kept, "cluster.kind=ray", "cluster.address=auto", *folder]


def _concerns_submission(option: str) -> bool:
    return option in SUBMISSION_OPTIONS or option.startswith("cluster.slurm.")


def find_sbatch() -> str:
    """Return the path of sbatch. Raises UserError if this machine has none."""
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        remedy = "there is no sbatch on this machine: call on a login node, or see the script with cluster.dry_run=true"
        raise UserError("cluster", "slurm", remedy)
    return sbatch


def submit(script: str, private: bool = True) -> str:
    """Submit a script with sbatch and return the job's number.

    Args:
        script: The job's script.
        private: Whether only this user may read the job's log. sbatch hands this process's umask on to the job.

    Raises:
        UserError: If this machine has no sbatch, or sbatch refuses the job.
    """
    done = subprocess.run(
        [find_sbatch(), "--parsable"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        umask=0o077 if private else -1,
    )
    if done.returncode:
        message = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UserError("cluster", "slurm", f"sbatch refused the job: {message}")
    return done.stdout.strip().partition(";")[0]
