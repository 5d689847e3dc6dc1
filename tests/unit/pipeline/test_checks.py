"""Models that the engine or the prompts do not support are refused before anything is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator.config.compose import compose
from orchestrator.models.checkpoint import read_checkpoint
from orchestrator.pipeline import checks
from orchestrator.utils.errors import UserError
from tests.unit.models.target_files import model, weights


def test_a_model_with_an_image_encoder_is_refused_without_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is accepted with torchvision or with another engine."""
    text_only = read_checkpoint(model(tmp_path / "base", weights(0)))
    architecture = {"architectures": [checks.NEEDS_TORCHVISION]}
    with_images = dataclasses.replace(text_only, config={**text_only.config, **architecture})
    local = compose([f"model.path={text_only.path}"])
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^model\.path=.*needs torchvision"):
        checks.check_image_encoder(local, with_images)
    checks.check_image_encoder(local, text_only)
    checks.check_image_encoder(compose([f"model.path={text_only.path}", "engine=transformers"]), with_images)
    monkeypatch.setattr(checks, "find_spec", lambda name: name)
    checks.check_image_encoder(local, with_images)
