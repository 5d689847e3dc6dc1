"""Everything that a verb prints with --json has the keys and types of the JSON Schema that its key `schema` names.

Other tests check the documents of `run`, `judge`, `finetune`, `view`, `models` and `doctor`, where these run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.cli.main import main
from tests.documents import read_documents
from tests.unit.models.target_files import adapter, model, weights
from tests.unit.stored import basin, store_sweep
from workers.weights.geometry import Geometry

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_sweep(tmp_path_factory.mktemp("studies"), basin(0.25), probes=tuple("abcd"), directions=1, steps=4)


CALLS = {
    "plan/1": ["plan", "model=mistral7b", "cluster.gpu=h100", "judges=[keyword,wildguard]"],
    "status/1": ["status", "{studies}"],
    "verification/1": ["verify", "{studies}"],
    "compaction/1": ["compact", "{studies}"],
    "report/1": ["report", "{sweep}"],
    "responses/1": ["judge", "{sweep}", "export={out}.csv", "rows=3"],
    "comparison/1": ["compare", "{sweep}", "{sweep}"],
    "export/1": ["export", "jsonl", "{sweep}", "to={out}.jsonl"],
    "gate/1": ["gate", "{sweep}", "visage=70", "radius=0.1"],
    "model/1": ["models", "dummy"],
    "error/1": ["plan", "grid.steps=x"],
}


@pytest.mark.parametrize("schema", CALLS)
def test_a_verb_prints_documents_of_its_schema(
    sweep: Path, tmp_path: Path, schema: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([argument.format(sweep=sweep, studies=sweep.parents[2], out=tmp_path / "out") for argument in CALLS[schema]]
         + ["--json"])  # fmt: skip
    value = read_documents(capsys.readouterr().out)
    entries = [value] if "schema" in value else value if isinstance(value, list) else list(value.values())
    assert {entry["schema"] for entry in entries} == {schema}


def test_geometry_prints_a_document_of_its_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = Geometry(("tuned", "adapter"), np.eye(2), 1.0, moved=0.5, rounding=(0.0, 0.1))
    monkeypatch.setattr("orchestrator.models.geometry.measure_targets", lambda *arguments: measured)
    base, tuned = model(tmp_path / "base", weights(0)), model(tmp_path / "tuned", weights(1))
    targets = f"grid.towards=[{tuned},{adapter(tmp_path / 'adapter')}]"
    assert main(["geometry", "grid=interpolate_1d", f"model.path={base}", targets, "--json"]) == 0
    document = read_documents(capsys.readouterr().out)
    assert document["schema"] == "geometry/1" and len(document["checkpoints"]) == 2
