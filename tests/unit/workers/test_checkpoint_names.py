"""The file names in a checkpoint's index are those of files beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.utils.errors import UserError
from orchestrator.utils.safetensors_header import INDEX_FILE
from workers.weights.checkpoint import MappedCheckpoint


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a\nb.safetensors"])
def test_an_index_cannot_name_a_file_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(UserError, match="not a file beside it"):
        MappedCheckpoint(tmp_path)
