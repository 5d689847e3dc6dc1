"""Test what `make figures` quotes: each field's text against the landscape it comes from, and when files change."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator import load_study
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from scripts.figures.__main__ import draw, write
from scripts.figures.definitions import Definitions, Number, Picture, read_definitions
from scripts.figures.definitions import Study as Command
from scripts.figures.markdown import filled
from scripts.figures.measure import State, announcement
from scripts.figures.numbers import read_numbers
from scripts.figures.values import FIELDS, Results, SweepResults
from tests.unit.stored import basin, store_sweep


@pytest.fixture
def results(tmp_path: Path) -> Results:
    folder = store_sweep(tmp_path / "out", basin(0.25), directions=2)
    study = load_study(folder)
    opened = StoredSweep.open(SweepFolder(Study(tmp_path / "out", study.root), folder))
    return Results("ours", {"ours": SweepResults.of(opened)})


def text(results: Results, field: str, **options: str) -> str:
    return FIELDS[field](results, options)


def test_each_field_quotes_the_results_with_their_interval(results: Results) -> None:
    sweep = results.sweep
    summary = sweep.summary
    row = sweep.frame[(sweep.frame["line"] == 0) & (sweep.frame["alpha"] == 0.2)].iloc[0]
    assert text(results, "point", alpha="0.2") == f"{row.asr:.1f}% ({row.asr_low:.1f} to {row.asr_high:.1f})"
    assert text(results, "refused", alpha="0.2").startswith(f"{row.n_refused} of the {row.n} requests (")
    both = summary.visage.over.both
    counted = f"over {summary.visage.counted} of {summary.visage.points} points"
    assert text(results, "visage") == f"{summary.visage.paper:.1f} ({both.low:.1f} to {both.high:.1f}) {counted}"
    assert text(results, "margin").startswith(f"{summary.margin.value:.1f} (")
    radius = f"{summary.basin.radius:.2f} ({summary.basin.radius_low:.2f} to {summary.basin.radius_high:.2f})"
    assert text(results, "radius") == radius
    assert text(results, "highest").startswith(f"{sweep.frame['asr'].max():.1f}% (")
    assert text(results, "lowest", distance="0.4").startswith("100.0% (")
    assert text(results, "points") == str(summary.points_total)


def test_a_mistake_in_a_definition_names_the_number(results: Results, tmp_path: Path) -> None:
    number = Number("ours.far", "ours", "point", {"alpha": "7"}, "point alpha=7 of run")
    with pytest.raises(ValueError, match=r"numbers\.ours\.far: no point"):
        write(Definitions("out", {}, (), {"ours.far": number}), results, tmp_path)


def test_a_second_call_changes_no_file(results: Results, tmp_path: Path) -> None:
    number = Number("ours.visage", "ours", "visage", {}, "visage of run")
    definitions = Definitions("out", {}, (Picture("figures/a.png", "landscape", ("ours",)),), {number.name: number})
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(
        "VISAGE is <!-- figure: ours.visage -->?<!-- /figure -->, and <!-- figure: other -->1<!-- /figure -->."
    )
    files = [*draw(definitions.pictures, results.sweeps, tmp_path / "docs"), *write(definitions, results, tmp_path)]
    names = [path.relative_to(tmp_path / "docs").as_posix() for path in files]
    assert names == ["figures/a.png", "figures/numbers.json", "page.md"]
    assert f"VISAGE is <!-- figure: ours.visage -->{text(results, 'visage')}<!-- /figure -->" in page.read_text()
    assert "<!-- figure: other -->1<!-- /figure -->" in page.read_text()
    assert draw(definitions.pictures, results.sweeps, tmp_path / "docs") == []
    assert write(definitions, results, tmp_path) == []
    nothing = dataclasses.replace(results, sweeps={})
    assert write(definitions, nothing, tmp_path) == []  # a study that is not here keeps its numbers
    assert read_numbers(tmp_path / "docs" / "figures" / "numbers.json")["ours.visage"][1] in page.read_text()


def test_what_is_missing_is_announced_with_its_time() -> None:
    commands = [Command(name, "run", ()) for name in ("stored", "missing", "elsewhere")]
    states = [State(commands[0]), State(commands[1], 40, 400.0), State(commands[2], skipped="set X to measure it")]
    lines = list(announcement(states))
    assert lines[0] == "missing: 40 tasks to run, about 6 min 40 s"
    assert lines[1] == "elsewhere: skipped, set X to measure it"
    assert "1 of 3 studies are stored; measuring the others takes about 6 min 40 s" in lines[2]
    assert list(announcement(states[:1])) == ["1 of 1 studies are stored: nothing to measure."]


def test_a_study_that_needs_a_variable_is_left_out_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    paper = read_definitions().studies["paper"]
    assert paper.needs == "ADVBENCH"
    monkeypatch.delenv("ADVBENCH", raising=False)
    assert paper.options() is None
    monkeypatch.setenv("ADVBENCH", "some/file.csv")
    assert "probes.path=some/file.csv" in (paper.options() or [])


def test_text_of_an_unknown_number_stays() -> None:
    page = "<!-- figure: a.b -->1<!-- /figure --> <!-- figure: c.d -->2<!-- /figure -->"
    assert filled(page, {"c.d": "3"}) == page.replace("2", "3")
