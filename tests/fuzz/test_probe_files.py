"""Probe files of any content are read, or refused in one sentence."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.schema import ProbesConfig
from orchestrator.prompts.probe_sets import load_probe_set
from orchestrator.utils.choices import AnswerKind
from orchestrator.utils.errors import UserError
from tests.fuzz.fuzzing import JSON, damaged, fuzz

COLUMNS = ("text", "goal", "pair_id", "id", "kind", "context", "choices", "answer", "answerKey", "endings", "label")
ROWS = [
    {"text": "Name a bird", "pair_id": 1, "kind": "a", "context": "", "choices": ["x", "y"], "answer": 1},
    {"text": "Name a fish, \"please\"", "pair_id": 2, "kind": "b", "context": "c", "choices": ["x", "z"], "answer": 0},
]  # fmt: skip
OPTIONS: list[dict[str, Any]] = [
    {},
    {"category": "kind", "context": "context", "where": "kind=a", "skip_empty": True},
    {"target": "answer", "wrapper": "So: {request}", "skip_duplicates": True},
    {"answers": AnswerKind.choice, "group": "capability"},
    {"answers": AnswerKind.exact, "group": "capability", "sample": 1, "limit": 1},
]


def parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), stream)
    return stream.getvalue()


SEEDS = {
    ".csv": b'text,kind,context,answer,A,B\nName a bird,a,"c, d",A,wren,owl\n"Name\na fish",b,,B,eel,ray\n',
    ".json": json.dumps({"jailbreaks": ROWS}).encode(),
    ".jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    ".parquet": parquet(),
}


def check(file: Path, options: dict[str, Any]) -> None:
    """Read a file; what is read can be stored."""
    try:
        probes = load_probe_set(ProbesConfig(path=str(file), **options))
    except UserError:
        return
    for prompt in probes.prompts:
        assert prompt.text
        for text in (prompt.text, prompt.category, prompt.pair_id or "", prompt.target or "", *prompt.choices):
            text.encode()


@pytest.mark.parametrize("suffix", sorted(SEEDS))
def test_damaged_files(suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("probes") / f"rows{suffix}"

    @fuzz(80)
    @given(damaged(SEEDS[suffix]) | st.binary(max_size=60), st.sampled_from(OPTIONS))
    def attempt(data: bytes, options: dict[str, Any]) -> None:
        file.write_bytes(data)
        check(file, options)

    attempt()


def test_rows_of_any_values(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("probes") / "rows.jsonl"
    row = st.fixed_dictionaries(
        {"text": st.text(min_size=1, max_size=9) | JSON}, optional=dict.fromkeys(COLUMNS[1:], JSON)
    )

    @fuzz(120)
    @given(st.lists(row, min_size=1, max_size=3), st.sampled_from(OPTIONS))
    def attempt(rows: list[dict[str, Any]], options: dict[str, Any]) -> None:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        check(file, options)

    attempt()
