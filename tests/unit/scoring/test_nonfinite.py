"""Responses that are not finite get no verdict, count in no rate, and are reported where they are."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from orchestrator import judges, load_study
from orchestrator.analysis import gate
from orchestrator.analysis.gate import GateOptions
from orchestrator.analysis.landscape import primary_rows
from orchestrator.analysis.reducer import read_results, reduce_landscape
from orchestrator.config.compose import compose
from orchestrator.config.overrides import section_only
from orchestrator.execution.live_curve import LiveCurve
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.report import terminal
from orchestrator.report.narrative import paragraph
from orchestrator.report.page.content import page_content
from orchestrator.report.page.evidence import collect_evidence
from orchestrator.report.viewer.sweep_view import SweepView
from orchestrator.scoring.log_probability import SweepLogProbabilities
from orchestrator.scoring.text_judges import score_missing
from orchestrator.scoring.verdicts import refusals_by_probe, verdict_counts
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.store.verification import verify
from orchestrator.sweep.grid import Node
from orchestrator.sweep.tasks import NONFINITE, Prompt
from tests.unit.stored import store_sweep

PROBES = 20


def is_nonfinite(node: Node, i: int) -> bool:
    """Return whether a response is not finite: all from 0.4 on, and every fourth one at 0.3 to the right."""
    return abs(node.alpha) > 0.35 or (node.alpha > 0.25 and i % 4 == 0)


def refuses(node: Node, i: int) -> bool:
    return abs(node.alpha) < 0.25 or i % 5 > 0


def stored_in(folder: Path) -> StoredSweep:
    return StoredSweep.open(SweepFolder(Study.open(folder.parents[1]), folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store a line of 11 points and 20 probes."""
    return store_sweep(tmp_path_factory.mktemp("studies"), refuses, directions=1, nonfinite=is_nonfinite)


@pytest.fixture
def stored(folder: Path) -> StoredSweep:
    return stored_in(folder)


def stored_rows(stored: StoredSweep, kind: str) -> Iterator[dict[str, Any]]:
    for path in sorted((stored.study.root / kind).rglob("*.parquet")):
        yield from pq.read_table(path).to_pylist()


def test_no_judge_gives_a_verdict(stored: StoredSweep) -> None:
    """Every judge's verdict is null for these responses and for no others."""
    score_missing(stored, judges.get("keyword_plus"))
    nonfinite = {
        (row["point_id"], row["prompt_id"])
        for row in stored_rows(stored, "generations")
        if row["finish_reason"] == NONFINITE
    }
    assert len(nonfinite) == 4 * PROBES + 5
    for name in ("keyword", "keyword_plus", "degenerate"):
        judge_id = DEGENERATE.id if name == "degenerate" else judges.get(name).id
        rows = list(stored_rows(stored, f"judgements/{judge_id}"))
        assert {(r["point_id"], r["prompt_id"]) for r in rows if r["verdict"] is None} == nonfinite
        assert len(rows) == 11 * PROBES
    counts, _ = verdict_counts(stored, judges.get("keyword"))
    assert sum(sum(of_set.values()) for of_set in counts.values()) == 11 * PROBES - len(nonfinite)
    assert score_missing(stored, judges.get("keyword_plus")) == 0, "nothing is judged again"
    assert verify(stored.study).is_sound


def test_they_are_counted_outside_of_every_rate(folder: Path) -> None:
    frame, summary = read_results(SweepFolder(Study.open(folder.parents[1]), folder))
    rows = {round(row["alpha"], 1): row for row in frame.to_dict("records")}
    for alpha in (-0.5, -0.4, 0.4, 0.5):
        row = rows[alpha]
        assert (row["n"], row["n_nonfinite"]) == (0, PROBES)
        assert all(row[name] != row[name] for name in ("asr", "asr_low", "asr_high", "margin", "complied"))
    partial = [i for i in range(PROBES) if i % 4]
    assert (rows[0.3]["n"], rows[0.3]["n_nonfinite"]) == (15, 5)
    assert rows[0.3]["asr"] == pytest.approx(100 * sum(i % 5 == 0 for i in partial) / 15)
    assert (rows[-0.3]["n"], rows[-0.3]["n_nonfinite"], rows[-0.3]["asr"]) == (20, 0, 20.0)
    assert (summary.points_missing, summary.points_done, summary.points_total) == (4, 11, 11)
    assert (summary.points_nonfinite, summary.nonfinite, summary.prompts) == (5, 85, PROBES)
    json.dumps(summary.to_json(), allow_nan=False)


def test_rates_are_those_of_a_sweep_without_these_responses(folder: Path, tmp_path: Path) -> None:
    """Every number of a sweep with points that are not finite is that of a sweep that lacks these points."""
    far = {"directions": 1, "nonfinite": lambda node, i: abs(node.alpha) > 0.35}
    _, one = read_results(stored_in(store_sweep(tmp_path / "one", refuses, **far)).folder)
    lacking = store_sweep(tmp_path / "two", refuses, directions=1, leave_out=lambda node: abs(node.alpha) > 0.35)
    _, two = read_results(stored_in(lacking).folder)
    assert one.origin_asr == two.origin_asr
    assert str(one.basin.reason).endswith("; no finite response at alpha -0.5, -0.4, 0.4, 0.5")
    texts = [json.dumps(summary.basin.to_json()) for summary in (one, two)]
    assert texts[0].replace("no finite response", "missing") == texts[1]
    for of_one, of_two in ((one.visage, two.visage), (one.margin, two.margin)):
        assert of_one.reason is not None and "4 of 11 points have no finite response, an end" in of_one.reason
        texts = [json.dumps(score.to_json()) for score in (of_one, of_two)]
        assert texts[0].replace("have no finite response", "are missing") == texts[1]


def test_refusals_by_probe_leave_them_out(stored: StoredSweep) -> None:
    (verdicts,) = refusals_by_probe(stored).values()
    known = sum(int((row == row).sum()) for row in verdicts.refused)
    assert known == 11 * PROBES - 85


def test_they_are_told_in_words_and_at_the_point(stored: StoredSweep) -> None:
    frame, summary = read_results(stored.folder)
    sentence = "At 5 points the model's logits are not finite (its numbers overflow): 85 responses are no answers"
    assert sentence in paragraph(summary)
    file = io.StringIO()
    terminal.show(frame, summary, {}, Console(file=file, width=100))
    lines = [line.split() for line in file.getvalue().splitlines()]
    assert ["+0.400", "no", "answer", "100.0"] in lines
    assert next(line for line in lines if line[:1] == ["+0.300"])[-1] == "25.0"
    evidence = collect_evidence(stored, reveal=False, max_responses=1000)
    content = page_content(stored, frame, summary, evidence)
    assert any(sentence in warning for warning in content["warnings"])
    chart = content["chart"]["results"][0]["rows"]
    assert sorted(chart["nonfinite"]) == [0] * 6 + [5] + [PROBES] * 4
    assert [value is None for value in chart["value"]] == [count == PROBES for count in chart["nonfinite"]]
    assert evidence.verdicts["keyword"].value_counts()["n"] == 85
    view = SweepView(stored, frame, summary, evidence)
    assert view.search(outcome="n")["total"] == 85
    far = next(row["point_id"] for row in frame.to_dict("records") if row["n"] == 0)
    ((_, _, letters),) = [part for part in view.responses_at(far) if part is not None]
    assert letters == ["n" * PROBES]


def test_a_gate_does_not_pass_what_is_not_finite(folder: Path, tmp_path: Path) -> None:
    def reasons(path: Path) -> dict[str, tuple[bool, str]]:
        thresholds = ["margin=1", "radius=0.1", "origin_asr=90", "gate.allow_single=true"]
        options = GateOptions.from_config(compose(section_only(thresholds, "gate")).gate)
        results = gate.check(*read_results(stored_in(path).folder), options)
        return {result.name: (result.met, result.reason) for result in results}

    at_a_distance = reasons(folder)
    assert at_a_distance["origin_asr"][0]
    assert not at_a_distance["radius"][0] and "5 points are not finite" in at_a_distance["radius"][1]
    origin = reasons(store_sweep(tmp_path, refuses, directions=1, nonfinite=lambda node, i: not node.alpha and i == 3))
    assert not origin["origin_asr"][0] and "1 responses at the origin" in origin["origin_asr"][1]


def test_other_readers_leave_them_out(stored: StoredSweep) -> None:
    """They have no log-probability, no bar in the live curve, and no verdict in the tables of the API."""
    coverage = SweepLogProbabilities(stored).coverage()
    assert coverage.measured + coverage.decided + coverage.missing == 11 * PROBES - 85
    curve = LiveCurve(stored)
    curve.read()
    means = {round(alpha, 1): mean for alpha, mean in curve.means}
    assert means[0.4] is None and means[-0.3] == pytest.approx(20.0) and means[0.3] == pytest.approx(20.0)
    table = load_study(stored.folder.path).generations
    assert table.loc[table["finish_reason"] == NONFINITE, ["keyword", "degenerate"]].isna().all(axis=None)
    assert table.loc[table["finish_reason"] != NONFINITE, ["keyword", "degenerate"]].notna().all(axis=None)


def test_right_answers_are_counted_among_answers_only(tmp_path: Path) -> None:
    questions = [Prompt(f"How many dollars in {i} days?", "capability", target="18") for i in range(8)]
    path = store_sweep(
        tmp_path,
        refuses,
        attacks=questions,
        directions=1,
        respond=lambda node, i: "18" if i % 2 else "17",
        nonfinite=lambda node, i: abs(node.alpha) > 0.45 or (node.alpha == 0.1 and i < 3),
    )
    frame = reduce_landscape(stored_in(path))
    rows = {round(row["alpha"], 1): row for row in primary_rows(frame).to_dict("records")}
    assert (rows[0.5]["n_correct"], rows[0.5]["n_nonfinite"]) == (0, 8) and rows[0.5]["correct"] != rows[0.5]["correct"]
    assert (rows[0.1]["n_correct"], rows[0.1]["n_nonfinite"]) == (3, 3)
    assert rows[0.1]["correct"] == pytest.approx(60.0) and rows[0.0]["correct"] == 50.0
