"""Fixtures of the tests of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.models.checkpoint import CheckpointInfo, read_checkpoint
from tests.unit.models.target_files import model, weights


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointInfo:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    return read_checkpoint(model(tmp_path / "base", weights(0)))
