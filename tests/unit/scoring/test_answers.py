"""Judges of a reasoning model's sweep read the answers; those of all other sweeps are what they were."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator import judges
from orchestrator.judges import UNFINISHED
from orchestrator.judges._model import ModelJudge
from orchestrator.scoring.panel import degeneracy_judge, load_panel
from orchestrator.scoring.verdicts import outcomes, verdict_counts
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.grid import Grid, Node, Sweep
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
    tables = list(outcomes(stored, keyword))
    assert sum(table.num_rows for table in tables) == 3 * 14
    frame, _ = stored.folder.read_landscape()
    assert frame["n"].eq(14).all() and frame["asr"].eq(50.0).all()


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
