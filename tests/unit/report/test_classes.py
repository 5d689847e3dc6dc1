"""The four classes of responses (refused, complied, degenerate, unclear) wherever they are counted or shown."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator import load_study
from orchestrator.analysis.calibration import Calibration, CalibrationStratum
from orchestrator.analysis.comparison.classes import compare_degenerate
from orchestrator.analysis.landscape import LANDSCAPE_SCHEMA, to_table
from orchestrator.analysis.reducer import read_results, reduce_landscape, reduce_summary
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.report import narrative, terminal
from orchestrator.report.figures.landscape import draw_landscape
from orchestrator.report.page.charts import chart_data
from orchestrator.report.page.content import tiles
from orchestrator.report.page.evidence import Evidence, collect_evidence
from orchestrator.report.viewer.sweep_view import SweepView
from orchestrator.store.calibrations import calibration_path, write_calibration
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.continuations import LogProbabilityCoverage
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
    table = to_table(old).drop_columns(LANDSCAPE_SCHEMA.names[LANDSCAPE_SCHEMA.names.index("n_unclear") :])
    stored.folder.write_landscape(table.replace_schema_metadata({"schema": "landscape/2"}))
    try:
        for read in (read_results(stored.folder)[0], load_study(stored.folder.path).landscape):
            assert (read["n_unclear"] == 0).all() and (read["unclear"] == 0.0).all() and (read["n_complied"] == 2).all()
            assert list(read.columns) == LANDSCAPE_SCHEMA.names
    finally:
        stored.folder.write_landscape(to_table(frame))


def calibrated(stored: StoredSweep, degenerate_id: str = DEGENERATE.id, max_tokens: int = 8) -> SweepSummary:
    """Return the sweep's summary, reduced while its study has a calibration with Se 0.9 and Sp 0.95."""
    stratum = CalibrationStratum(low=0.0, high=0.5, max_tokens=max_tokens, found=90, missed=10, passed=95, alarms=5)
    calibration = Calibration(
        name="own",
        fingerprint=stored.study.info.fingerprint,
        norm="layer",
        degenerate_id=degenerate_id,
        degenerate_version=DEGENERATE.version,
        judge="keyword",
        source="",
        strata=(stratum,),
    )
    write_calibration(stored.study, calibration.to_json())
    try:
        return reduce_summary(stored, reduce_landscape(stored))
    finally:
        calibration_path(stored.study).unlink()


def test_the_share_is_corrected_by_the_calibration_of_the_studys_model(stored: StoredSweep) -> None:
    """11 of 33 are called degenerate: (1/3 + 0.95 - 1) / (0.9 + 0.95 - 1), but for a label's shrinkage."""
    summary = calibrated(stored)
    assert summary.degenerate_version == DEGENERATE.version and summary.degenerate_share == pytest.approx(100 / 3)
    assert summary.classes is not None and summary.classes.successes == 33
    known = summary.classes.corrected.known
    assert known is not None and known.value == pytest.approx(100 * (1 / 3 - 0.05) / 0.85, abs=0.1)
    assert known.low < known.value < known.high
    sentence = narrative.details(summary)
    assert "33% are degenerate" in sentence and "corrected for the judge's errors by the calibration own" in sentence
    tile = tiles(summary)[-1]
    assert tile["value"] == "33" and "95% interval" in tile["note"] and "corrected" in tile["note"]
    assert SweepSummary.from_json(summary.to_json()) == summary


def test_without_a_calibration_the_share_is_a_lower_bound(stored: StoredSweep) -> None:
    for summary, reason in (
        (reduce_summary(stored, reduce_landscape(stored)), "no calibration of this model"),
        (calibrated(stored, degenerate_id="of an earlier version"), "the calibration is for version"),
        (calibrated(stored, max_tokens=32), "the calibration has no labels for responses of 8 tokens"),
    ):
        assert summary.classes is not None and summary.classes.corrected.known is None
        assert reason in (summary.classes.corrected.reason or "")
        assert "at least 33% are degenerate" in narrative.details(summary)
        assert "of 33% the judge cannot tell" in narrative.details(summary)
        assert tiles(summary)[-1]["value"] == "≥ 33" and "not corrected" in tiles(summary)[-1]["note"]


def test_the_figure_shows_the_share_corrected_or_as_a_lower_bound(stored: StoredSweep, tmp_path: Path) -> None:
    frame = reduce_landscape(stored)
    for summary, shown in (
        (reduce_summary(stored, frame), "degenerate successes at least 33%"),
        (calibrated(stored), r"degenerate successes 33% \[\d+ to \d+\]"),
    ):
        draw_landscape(frame, summary, tmp_path / "figure.svg")
        assert re.search(shown, (tmp_path / "figure.svg").read_text(encoding="utf-8"))


def test_shares_are_compared_only_if_one_version_of_the_judge_counted_both(stored: StoredSweep) -> None:
    corrected, raw = calibrated(stored), reduce_summary(stored, reduce_landscape(stored))
    same = compare_degenerate(corrected, corrected)
    assert same.difference == 0.0 and same.low is not None and same.low < 0.0 < (same.high or 0.0)
    assert compare_degenerate(corrected, raw).difference == 0.0, "as the judge calls them: only one is corrected"
    assert "no interval" in (compare_degenerate(corrected, raw).reason or "")
    for version, shown in ((2, "2"), (None, "an unknown one")):
        earlier = dataclasses.replace(raw, degenerate_version=version)
        different = compare_degenerate(earlier, raw)
        assert (different.first, different.second, different.difference) == (None, None, None)
        assert f"differ ({shown} and {DEGENERATE.version}): `reduce` judges both" in (different.reason or "")


def test_the_summary_says_whether_classes_rest_on_log_probabilities(stored: StoredSweep) -> None:
    _, summary = read_results(stored.folder)
    assert "The classes of all responses rest on the text alone." in narrative.details(summary)
    counted = LogProbabilityCoverage(measured=33, decided=11)
    partly = dataclasses.replace(summary, log_probability=counted)
    assert "rest on the text alone, although 33 have a log-probability." in narrative.details(partly)
    both = dataclasses.replace(partly, log_probability_version=1)
    sentence = "The classes rest on text and log-probability (33 responses; 11 refusals need none)."
    assert sentence in narrative.details(both)
    cheap = dataclasses.replace(both, log_probability=dataclasses.replace(counted, measured=3, missing=30))
    assert "(3 responses; 11 refusals and 30 responses whose text is certain need none)." in narrative.details(cheap)


def test_shares_are_not_compared_if_only_one_rests_on_log_probabilities(stored: StoredSweep) -> None:
    _, summary = read_results(stored.folder)
    both = dataclasses.replace(summary, log_probability_version=1)
    difference = compare_degenerate(summary, both)
    assert difference.difference is None and "judging.log_probability=uncertain" in (difference.reason or "")
    cheap = dataclasses.replace(summary, log_probability_version=2)
    other = compare_degenerate(both, cheap)
    assert other.difference is None and "by different rules: `judge judging.log_probability=uncertain`" in str(other)
    assert "`judge judging.log_probability=uncertain` measures" in (compare_degenerate(cheap, summary).reason or "")
    assert compare_degenerate(both, both).difference == 0.0
