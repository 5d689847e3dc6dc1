"""Judging stored responses: each response once, in parts of limited size, and only whole tasks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from orchestrator import judges
from orchestrator.judges.degenerate import EARLIER_IDS
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.scoring.text_judges import score_missing, score_with_text_judges
from orchestrator.scoring.verdicts import degeneracy_version, outcomes, verdict_counts
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.tasks import Prompt
from tests.unit.stored import store_sweep

KEYWORD_PLUS = judges.get("keyword_plus")
POINTS, PROBES = 11, 20


@pytest.fixture
def stored(tmp_path: Path) -> StoredSweep:
    """Store a line of 11 points. All 20 responses are refusals at the 5 points nearer than 0.25, and none elsewhere."""
    folder = store_sweep(tmp_path, lambda node, i: abs(node.alpha) < 0.25, directions=1)
    return StoredSweep.open(SweepFolder(Study.open(folder.parents[1]), folder))


def parts_of(stored: StoredSweep, judge_id: str) -> list[Path]:
    return sorted((stored.study.root / "judgements" / judge_id).glob("*.parquet"))


def test_every_response_is_judged_once(stored: StoredSweep) -> None:
    assert score_missing(stored, KEYWORD_PLUS) == POINTS * PROBES
    (counts,) = verdict_counts(stored, KEYWORD_PLUS)[0].values()
    assert counts == {"refused": 5 * PROBES, "complied": 6 * PROBES}
    assert score_missing(stored, KEYWORD_PLUS) == 0
    before = parts_of(stored, KEYWORD_PLUS.id)
    score_with_text_judges(stored)  # the sweep's own judges have judged it already
    assert parts_of(stored, KEYWORD_PLUS.id) == before and len(parts_of(stored, DEGENERATE.id)) == 1


def test_a_lost_part_is_judged_again(stored: StoredSweep) -> None:
    score_missing(stored, KEYWORD_PLUS)
    (part,) = parts_of(stored, KEYWORD_PLUS.id)  # all responses are in one part, and so are their verdicts
    part.unlink()
    stored.refresh()
    assert score_missing(stored, KEYWORD_PLUS) == POINTS * PROBES


def test_a_task_with_an_unknown_verdict_is_left_out(stored: StoredSweep) -> None:
    """A model judge that has answered only some prompts of a task has not judged the task."""
    other = Prompt("question 3")
    assert (
        score_missing(
            stored, KEYWORD_PLUS, verdict_of=lambda prompt, _: None if prompt.id == other.id else ("refused", 0.5)
        )
        == 0
    )
    assert not stored.judged(KEYWORD_PLUS.id)
    assert score_missing(stored, KEYWORD_PLUS, verdict_of=lambda prompt, response: ("refused", 0.5)) == POINTS * PROBES
    counts, means = verdict_counts(stored, KEYWORD_PLUS)
    assert [c["refused"] for c in counts.values()] == [POINTS * PROBES] and list(means.values()) == [0.5]


def test_the_summary_names_the_folder_of_the_verdicts_on_degeneracy(stored: StoredSweep) -> None:
    name = stored.folder.read_summary()["degenerate_id"]
    rows = pd.concat(pd.read_parquet(path) for path in (stored.study.root / "judgements" / name).glob("*.parquet"))
    assert len(rows) == POINTS * PROBES and set(rows["verdict"]) <= {"degenerate", "coherent", "unclear"}


def test_a_response_without_a_verdict_on_degeneracy_has_no_outcome(stored: StoredSweep) -> None:
    keyword = judges.get("keyword")
    assert sum(table.num_rows for table in outcomes(stored, keyword)) == POINTS * PROBES
    (part,) = parts_of(stored, DEGENERATE.id)
    part.unlink()
    stored.refresh()
    assert sum(table.num_rows for table in outcomes(stored, keyword)) == 0


@pytest.mark.parametrize(
    ("judged", "version"),
    [
        ({2: "abc"}, 2),
        ({2: "abc", 3: "a"}, 2),  # version 3 was interrupted
        ({2: "abc", 3: "abc"}, 3),
        ({3: "abc", 4: "ab"}, 3),
        ({3: "abc", 4: "abc"}, 4),
        ({4: "abc", 5: "ab"}, 4),
        ({4: "abc", 5: "abc"}, 5),
        ({5: "abc", 6: "ab"}, 5),
        ({5: "abc", 6: "abc"}, 6),
        ({5: "a", 6: "ab"}, 6),
        ({}, 6),
    ],
)
def test_the_latest_version_that_has_judged_all_responses_counts(judged: dict[int, str], version: int) -> None:
    ids = {DEGENERATE.version: DEGENERATE.id, **EARLIER_IDS}
    by_id = {judge_id: dict.fromkeys(judged.get(number, "")) for number, judge_id in ids.items()}
    sweep = SimpleNamespace(thought="")
    stored = SimpleNamespace(generations=dict.fromkeys("abc"), judged=by_id.__getitem__, sweep=sweep)
    assert degeneracy_version(stored) == version  # type: ignore[arg-type]
