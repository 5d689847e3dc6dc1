"""Every notebook runs from its first cell to its last on a stored study, and is committed without outputs."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement

from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import ExtraCheckpoint
from tests.contract.rules import ROOT
from tests.unit.stored import basin, store_sweep

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run(name: str, study: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Execute a notebook on the study and return the outputs of all cells."""
    monkeypatch.setenv("STUDY", str(study))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": study}}).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed_text(outputs: list[Any]) -> str:
    texts = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs]
    assert not any(output.get("name") == "stderr" for output in outputs), texts
    return "\n".join(texts)


def count_pictures(outputs: list[Any]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.thorough
def test_the_notebook_that_reads_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store_sweep(tmp_path, basin(0.25), directions=2)
    outputs = run("read_a_study", folder, monkeypatch)
    text = printed_text(outputs)
    assert count_pictures(outputs) == 1
    assert "the same at all 21 points" in text, "Polars counts the same verdicts as the landscape"
    assert "cut short, %" in text, "and DuckDB answers"


@pytest.mark.thorough
def test_the_notebook_on_the_drag_of_finetuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end, *epochs = (TowardsDirection(f"fingerprint {i}", f"epoch-{i}") for i in (3, 1, 2))
    extra = tuple(ExtraCheckpoint(epoch, place) for epoch, place in zip(epochs, (0.3, 0.7), strict=True))
    folder = store_sweep(
        tmp_path, basin(0.5), kind="interpolate_1d", range=(0.0, 1.0), towards=(end,), extra_checkpoints=extra
    )
    outputs = run("the_drag_of_finetuning", folder, monkeypatch)
    text = printed_text(outputs)
    assert count_pictures(outputs) == 2
    assert "out of the basin from epoch-2 on" in text
    assert re.search(r"crosses 50% at 0\.(4|5)\d* \(radius 0\.", text), text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_the_extra_notebook_has_what_the_notebooks_import() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["notebook"]]
    installed = {Requirement(text).name for text in texts} | {"orchestrator", *sys.stdlib_module_names}
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
        imported = set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE))
        assert "orchestrator" in imported and imported <= installed, path.name
