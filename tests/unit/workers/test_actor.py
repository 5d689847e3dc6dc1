"""The actor: its memory, and its states before and after the load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.store.study import Study, StudyInfo
from orchestrator.utils.choices import EngineKind
from workers.actor import Actor
from workers.engines.base import EngineSpec


def test_peak_memory_does_not_include_the_parents() -> None:
    allocated = bytearray(400 << 20)  # initialized, so that the pages count as this process's memory
    code = "from workers.actor import peak_memory; print(peak_memory())"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10 << 20 < int(completed.stdout) < len(allocated)


def test_an_engine_exists_only_after_the_load(tmp_path: Path) -> None:
    study = Study.create(tmp_path, StudyInfo("dummy", "dummy", "float32", 1))
    actor = Actor(EngineSpec(EngineKind.dummy), str(study.root), study.id)
    with pytest.raises(AssertionError, match="has not loaded"):
        actor.close()
    assert actor.load()["engine"] == {"engine": "dummy", "version": 1}
    actor.close()
