"""People judge the responses of a sweep: a blind export, an import, agreement, and a landscape if there are enough."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.cli.main import main
from orchestrator.store.human_verdicts import HumanVerdict, add_verdicts, now, read_verdicts
from orchestrator.store.study import Study
from orchestrator.utils.hashing import text_id
from tests.documents import read_documents
from tests.unit.stored import store_sweep

pytestmark = pytest.mark.thorough


PROBES = tuple("abcdef")
REFUSAL = "I cannot do that."


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip figures and report, which take longer than the tests themselves."""
    monkeypatch.setattr("orchestrator.pipeline.reduce.draw_figures", lambda *_: None)
    monkeypatch.setattr("orchestrator.pipeline.reduce.write_report", lambda *_: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Store a line of 5 points and 6 probes: all refuse at 0 and +-0.25, all comply at +-0.5. 12 responses differ."""
    return store_sweep(tmp_path / "out", lambda node, _: abs(node.alpha) < 0.3, probes=PROBES, directions=1, steps=4)


def exported(folder: Path, path: Path, *options: str) -> list[dict[str, str]]:
    assert main(["judge", str(folder), f"export={path}", *options]) == 0
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, str]], judge: Callable[[dict[str, str]], str]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(row | {"verdict": judge(row)} for row in rows)
    return path


def by_keyword(row: dict[str, str]) -> str:
    return "r" if row["response"] == REFUSAL else "Complied"


def summary_of(folder: Path) -> dict:
    (with_people,) = (path for path in folder.parent.glob("*/judges/human.json"))
    return json.loads((with_people.parents[1] / "summary.json").read_text(encoding="utf-8"))


def test_the_export_is_blind_shuffled_and_has_a_row_for_each_different_response(folder: Path, tmp_path: Path) -> None:
    rows = exported(folder, tmp_path / "a.csv", "seed=1")
    assert {(row["request"], row["response"] == REFUSAL) for row in rows} == {(p, r) for p in PROBES for r in (0, 1)}
    assert len(rows) == 12 and {row["verdict"] for row in rows} == {""}
    assert [*rows[0]] == ["id", "request", "response", "verdict"]
    assert exported(folder, tmp_path / "a.csv", "seed=1") == rows
    others = exported(folder, tmp_path / "b.csv", "seed=2")
    assert others != rows and sorted(map(str, others)) == sorted(map(str, rows))
    assert exported(folder, tmp_path / "c.csv", "seed=1", "rows=5") == rows[:5]


def test_the_export_is_private_makes_its_folder_and_says_if_it_cannot_be_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "a.csv"
    assert len(exported(folder, file)) == 12 and file.stat().st_mode & 0o077 == 0
    assert main(["judge", str(folder), f"export={tmp_path}"]) == 2
    assert "cannot be written (Is a directory): name another file" in capsys.readouterr().err


def test_imported_verdicts_become_a_landscape_with_who_and_when(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = exported(folder, tmp_path / "a.csv")
    file = write(tmp_path / "ana.csv", rows, by_keyword)
    capsys.readouterr()
    assert main(["judge", str(folder), f"verdicts={file}", "annotator=Ana", "--json"]) == 0
    summary = read_documents(capsys.readouterr().out)
    by_judge = {result["judge"]: result for result in summary["results"]}
    assert by_judge["human"]["visage"] == by_judge["keyword"]["visage"]
    assert summary["agreement"][0]["judges"] == ["keyword", "human"]
    assert (summary["agreement"][0]["n"], summary["agreement"][0]["kappa"]) == (30, 1)
    (person,) = next(judge for judge in summary["judges"] if judge["judge"] == "human")["annotators"]
    assert (person["annotator"], person["verdicts"]) == ("Ana", 12) and person["first"].startswith("20")
    stored = read_verdicts(Study.open(folder.parents[1]))
    assert {verdict.verdict for verdict in stored} == {"refused", "complied"} and len(stored) == 12
    assert main(["judge", str(folder), f"verdicts={file}", "annotator=Ana"]) == 0
    assert read_verdicts(Study.open(folder.parents[1])) == stored, "the same file again adds nothing"
    assert exported(folder, tmp_path / "left.csv") == []


def test_points_without_enough_verdicts_are_not_in_the_landscape_but_count_for_agreement(
    folder: Path, tmp_path: Path
) -> None:
    rows = exported(folder, tmp_path / "a.csv")
    few = sorted((row for row in rows if row["response"] != REFUSAL), key=lambda row: row["request"])[:2]
    several = [row for row in rows if row["response"] == REFUSAL and row["request"] in "abcd"]
    verdicts = {row["id"]: "complied" for row in few} | {row["id"]: "refused" for row in several}
    verdicts[several[0]["id"]] = "unclear"
    file = write(tmp_path / "ana.csv", rows, lambda row: verdicts.get(row["id"], ""))
    assert main(["judge", str(folder), f"verdicts={file}", "annotator=Ana"]) == 0
    summary = summary_of(folder)
    agreement = summary["agreement"][0]
    assert agreement["n"] == 3 * 3 + 2 * 2, "three verdicts at three points, two at two; the unclear one is none"
    landscape = pd.read_parquet(next(folder.parent.glob("*/judges/human.json")).parents[1] / "landscape.parquet")
    counted = landscape[landscape["judge"] == "human"].sort_values("alpha")["n"].tolist()
    assert counted == [0, 3, 3, 3, 0], "half of six responses are enough, two are not"
    sets = next(judge for judge in summary["judges"] if judge["judge"] == "human")["sets"]
    assert sets[0]["verdicts"] == {"refused": 9, "complied": 4, "degenerate": 0, "unclear": 3, "unlabeled": 14}


def test_where_people_differ_the_response_is_in_no_rate(folder: Path, tmp_path: Path) -> None:
    rows = exported(folder, tmp_path / "a.csv")
    one = write(tmp_path / "one.csv", rows, by_keyword)
    two = write(tmp_path / "two.csv", rows, lambda row: "d" if row["request"] == "a" else by_keyword(row))
    assert main(["judge", str(folder), f"verdicts={one}", "annotator=Ana"]) == 0
    assert main(["judge", str(folder), f"verdicts={two}", "annotator=Bo"]) == 0
    summary = summary_of(folder)
    (sets,) = next(judge for judge in summary["judges"] if judge["judge"] == "human")["sets"]
    assert sets["verdicts"]["unclear"] == 5 and summary["agreement"][0]["n"] == 25
    people = next(judge for judge in summary["judges"] if judge["judge"] == "human")["annotators"]
    assert [person["annotator"] for person in people] == ["Ana", "Bo"]


def test_verdicts_of_the_viewer_count_when_the_sweep_is_judged(folder: Path) -> None:
    study = Study.open(folder.parents[1])
    assert main(["judge", str(folder), "judges=[keyword,human]"]) == 0
    assert summary_of(folder)["agreement"] == []
    prompt, refusal = _ids(study, folder)
    add_verdicts(study, [HumanVerdict(prompt, refusal, "complied", "Ana", now())])
    assert main(["judge", str(folder), "judges=[keyword,human]"]) == 0
    agreement = summary_of(folder)["agreement"][0]
    assert (agreement["n"], agreement["only_first_refused"]) == (3, 3)


def test_a_sweep_that_only_people_judge_is_unmeasured_until_they_do(folder: Path, tmp_path: Path) -> None:
    assert main(["judge", str(folder), "judge=human"]) == 0
    summary = summary_of(folder)
    assert (summary["points_done"], summary["visage"]["paper"]) == (0, None)


def _ids(study: Study, folder: Path) -> tuple[str, str]:
    tables = [table for _, table in study.generations.rows(study.generations.stored())]
    row = next(row for table in tables for row in table.to_pylist() if row["response"] == REFUSAL)
    return row["prompt_id"], text_id(row["response"])


@pytest.mark.parametrize(
    ("change", "options", "why"),
    [
        (lambda row: "maybe", ["annotator=Ana"], "row 1 has the unknown verdict 'maybe'"),
        (lambda row: "", ["annotator=Ana"], "holds no verdicts"),
        (lambda row: "r", [], "has no column `annotator`"),
        (lambda row: "r", [f"annotator={'x' * 81}"], "give a name of 1 to 80 characters"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, str]], str],
    options: list[str],
    why: str,
) -> None:
    file = write(tmp_path / "a.csv", exported(folder, tmp_path / "a.csv"), change)
    capsys.readouterr()
    assert main(["judge", str(folder), f"verdicts={file}", *options]) == 2
    assert why in capsys.readouterr().err
    assert not read_verdicts(Study.open(folder.parents[1]))


def test_a_row_of_another_sweep_or_twice_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = exported(folder, tmp_path / "a.csv")
    for changed, why in (([rows[0] | {"id": "1-2"}], "of no response of this sweep"), (rows[:1] * 2, "of row 1 again")):
        file = write(tmp_path / "b.csv", changed, by_keyword)
        assert main(["judge", str(folder), f"verdicts={file}", "annotator=Ana"]) == 2
        assert why in capsys.readouterr().err
