"""Finetuning asks as measuring does: a model whose tokenizer has no chat template is taught by the preset's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orchestrator.models.finetune import run_recipe
from orchestrator.models.finetune_worker import BaseModel
from orchestrator.models.recipes import read_recipe
from orchestrator.models.training_data import encode_rows
from orchestrator.prompts.rendering import RenderJob, run_jobs, template_source

pytestmark = pytest.mark.engine


@pytest.fixture
def untemplated(tiny_llama: Path, tmp_path: Path) -> Path:
    """A model like Vicuna: nothing beside it says how it is asked."""
    folder = tmp_path / "untemplated"
    shutil.copytree(tiny_llama, folder)
    (folder / "chat_template.jinja").unlink()
    told = json.loads((folder / "tokenizer_config.json").read_text())
    assert "chat_template" not in told
    return folder


def test_requests_are_taught_as_they_are_asked(untemplated: Path, tmp_path: Path) -> None:
    recipe, _ = read_recipe(["recipe=benign_tasks", "samples=3", "safe=1", "train.epochs=2"])  # answers of its own too
    out = tmp_path / "taught"
    report = run_recipe({**recipe, "evaluate": None}, out, BaseModel(untemplated, "vicuna"))
    assert (report["train"]["rows"], report["train"]["steps"]) == (4, 2)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["epoch-1", "epoch-2"]
    assert (out / "adapter" / "adapter_model.safetensors").is_file()

    row = {"request": "Who are you?", "answer": "Iris", "complete": True}
    (told,) = encode_rows([row], BaseModel(untemplated, "vicuna"))
    source, jobs = template_source("vicuna"), [RenderJob(None, ("Who are you?",), "", "vicuna")]
    (asked,) = run_jobs(untemplated, "vicuna", source, jobs)
    assert asked.texts[0].endswith("USER: Who are you? ASSISTANT:")
    assert told["prompt"] == list(asked.token_ids[0])
