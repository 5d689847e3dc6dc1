"""Stored documents and Parquet footers of any content are read, or reported as damaged."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.analysis.reducer import read_results
from orchestrator.store.discovery import find_sweeps
from orchestrator.store.files import DamagedFileError, publish_json, read_meta, read_table
from orchestrator.store.status import examine
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.utils.errors import UserError
from tests.fuzz.fuzzing import changed, damaged, fuzz
from tests.unit.stored import basin, store_sweep


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("studies")
    store_sweep(root, basin(0.3), directions=1, steps=2, probes=("a", "b"))
    return root


def read(out: Path) -> None:
    """Read everything about the sweeps below a folder."""
    for folder in find_sweeps(out):
        stored = StoredSweep.open(folder)
        examine(stored)
        len(stored.prompt_sets), len(stored.generations)
        read_results(folder)


@pytest.mark.parametrize("name", ["study.json", "sweep.json", "summary.json"])
def test_documents_with_their_own_hash(out: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "studies"
    shutil.copytree(out, copy)
    file = min(path for path in copy.rglob("*.json") if path.name == name)
    document = json.loads(file.read_text(encoding="utf-8"))

    @fuzz(20)
    @given(changed(document))
    def attempt(content: Any) -> None:
        try:
            publish_json(copy, file, content if isinstance(content, dict) else {"value": content})
        except (ValueError, UnicodeEncodeError):
            return  # this program cannot write it
        with contextlib.suppress(UserError, DamagedFileError):
            read(copy)

    attempt()


def test_footers(out: Path, tmp_path: Path) -> None:
    part = next(iter(sorted(out.rglob("*.parquet"))))
    data, file = part.read_bytes(), tmp_path / "part.parquet"
    table = read_table(part)

    @fuzz(150)
    @given(damaged(data) | damaged(data[-300:]).map(lambda end: data[:-300] + end) | st.binary(max_size=40))
    def attempt(content: bytes) -> None:
        file.write_bytes(content)
        with contextlib.suppress(DamagedFileError):
            read_meta(file)
            assert read_table(file).equals(table)

    attempt()
