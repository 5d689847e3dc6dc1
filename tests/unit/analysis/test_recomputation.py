"""Every number of a sweep's results that does not follow from its rows is named, although its file's hash is right."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator import load_study
from orchestrator.analysis.landscape import to_table
from orchestrator.analysis.recomputation import Recomputation, compare_summaries, recompute
from orchestrator.analysis.verification import verify_study
from orchestrator.cli.main import main
from orchestrator.store.discovery import latest_sweep
from orchestrator.store.records import RunTotals
from orchestrator.store.runs import RunRecorder
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.tasks import Prompt
from orchestrator.utils.errors import UserError
from tests.unit.stored import basin, store_sweep

pytestmark = pytest.mark.thorough


OLD_STUDY = Path(__file__).parents[2] / "data" / "study_3b5b360" / "stored"
RESULT_FILES = ("landscape.parquet", "summary.json")


def recompute_in(folder: Path) -> Recomputation:
    return recompute(StoredSweep.open(latest_sweep(folder)))


def edit_summary(folder: Path, **values: Any) -> SweepFolder:
    """Change values of a stored summary and make its hash anew, as a program of this project would."""
    sweep = latest_sweep(folder)
    sweep.write_summary(sweep.read_summary() | values)
    return sweep


def numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every number in a JSON value."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(item, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def test_every_edited_number_of_a_summary_is_named(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path, basin(0.3), directions=2, steps=4)
    original, summary = latest_sweep(folder).read_summary(), recompute_in(folder).summary
    versions = {("intervals_version",), ("scoring_version",)}  # they say which numbers count
    paths = [path for path in numbers(original) if path not in versions]
    assert len(paths) > 150 and compare_summaries(original, summary, True) == ([], None)
    for path in paths:
        edited = copy.deepcopy(original)
        place = edited
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] += 1
        (difference,), remark = compare_summaries(edited, summary, True)
        assert difference.key == ".".join(map(str, path)) and remark is None
        assert difference.stored == pytest.approx(difference.recomputed + 1)
    edit_summary(folder, prompts=21, origin_low=None)
    assert [str(d) for d in recompute_in(folder).differences] == [
        "origin_low is stored as undefined, and the stored rows give 0.0",
        "prompts is stored as 21, and the stored rows give 20",
    ]


def test_every_edited_number_of_a_landscape_is_named(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path, basin(0.3), directions=1, steps=4)
    sweep = latest_sweep(folder)
    frame, _ = sweep.read_landscape()
    for name in ("alpha", "n", "n_refused", "n_complied", "n_degenerate", "asr", "asr_high", "margin", "n_unclear"):
        edited = frame.copy()
        edited.loc[3, name] += 1
        sweep.write_landscape(to_table(edited))
        assert [d.key for d in recompute_in(folder).differences] == [f"{name} in row 3"]
    sweep.write_landscape(to_table(pd.concat([frame, frame[:1]])))
    assert str(recompute_in(folder).differences[0]) == "the number of rows is stored as 6, and the stored rows give 5"


def test_gate_compare_and_verify_do_not_believe_an_edited_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = store_sweep(tmp_path, basin(0.05), "bad"), store_sweep(tmp_path, basin(0.3), "good")
    thresholds = ["visage=60", "radius=0.1"]
    assert main(["gate", str(good), *thresholds]) == 0 and main(["verify", str(good.parents[1])]) == 0
    honest, _ = (latest_sweep(folder).read_summary() for folder in (bad, good))
    better = latest_sweep(good).read_summary()
    edit_summary(bad, **{key: better[key] for key in ("visage", "margin", "basin", "results")})
    capsys.readouterr()
    assert main(["gate", str(bad), *thresholds, "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert not printed["met"] and not printed["findings"][0]["met"] and len(printed["unsound"]) == 1
    assert printed["findings"][0]["value"] == honest["visage"]["paper"]
    stored, given = better["visage"]["paper"], honest["visage"]["paper"]
    edit_summary(bad, **(honest | {"visage": honest["visage"] | {"paper": stored}}))
    sentence = f"visage.paper is stored as {stored!r}, and the stored rows give {given!r}"
    assert main(["gate", str(bad), "origin_asr=50"]) == 1
    assert sentence in " ".join(capsys.readouterr().out.split())
    assert main(["compare", str(good), str(bad), "--json"]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out)["sweeps"][1]["visage"]["paper"] == given and sentence in output.err
    (finding,) = verify_study(bad.parents[1]).findings
    assert (finding.path, finding.why) == (bad / "summary.json", sentence) and "`reduce`" in finding.remedy
    assert main(["verify", str(bad.parents[1])]) == 1
    assert main(["reduce", str(bad)]) == 0 and main(["verify", str(bad.parents[1])]) == 0


def test_right_answers_of_an_earlier_version_are_a_remark(tmp_path: Path) -> None:
    questions = [Prompt(text, target="18", group="capability") for text in "abcd"]
    folder = store_sweep(tmp_path, lambda *_: False, respond=lambda *_: "18", attacks=questions, directions=1, steps=4)
    sweep = latest_sweep(folder)
    frame, _ = sweep.read_landscape()
    rows = frame["n_correct"].notna()
    assert rows.any() and recompute_in(folder).differences == ()
    sweep.write_landscape(to_table(frame.assign(n_correct=frame["n_correct"] + 1)))
    assert {d.key.split()[0] for d in recompute_in(folder).differences} == {"n_correct"}
    edit_summary(folder, scoring_version=2)
    again = recompute_in(folder)
    assert again.differences == () and "right answers are of an earlier version" in again.unchecked[0]


def test_report_and_load_study_show_no_edited_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = store_sweep(tmp_path, basin(0.3))
    sweep = latest_sweep(folder)
    stored_frame, honest = sweep.read_landscape()
    assert main(["report", str(folder)]) == 0 and load_study(folder).summary == honest
    (folder / "report.html").unlink()
    edit_summary(folder, visage=honest["visage"] | {"paper": 99.0})
    given = honest["visage"]["paper"]
    sentence = (
        f"summary.json: visage.paper is stored as 99.0, and the stored rows give {given!r}: `reduce` writes it again"
    )
    capsys.readouterr()
    assert main(["report", str(folder)]) == 2 and not (folder / "report.html").exists()
    assert sentence in " ".join(capsys.readouterr().err.split())
    for table in ("summary", "landscape"):
        with pytest.raises(UserError) as caught:
            getattr(load_study(folder), table)
        assert sentence in str(caught.value)
    assert load_study(folder, check=False).summary["visage"]["paper"] == 99.0
    assert not load_study(folder).generations.empty, "rows are no results"
    assert main(["reduce", str(folder)]) == 0 and load_study(folder).summary == honest
    stored_frame.loc[0, "n_refused"] += 1
    sweep.write_landscape(to_table(stored_frame))
    assert main(["report", str(folder)]) == 2
    assert "landscape.parquet: n_refused in row 0" in " ".join(capsys.readouterr().err.split())


def test_results_that_are_older_than_the_rows_are_shown_as_the_rows_give_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = store_sweep(tmp_path, basin(0.3), directions=1, leave_out=lambda node: node.alpha == 0.1)
    before = {name: (folder / name).read_bytes() for name in RESULT_FILES}
    store_sweep(tmp_path, basin(0.3), directions=1)
    expected = load_study(folder)
    for name, content in before.items():
        (folder / name).write_bytes(content)
    stored = load_study(folder)
    pd.testing.assert_frame_equal(stored.landscape, expected.landscape)
    assert stored.summary == expected.summary != load_study(folder, check=False).summary
    assert main(["report", str(folder)]) == 0
    assert "1 of 11 rows of landscape.parquet lack responses that were stored since" in caplog.text


def test_results_that_are_older_than_the_rows_are_a_remark(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path, basin(0.3), directions=1, leave_out=lambda node: node.alpha == 0.1)
    before = {name: (folder / name).read_bytes() for name in RESULT_FILES}
    assert recompute_in(folder).unchecked == ()
    store_sweep(tmp_path, basin(0.3), directions=1)
    for name, content in before.items():
        (folder / name).write_bytes(content)
    recomputed = recompute_in(folder)
    assert recomputed.differences == () and recomputed.summary.points_missing == 0
    assert recomputed.unchecked == ("1 of 11 rows of landscape.parquet lack responses that were stored since",)
    report = verify_study(folder.parents[1])
    assert report.is_sound and "`reduce` computes them again" in report.unchecked[0]
    frame, _ = latest_sweep(folder).read_landscape()
    frame.loc[0, "n_refused"] += 1
    latest_sweep(folder).write_landscape(to_table(frame))
    assert [d.key for d in recompute_in(folder).differences] == ["n_refused in row 0"], "at a point with as many rows"


def test_results_whose_rows_are_gone_are_named(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path, basin(0.3))
    shutil.rmtree(folder.parents[1] / "generations")
    report = verify_study(folder.parents[1])
    assert [finding.path.name for finding in report.findings] == list(RESULT_FILES)
    assert "n in row 0 is stored as 20, and the stored rows give 0" in report.findings[0].why
    assert main(["gate", str(folder), "origin_asr=90"]) == 1


def test_a_cost_may_have_grown_by_a_later_run_and_may_not_be_larger_than_its_runs(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path, basin(0.3))
    edit_summary(folder, tokens=-1, tasks_failed=-1)
    assert recompute_in(folder).differences == ()
    edit_summary(folder, tokens=7, tasks_failed=0)
    assert [str(d) for d in recompute_in(folder).differences] == ["tokens is stored as 7, and the stored rows give 0"]


def test_a_run_that_stores_nothing_leaves_the_summary_sound(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path, basin(0.3))
    RunRecorder(latest_sweep(folder), 3).end("refused", RunTotals(actors=4, actors_at_once=4, restarts=2))
    recomputed = recompute_in(folder)
    assert recomputed.summary.actors_at_once == 4 and recomputed.differences == ()


def test_costs_are_not_compared_without_all_records_of_runs(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path, basin(0.3))
    edit_summary(folder, tokens=7)
    (folder / "runs").mkdir()
    (folder / "runs" / "damaged.json").write_text("{")
    recomputed = recompute_in(folder)
    assert recomputed.differences == () and "a record of a run cannot be read" in recomputed.unchecked[0]


def test_distances_in_radii_are_those_of_the_sweep_that_gave_the_unit(tmp_path: Path) -> None:
    """A sweep of random directions that is added later changes no stored distance, and makes none wrong."""
    line: dict[str, Any] = {
        "kind": "interpolate_1d",
        "towards": (TowardsDirection("aa", "tuned"),),
        "range": (0.0, 1.0),
    }
    toward = store_sweep(tmp_path, basin(0.7), steps=2, **line)
    assert recompute(StoredSweep.open(SweepFolder(latest_sweep(toward).study, toward))).differences == ()
    store_sweep(tmp_path, basin(0.25), directions=3)
    again = recompute(StoredSweep.open(SweepFolder(latest_sweep(toward).study, toward)))
    assert again.differences == () and again.summary.checkpoints[0].radius_of is None


def test_results_of_an_earlier_version_are_compared_where_its_numbers_mean_the_same(tmp_path: Path) -> None:
    shutil.copytree(OLD_STUDY, tmp_path / "stored")
    (study,) = (tmp_path / "stored").glob("smollm2*")
    report = verify_study(study)
    assert report.is_sound and report.results == 4
    assert all("of an earlier version" in remark for remark in report.unchecked) and len(report.unchecked) == 5
    (line,) = study.glob("sweeps/line-*")
    honest = latest_sweep(line).read_summary()
    for key, value in (("origin_asr", 1.0), ("visage", honest["visage"] | {"paper": 1.0})):
        edit_summary(line, **(honest | {key: value}))
        (finding,) = verify_study(study).findings
        assert finding.path == line / "summary.json" and f"{key}" in finding.why and "stored as 1.0" in finding.why


def test_results_are_not_compared_with_rows_that_do_not_verify(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path, basin(0.3))
    (part,) = folder.parents[1].glob("generations/*.parquet")
    part.write_bytes(part.read_bytes()[:-9])
    report = verify_study(folder.parents[1])
    assert (
        [finding.path for finding in report.findings] == [part] and report.results == 0 and len(report.unchecked) == 1
    )
