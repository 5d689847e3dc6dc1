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
from orchestrator.prompts.rendering import token_ids
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


def generate_responses(base: BaseModel, requests: Sequence[str], max_tokens: int) -> list[dict[str, Any]]:
    """Return a greedy response {"text", "complete"} to each request, in float32.

    `complete`: whether the model ended its turn within `max_tokens`.
    """
    prompts = [list(ids) for ids in token_ids(base.path, requests, base.template)]
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        _run({"base": str(base.path), "answer": {"prompts": prompts, "max_tokens": max_tokens}}, out)
        responses: list[dict[str, Any]] = json.loads((out / "answers.json").read_text(encoding="utf-8"))
        return responses


def _run(request: Mapping[str, Any], out: Path) -> None:
    env = QUIET_TRAINING | {"PYTHONWARNINGS": "ignore"}
    run_python("workers.training.finetune", [out], stdin=json.dumps(request).encode(), env=env, show="stderr")
