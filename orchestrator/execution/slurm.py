"""A sweep as a SLURM job: its script, made of a template, and sbatch, which takes it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.config.schema import Config
from orchestrator.utils.errors import UserError
from orchestrator.utils.paths import DATA_DIR

TEMPLATE = DATA_DIR / "slurm.sh.j2"
SUBMITTING = ("cluster", "cluster.kind", "cluster.address", "cluster.dry_run")  # what only the submission is about


def script(
    config: Config, overrides: Sequence[str], config_dir: str | None = None, python: str = sys.executable
) -> str:
    """The job's script. `overrides`: those of the command line; the job joins the Ray that it starts itself."""
    import jinja2

    asked = config.cluster.slurm
    options = [
        f"--job-name={config.model.name}-{config.name}",
        f"--nodes={asked.nodes}",
        "--ntasks-per-node=1",
        "--exclusive",
        "--mem=0",  # all of it
        *([f"--gpus-per-node={asked.gpus_per_node}"] if asked.gpus_per_node else []),
        *(f"--{key}={value}" for key in ("time", "partition", "account", "qos") if (value := getattr(asked, key))),
        f"--signal=B:TERM@{asked.warning}",
        "--requeue" if asked.requeues else "--no-requeue",
        "--open-mode=append",
        "--output=slurm-%j.log",
        *asked.options,
    ]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["quote"] = shlex.quote
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        options=options,
        folder=str(Path.cwd()),
        programs=str(Path(python).parent),
        setup=asked.setup,
        python=python,
        arguments=arguments(overrides, config_dir),
        port=asked.port,
        gpus=asked.gpus_per_node,
        requeues=asked.requeues,
    )


def arguments(overrides: Sequence[str], config_dir: str | None = None) -> list[str]:
    """What the driver inside the job is called with."""
    kept = [text for text in overrides if not _is_of_submission(text.lstrip("+").partition("=")[0])]
    folder = [] if config_dir is None else [f"--config-dir={Path(config_dir).expanduser().absolute()}"]
    return [*kept, "cluster.kind=ray", "cluster.address=auto", *folder]


def _is_of_submission(key: str) -> bool:
    return key in SUBMITTING or key.startswith("cluster.slurm.")


def submit(text: str) -> str:
    """Hand a script to sbatch; the job's number. Raises UserError where there is no sbatch, or it refuses."""
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        remedy = "there is no sbatch on this machine: call on a login node, or see the script with cluster.dry_run=true"
        raise UserError("cluster", "slurm", remedy)
    done = subprocess.run([sbatch, "--parsable"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        told = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UserError("cluster", "slurm", f"sbatch refused the job: {told}")
    return done.stdout.strip().partition(";")[0]
