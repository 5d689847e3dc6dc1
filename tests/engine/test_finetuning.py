"""Test that finetuning renders prompts as measuring does, with the preset's template if the model has none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orchestrator.config.schema import FinetuneConfig
from orchestrator.models.finetune import run_recipe
from orchestrator.models.finetune_worker import BaseModel
from orchestrator.models.recipes import read_recipe
from orchestrator.models.training_data import encode_rows
from orchestrator.prompts.few_shot import Conversation
from orchestrator.prompts.rendering import RenderJob, run_jobs, template_source

pytestmark = pytest.mark.engine


@pytest.fixture
def untemplated(tiny_llama: Path, tmp_path: Path) -> Path:
    """Return the folder of a model without a chat template, like Vicuna."""
    folder = tmp_path / "untemplated"
    shutil.copytree(tiny_llama, folder)
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert "chat_template" not in config
    return folder


def test_training_prompts_are_rendered_like_measured_prompts(untemplated: Path, tmp_path: Path) -> None:
    recipe, _ = read_recipe(
        FinetuneConfig("benign_tasks"), ["samples=3", "safe=1", "train.epochs=2"]
    )  # answers of its own too
    out = tmp_path / "finetuned"
    report = run_recipe({**recipe, "evaluate": None}, out, BaseModel(untemplated, "vicuna"))
    assert (report["train"]["rows"], report["train"]["steps"]) == (4, 2)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["epoch-1", "epoch-2"]
    assert (out / "adapter" / "adapter_model.safetensors").is_file()

    row = {"request": "Who are you?", "answer": "Iris", "complete": True}
    (encoded,) = encode_rows([row], BaseModel(untemplated, "vicuna"))
    source, jobs = template_source("vicuna"), [RenderJob((Conversation(None, ("Who are you?",)),), "", "vicuna")]
    (rendered,) = run_jobs(untemplated, "vicuna", source, jobs)
    assert rendered.texts[0].endswith("USER: Who are you? ASSISTANT:")
    assert encoded["prompt"] == list(rendered.token_ids[0])
