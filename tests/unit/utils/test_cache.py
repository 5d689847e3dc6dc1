"""The cache folder, and atomic JSON files in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.utils.cache import cache_dir, write_json


def test_the_folder_is_the_configured_one_or_the_platform_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("SAFETY_LANDSCAPE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "safety-landscape"


def test_json_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "value.json"
    assert write_json(file, {"a": 1}) and file.read_text() == '{"a": 1}'
    (tmp_path / "taken.json").mkdir()
    assert not write_json(tmp_path / "taken.json", 1)
    assert not write_json(file / "below a file.json", 1)
    assert [path.name for path in tmp_path.rglob("*.tmp")] == []
