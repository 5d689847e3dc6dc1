"""Run lm-evaluation-harness in an environment of its own, .venv-harness, which is made on the first call.

python -m tests.harness.environment     # write tests/data/harness/scores.json anew: make harness
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from orchestrator.models.embedded import ADAPTER_OF_PRESET, embedded_model

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-harness"
QUESTIONS = ROOT / "tests" / "data" / "harness"
SCORES = QUESTIONS / "scores.json"
MODEL = "smollm2_135m"
TURNS = ("plain", "chat", "multiturn")
SHOTS = 5
PACKAGES = (
    "lm_eval==0.4.13",
    "torch==2.13.0",
    "transformers==5.19.0",
    "tokenizers==0.23.3",
    "accelerate==1.15.0",
    "datasets==5.2.0",
    "numpy==2.3.5",
)
"""The harness, and the versions of this project's own libraries, so that only the harness's code differs."""


def harness_python() -> Path:
    """Return the environment's Python, making the environment if its packages are not these.

    Raises:
        subprocess.CalledProcessError: The packages cannot be installed.
    """
    python, stamp = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "packages.txt"
    wanted = "\n".join(PACKAGES)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    venv.create(ENVIRONMENT, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def run_harness(turns: tuple[str, ...] = TURNS) -> Any:
    """Return the harness's scores of the questions in QUESTIONS, as run_lm_eval.py writes them."""
    model = embedded_model(ADAPTER_OF_PRESET[MODEL])
    script = Path(__file__).with_name("run_lm_eval.py")
    command = [*map(str, (harness_python(), "-P", script, model, QUESTIONS, SHOTS)), *turns]
    with tempfile.TemporaryDirectory() as home:  # the harness's library of data sets keeps copies
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"HF_HOME": home, "HF_HUB_OFFLINE": "1"}
        completed = subprocess.run(
            command, env=environment, cwd=home, stdout=subprocess.PIPE, text=True, check=True, timeout=1800
        )
    return json.loads(completed.stdout[completed.stdout.index("{") :])


def main() -> None:
    scores = run_harness()
    SCORES.write_text(json.dumps(scores, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    sys.stderr.write(f"{SCORES.relative_to(ROOT)}: lm_eval {scores['versions']['lm_eval']}\n")


if __name__ == "__main__":
    main()
