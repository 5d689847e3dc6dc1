"""What every machine of a cluster has to have."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import models
from orchestrator.config import ModelConfig
from orchestrator.errors import UserError


def test_a_model_that_is_here_is_not_fetched_and_one_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    models.have(ModelConfig(path="/nowhere"), tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        models.have(ModelConfig(path=str(tmp_path / "none")), tmp_path / "none")
