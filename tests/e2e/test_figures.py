"""Test `make figures` from nothing: it measures, draws and writes numbers once, and then finds nothing to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.figures.__main__ import update
from scripts.figures.definitions import read_definitions
from tests.e2e.conftest import parts

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

DEFINITIONS = """
out = "studies/figures"

[studies]
coarse = "run engine=dummy grid.directions=1 grid.steps=4 probes.limit=6 name=coarse"
fine = "run engine=dummy grid.directions=1 grid.steps=8 probes.limit=6 name=fine"

[pictures]
"figures/fine.png" = "landscape fine"

[numbers.coarse]
visage = "visage"

[numbers.fine]
refused = "refused"
cost = true
"""
PAGE = """# Title

VISAGE is <!-- figure: coarse.visage -->?<!-- /figure -->, <!-- figure: fine.new_tasks -->?<!-- /figure --> of
<!-- figure: fine.points -->?<!-- /figure --> were new, and <!-- figure: fine.refused -->?<!-- /figure -->.
"""


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    """Return the bytes and the time of change of each file by its path."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_studies_are_measured_once_and_their_figures_and_numbers_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml, page = tmp_path / "figures.toml", tmp_path / "docs" / "page.md"
    toml.write_text(DEFINITIONS)
    page.parent.mkdir()
    page.write_text(PAGE)
    definitions = read_definitions(toml)
    names = list(definitions.studies)

    assert update(definitions, names, measures=False, root=tmp_path) == 0
    assert page.read_text() == PAGE, "with --stored nothing is measured"
    assert "incomplete, so their figures and numbers stay: coarse, fine" in capsys.readouterr().err

    assert update(definitions, names, measures=True, root=tmp_path) == 0
    shown = capsys.readouterr().err
    assert "coarse: 5 tasks to run, about " in shown and "0 of 2 studies are stored" in shown
    assert (tmp_path / "docs" / "figures" / "fine.png").read_bytes().startswith(b"\x89PNG")
    (summary,) = (json.loads(path.read_text()) for path in tmp_path.rglob("coarse-*/summary.json"))
    filled = page.read_text()
    assert f"<!-- figure: coarse.visage -->{summary['visage']['paper']:.1f} (" in filled and "?" not in filled
    assert "fine.new_tasks -->4<" in filled and "fine.points -->9<" in filled, "the coarse grid's points are reused"
    assert len(parts(tmp_path / "studies" / "figures")) > 0

    before = contents(tmp_path)
    assert update(definitions, names, measures=True, root=tmp_path) == 0
    assert "2 of 2 studies are stored: nothing to measure." in capsys.readouterr().err
    assert contents(tmp_path) == before, "no file of docs or of the studies is written again"
