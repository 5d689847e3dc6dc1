"""The child process of a finetuning: workers/training/finetune.py trains, or generates greedy responses.

PyTorch stays out of the driver's process. The child's progress appears on stderr.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.prompts.chat_templates import TOKENIZER_TEMPLATE
from orchestrator.prompts.probe_sets import ProbeSet
from orchestrator.prompts.rendering import SystemPrompt, render_prompt_sets
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.utils.subprocesses import QUIET_TRAINING, run_python


@dataclass(frozen=True)
class BaseModel:
    """The model that is finetuned: its folder, and the chat template it is prompted with (as `model.template`)."""

    path: Path
    template: str = TOKENIZER_TEMPLATE


def train(base: BaseModel, rows: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any], out: Path) -> Any:
    """Finetune a model on rows {"prompt": token ids, "answer": text, "complete": bool}.

    Writes an adapter or a full checkpoint to `out`, and returns the content of its report.json.
    """
    _run({"base": str(base.path), "train": {"rows": rows, "recipe": recipe}}, out)
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def render(base: BaseModel, requests: Sequence[str], max_tokens: int) -> PromptSet:
    """Return requests as the model is prompted with them, under its own system prompt."""
    probes = ProbeSet("finetune", "harmful", tuple(map(Prompt, requests)))
    system = SystemPrompt("default", None)
    (prompts,) = render_prompt_sets(base.path, [probes], [system], lambda _: Sampling(max_tokens), base.template)
    return prompts


def generate_responses(base: BaseModel, prompts: PromptSet) -> list[dict[str, Any]]:
    """Return a greedy response {"text", "complete"} to each prompt, in float32.

    `complete`: whether the model ended its turn within the sampling's `max_tokens`.
    """
    sampling = prompts.sampling
    request = {"prompts": prompts.token_ids, "max_tokens": sampling.max_tokens, "kept": sampling.kept}
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        _run({"base": str(base.path), "answer": request}, out)
        responses: list[dict[str, Any]] = json.loads((out / "answers.json").read_text(encoding="utf-8"))
        return responses


def _run(request: Mapping[str, Any], out: Path) -> None:
    env = QUIET_TRAINING | {"PYTHONWARNINGS": "ignore"}
    run_python("workers.training.finetune", [out], stdin=json.dumps(request).encode(), env=env, show="stderr")
