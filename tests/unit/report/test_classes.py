"""The four classes of responses (refused, complied, degenerate, unclear) wherever they are counted or shown."""

from __future__ import annotations

import pytest
from rich.console import Console

from orchestrator import load_study
from orchestrator.analysis.landscape import LANDSCAPE_SCHEMA, to_table
from orchestrator.analysis.reducer import read_results
from orchestrator.report import terminal
from orchestrator.report.page.charts import chart_data
from orchestrator.report.page.evidence import Evidence, collect_evidence
from orchestrator.report.viewer.sweep_view import SweepView
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from tests.unit.stored import store_sweep

RESPONSES = {
    "refused": "I cannot help with that.",
    "complied": "Here is a list of the steps you asked for.",
    "degenerate": "the the the the the the the the the the the the the the the the the the the the the the the the",
    "unclear": "Сегодня утром мы пошли на рынок, чтобы купить свежий хлеб, молоко и немного овощей для супа.",
}
LETTERS = {"refused": "r", "complied": "c", "degenerate": "d", "unclear": "x"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredSweep:
    """Return a sweep with one response of each class at each of its points."""
    texts = list(RESPONSES.values())
    path = store_sweep(
        tmp_path_factory.mktemp("studies"),
        lambda *_: False,
        probes=[f"question {name}" for name in RESPONSES],
        respond=lambda _, i: texts[i],
        directions=1,
    )
    return StoredSweep.open(SweepFolder(Study.open(path.parents[1]), path))


@pytest.fixture(scope="module")
def evidence(stored: StoredSweep) -> Evidence:
    return collect_evidence(stored, reveal=True, max_responses=1000)


def test_each_response_counts_in_one_class_and_asr_counts_all_but_refusals(stored: StoredSweep) -> None:
    frame, _ = read_results(stored.folder)
    assert (frame["n"] == 4).all() and (frame["asr"] == 75.0).all()
    for name in ("n_refused", "n_complied", "n_degenerate", "n_unclear"):
        assert (frame[name] == 1).all()
    assert (frame["unclear"] == 25.0).all() and (frame["complied"] == 25.0).all()


def test_the_page_shows_each_class(stored: StoredSweep, evidence: Evidence) -> None:
    letters = dict(zip(evidence.responses["text"], evidence.responses["keyword"], strict=True))
    assert letters == {text: LETTERS[name] for name, text in RESPONSES.items()}
    frame, summary = read_results(stored.folder)
    rows = chart_data(stored.sweep, frame, summary, (), evidence)["results"][0]["rows"]
    assert rows["unclear"] == rows["complied"] == rows["degenerate"] == [25.0] * 11


def test_the_viewer_finds_unclear_responses(stored: StoredSweep, evidence: Evidence) -> None:
    view = SweepView(stored, *read_results(stored.folder), evidence)
    hits = view.search(outcome="x")
    assert hits["total"] == 11 and {hit["response"] for hit in hits["found"]} == {RESPONSES["unclear"]}
    assert view.search(outcome="c")["total"] == 11


def test_the_terminal_shows_each_class(stored: StoredSweep) -> None:
    console = Console(width=80, record=True)
    terminal.show(*read_results(stored.folder), stored.folder.result_paths(), console)
    output = console.export_text()
    row = next(line for line in output.splitlines() if "+0.500" in line)
    assert row.split() == ["+0.500", "75.0", "19.4", "-", "99.4", "25.0", "25.0", "25.0", "25.0"]
    assert "complied %  unclear %  degenerate %" in output, "80 columns are enough"


def test_a_stored_landscape_of_version_2_is_read_with_no_unclear_responses(stored: StoredSweep) -> None:
    """Version 2 counted unclear responses as complied; only `reduce` counts them anew."""
    frame, _ = read_results(stored.folder)
    old = frame.assign(n_complied=frame["n_complied"] + frame["n_unclear"])
    table = to_table(old).drop_columns(["n_unclear", "unclear"])
    stored.folder.write_landscape(table.replace_schema_metadata({"schema": "landscape/2"}))
    try:
        for read in (read_results(stored.folder)[0], load_study(stored.folder.path).landscape):
            assert (read["n_unclear"] == 0).all() and (read["unclear"] == 0.0).all() and (read["n_complied"] == 2).all()
            assert list(read.columns) == LANDSCAPE_SCHEMA.names
    finally:
        stored.folder.write_landscape(to_table(frame))
