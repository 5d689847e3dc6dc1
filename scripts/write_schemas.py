"""Write docs/schemas: a JSON Schema of each document that a verb prints with `--json`.

`python -m scripts.write_schemas` writes them from the types of the documents. A contract test fails if they differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from orchestrator.analysis.comparison.differences import SCHEMA as COMPARISON
from orchestrator.analysis.comparison.differences import Comparison
from orchestrator.analysis.gate import GateResult
from orchestrator.analysis.results.sweep import SCHEMA as SUMMARY
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.cli import documents
from orchestrator.cli.doctor import Finding
from orchestrator.models.resolve import ResolvedModel
from orchestrator.planning.cost import Plan
from orchestrator.store.compaction import Compacted
from orchestrator.store.status import Status
from orchestrator.store.verification import VerificationReport
from orchestrator.utils.json_schema import document_schema

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "schemas"


@dataclass(frozen=True, kw_only=True)
class PrintedSummary(SweepSummary):
    """summary.json of a sweep, as `run`, `judge` and `reduce` print it.

    Attributes:
        paths: Paths of the result files, by name. The file summary.json itself lacks this key.
    """

    OPTIONAL_KEYS: ClassVar[frozenset[str]] = SweepSummary.OPTIONAL_KEYS | {"paths"}

    paths: Mapping[str, str]


RECORDS: Mapping[str, type[Any]] = {
    SUMMARY: PrintedSummary,
    COMPARISON: Comparison,
    documents.PLAN: Plan,
    documents.STATUS: Status,
    documents.VERIFICATION: VerificationReport,
    documents.COMPACTION: Compacted,
    documents.FINDING: Finding,
    documents.MODEL: ResolvedModel,
    **{
        record.schema: record
        for record in (
            documents.Error,
            documents.Part,
            documents.Script,
            documents.Job,
            documents.Responses,
            documents.Report,
            documents.Export,
            documents.View,
            documents.Bundle,
            documents.Preset,
            documents.Geometry,
            documents.Finetuning,
            GateResult,
        )
    },
}
"""The type of each document, by the value of its key `schema`."""


def file_name(schema: str) -> str:
    """Return the name of a schema's file."""
    return f"{schema.replace('/', '-')}.json"


def texts() -> dict[str, str]:
    """Return the content of each file in docs/schemas, by its name."""
    return {
        file_name(schema): json.dumps(document_schema(schema, record), indent=2, ensure_ascii=False) + "\n"
        for schema, record in RECORDS.items()
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
