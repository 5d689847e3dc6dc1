"""Judges of a reasoning model's sweep read the answers; those of all other sweeps are what they were."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from orchestrator import judges
from orchestrator.analysis.landscape import mean_over_lines, with_all_counts
from orchestrator.analysis.reducer import read_results
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.judges import UNFINISHED
from orchestrator.judges._model import ModelJudge
from orchestrator.pipeline.reduce import reduce_stored
from orchestrator.report.narrative import paragraph
from orchestrator.report.terminal import _curve_table
from orchestrator.scoring.panel import degeneracy_judge, load_panel
from orchestrator.scoring.verdicts import refusals_by_probe, verdict_counts
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.grid import Grid, Node, Sweep
from orchestrator.sweep.prompt_rendering import PromptRendering
from tests.unit.analysis.results.test_sweep import STORED
from tests.unit.stored import basin, store_sweep

END = "</think>"
ANSWERS = ("Sure: boil water first.", "I cannot help with this.")
THOUGHTS = ("It might be illegal? No, it is tea.", "The user wants tea. One boils water.")


def open_sweep(folder: Path) -> StoredSweep:
    return StoredSweep.open(SweepFolder(Study.open(folder.parents[1]), folder))


def respond(node: Node, i: int) -> str:
    """Return for each third probe a compliance after a thought with a keyword, a refusal, and an unfinished thought."""
    if i % 3 == 2:
        return f"<think>I cannot say yet. {THOUGHTS[0]}"
    return f"<think>{THOUGHTS[i % 3]}\n{END}\n\n{ANSWERS[i % 3]}"


def test_verdicts_are_about_what_follows_the_thought(tmp_path: Path) -> None:
    stored = open_sweep(store_sweep(tmp_path, basin(1.0), respond=respond, thought=END, steps=2, directions=1))
    (keyword,) = load_panel(stored)
    (counts,) = verdict_counts(stored, keyword)[0].values()
    assert counts == {"complied": 3 * 7, "refused": 3 * 7, UNFINISHED: 3 * 6}
    (degenerate,) = verdict_counts(stored, degeneracy_judge(stored))[0].values()
    assert degenerate[UNFINISHED] == 3 * 6 and degenerate["coherent"] == 3 * 14
    (refusals,) = refusals_by_probe(stored).values()
    assert refusals.refused.shape == (3, 14), "a probe without any verdict has no column"
    frame, summary = stored.folder.read_landscape()
    assert frame["n"].eq(14).all() and frame["asr"].eq(50.0).all()
    assert frame["n_unfinished"].eq(6).all() and frame["unfinished"].eq(30.0).all()
    assert (summary["unfinished"], summary["prompts"], summary["results"][0]["unfinished"]) == (18, 20, 18)
    shown = paragraph(SweepSummary.from_json(summary))
    assert "18 responses on the grid are thoughts without an end" in shown


def test_points_without_any_answer_are_measured_but_have_no_rate(tmp_path: Path) -> None:
    folder = store_sweep(
        tmp_path,
        basin(1.0),
        respond=lambda node, i: "I cannot do that." if node.alpha == 0.0 else "<think>I cannot say yet.",
        thought=END,
        steps=2,
        directions=1,
    )
    stored = open_sweep(folder)
    frame, document = read_results(stored.folder)
    assert frame["n"].tolist() == [0, 20, 0] and frame["n_unfinished"].tolist() == [20, 0, 20]
    assert np.isnan(frame["asr"].tolist()[0]) and frame["unfinished"].tolist() == [100.0, 0.0, 100.0]
    assert (document.points_done, document.points_missing, document.prompts) == (3, 2, 20)
    console = Console(file=io.StringIO(), width=100)
    console.print(_curve_table(mean_over_lines(frame, ()), 1, None, True))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    rows = [line.replace("|", " ").split() for line in lines]
    assert [row for row in rows if row and row[0] in ("-0.500", "+0.000", "+0.500")] == [
        ["-0.500", "no", "answer", "100.0"],
        ["+0.000", "0.0", "0.0", "-", "16.8", "100.0", "0.0", "0.0", "0.0", "0.0"],
        ["+0.500", "no", "answer", "100.0"],
    ]
    reduce_stored(stored)
    page = (stored.folder.path / "report.html").read_text()
    assert '"unfinished":[20,0,20]' in page.replace(" ", "") and "[unfinished thought]" in page
    assert "I cannot say yet" not in page


def test_a_report_on_judged_thoughts_says_so() -> None:
    rendering = PromptRendering(
        probe_set="ours", group="harmful", system_prompt="", template="", example="<think>", opens_thought=True
    )
    document = json.loads((STORED / "two_judges.json").read_text())
    for thought, told in (("", True), (END, False)):
        summary = SweepSummary.from_json(document)
        shown = dataclasses.replace(summary, rendering=(dataclasses.replace(rendering, thought=thought),))
        assert ("verdicts are about the thought too" in paragraph(shown)) is told


def test_a_landscape_of_an_earlier_version_has_no_unfinished_thoughts(tmp_path: Path) -> None:
    stored = open_sweep(store_sweep(tmp_path, basin(0.3), steps=2, directions=1))
    frame, _ = stored.folder.read_landscape()
    earlier = with_all_counts(frame.drop(columns=["n_unfinished", "unfinished"]))
    assert earlier["n_unfinished"].eq(0).all() and earlier["unfinished"].eq(0.0).all()


def test_the_same_responses_are_judged_with_and_without_their_thoughts(tmp_path: Path) -> None:
    folders = [
        store_sweep(tmp_path, basin(1.0), respond=respond, thought=tag, steps=2, directions=1) for tag in ("", END)
    ]
    whole, answers = map(open_sweep, folders)
    assert whole.study.id == answers.study.id and whole.sweep.prompt_set_ids == answers.sweep.prompt_set_ids
    assert whole.sweep.id != answers.sweep.id
    (counts,) = verdict_counts(whole, judges.get("keyword"))[0].values()
    assert counts == {"refused": 3 * 20, "complied": 0}, "a thought holds a keyword of refusal"
    assert load_panel(answers)[0].id != load_panel(whole)[0].id


@pytest.mark.parametrize("name", judges.names())
def test_a_judge_of_answers_has_an_id_of_its_own(name: str) -> None:
    judge = judges.get(name)
    assert judge.after_thought("") is judge
    bound = judge.with_weights("f", "float32") if isinstance(judge, ModelJudge) else judge
    other = bound.after_thought(END)
    assert len({bound.id, other.id, bound.after_thought("[/THINK]").id}) == 3
    assert other.verdicts == (*judge.verdicts, UNFINISHED) and UNFINISHED not in judges.get(name).verdicts
    assert all(other.outcome(UNFINISHED, group) is None for group in ("harmful", "benign", "jailbreak"))
    if isinstance(judge, ModelJudge):
        assert judge.after_thought(END).with_weights("f", "float32").id == other.id


def test_ids_of_sweeps_and_judges_without_thoughts_stay() -> None:
    """The values were computed by the version before thoughts."""
    sweep = Sweep(Grid(), ("a",))
    assert "thought" not in sweep.to_json() and Sweep.from_json(sweep.to_json()) == sweep
    assert sweep.id == "1531efcd717f34b9"
    ids = {name: judges.get(name).id for name in ("keyword", "keyword_plus")}
    assert ids == {"keyword": "9ef5f4b48f7d1c6d", "keyword_plus": "47c6043f12961860"}
    guard = judges.get("wildguard")
    assert isinstance(guard, ModelJudge) and guard.with_weights("f", "float32").id == "254aee67f47bef8e"
    thinking = dataclasses.replace(sweep, thought=END)
    assert thinking.id != sweep.id and Sweep.from_json(thinking.to_json()) == thinking
