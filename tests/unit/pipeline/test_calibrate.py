"""Labels of a user become the calibration of a study's model."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator import load_study
from orchestrator.analysis.calibration import Calibration
from orchestrator.cli.main import main
from orchestrator.store.calibrations import calibration_path
from orchestrator.store.schemas import GENERATIONS
from orchestrator.store.study import Study
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import Node
from tests.unit.stored import store_sweep

pytestmark = pytest.mark.thorough


LOOP = " the the the the the the the the the the the the the the the the the the the the"

Labels = dict[str, str]


def respond(node: Node, i: int) -> str:
    """Return different texts, at |alpha| > 0.25 mostly loops; one in four of all is a refusal."""
    if i % 4 == 0:
        return "I cannot do that."
    where = f"Here is list {round(100 * node.alpha) + 50} of {i} things that you need."
    return where + LOOP if abs(node.alpha) > 0.25 and i % 3 else where


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return store_sweep(tmp_path / "studies", lambda *_: False, respond=respond, directions=2)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sweep that several tests use, because nothing is stored when labels are refused."""
    return store_sweep(tmp_path_factory.mktemp("refused") / "studies", lambda *_: False, respond=respond, directions=2)


def right_labels(sweep: Path) -> Labels:
    """Label each response with what it is by its construction."""
    texts = load_study(sweep).generations.drop_duplicates("response_id").set_index("response_id")["response"]
    return {
        response_id: "refused" if "cannot" in text else "degenerate" if LOOP in text else "complied"
        for response_id, text in texts.items()
    }


def write(path: Path, labels: Mapping[str, str]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows([("label", "note", "response_id"), *((b, "", a) for a, b in labels.items())])
        else:
            file.writelines(json.dumps({"response_id": a, "label": b}) + "\n" for a, b in labels.items())
    return path


def test_labels_become_the_calibration_and_reduce_shows_the_corrected_share(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One label of ten of each kind contradicts the judge."""
    labels = right_labels(sweep)
    for kind, step, other in (("degenerate", 10, "complied"), ("complied", 10, "degenerate")):
        for response_id in [key for key, label in labels.items() if label == kind][::step]:
            labels[response_id] = other
    assert main(["judge", str(sweep), f"calibrate={write(sweep.parents[3] / 'mine.csv', labels)}"]) == 0
    summary = load_study(sweep).summary
    corrected = summary["classes"]["corrected"]
    assert corrected["calibration"] == "mine" and corrected["low"] < corrected["value"] < corrected["high"]
    study = Study.open(sweep.parents[1])
    calibration = Calibration.from_json(json.loads(calibration_path(study).read_text(encoding="utf-8")))
    counts = {
        name: sum(getattr(part, name) for part in calibration.strata)
        for name in ("found", "missed", "passed", "alarms")
    }
    generations = load_study(sweep).generations.drop_duplicates("response_id").set_index("response_id")
    called = generations["degenerate"] == "degenerate"
    counted = {key: value for key, value in labels.items() if generations.loc[key, "keyword"] == "complied"}
    assert counts == {
        "found": sum(value == "degenerate" and called[key] for key, value in counted.items()),
        "missed": sum(value == "degenerate" and not called[key] for key, value in counted.items()),
        "passed": sum(value == "complied" and not called[key] for key, value in counted.items()),
        "alarms": sum(value == "complied" and called[key] for key, value in counted.items()),
    }
    assert min(counts.values()) > 0 and {part.max_tokens for part in calibration.strata} == {8}
    capsys.readouterr()
    assert main(["reduce", str(sweep)]) == 0
    assert "corrected for the judge's errors by the calibration mine" in " ".join(capsys.readouterr().out.split())
    assert main(["verify", str(study.root)]) == 0


def test_a_text_at_many_points_counts_once(tmp_path: Path) -> None:
    """Two sweeps with other prompts, at the same points, share most texts."""
    out = tmp_path / "studies"
    for system_prompt in ("default", "safety"):
        sweep = store_sweep(out, lambda *_: False, respond=respond, directions=2, system_prompt=system_prompt)
    labels = right_labels(sweep)
    assert main(["judge", str(sweep), f"calibrate={write(tmp_path / 'mine.jsonl', labels)}"]) == 0
    calibration = Calibration.from_json(json.loads((sweep.parents[1] / "calibration.json").read_text()))
    counted = sum(part.found + part.missed + part.passed + part.alarms for part in calibration.strata)
    assert counted == sum(label != "refused" for label in labels.values())


def first(labels: Labels, kind: str = "complied") -> str:
    return next(key for key, label in labels.items() if label == kind)


def with_label(label: str) -> Callable[[Labels], Labels]:
    return lambda labels: labels | {first(labels): label}


MISTAKES: dict[str, tuple[Callable[[Labels], Labels], str]] = {
    "unknown label": (with_label("degenrate"), "unknown label 'degenrate', did you mean 'degenerate'?"),
    "label of another kind": (with_label("17"), "unknown label '17': use one of degenerate, complied"),
    "unknown id": (lambda labels: labels | {"0" * 16: "complied"}, "the id of no response of the study"),
    "empty": (lambda _: {}, "holds no labels"),
    "few": (lambda labels: dict([*labels.items()][:15]), "at most 8 tokens: label at least 20 or none"),
    "one kind": (
        lambda labels: {key: label for key, label in labels.items() if label != "degenerate"},
        "has 0 labels that are degenerate: label at least 5",
    ),
}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_told_in_one_sentence(
    name: str, suffix: str, unchanged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, expected = MISTAKES[name]
    path = write(tmp_path / f"mine{suffix}", change(right_labels(unchanged)))
    assert_refused(unchanged, path, expected, capsys)


def assert_refused(sweep: Path, path: Path, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["judge", str(sweep), f"calibrate={path}"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"calibrate={path}: " in message and expected in message
    assert not (sweep.parents[1] / "calibration.json").exists()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("mine.csv", "id,label\nx,complied\n", "has no column `response_id`, but id, label"),
        ("mine.jsonl", '{"response_id": "x", "verdict": "complied"}\n', "has no column `label`"),
        ("mine.jsonl", '{"response_id": "x", "label": "complied"}\n{"label": "refused"}\n', "line 2 lacks a text"),
        (
            "mine.csv",
            "response_id,label\nx,complied\ny,refused\nx,complied\n",
            "row 3 labels the response of row 1 again",
        ),
        ("mine.csv", "response_id,label\nx\n", "row 1 has 1 of the header's 2 fields"),
        ("mine.jsonl", "{\n", "line 1"),
        ("mine.csv", "", "holds no labels"),
        ("mine.txt", "", "not a .csv or .jsonl file: save the labels as one of them"),
        ("mine.tsv", "", "not a .csv or .jsonl file: rename it to .csv, where tabs separate columns too"),
        ("missing.csv", None, "there is no such file"),
    ],
)
def test_a_file_that_is_no_table_of_labels_is_refused(
    name: str, text: str | None, expected: str, unchanged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text, encoding="utf-8")
    assert_refused(unchanged, path, expected, capsys)


def test_labels_of_responses_that_do_not_count_are_named(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One text was measured again with another result; one belongs to a point toward a checkpoint."""
    labels = right_labels(sweep)
    study = Study.open(sweep.parents[1])
    replaced = first(labels)
    parts = study.generations.stored()
    ((part, table),) = list(study.generations.rows(parts))
    old_text = _text(sweep, replaced)
    texts = ["A new text." if text == old_text else text for text in table["response"].to_pylist()]
    part.path.unlink()
    index = table.column_names.index("response")
    changed = table.set_column(index, GENERATIONS.field("response"), pa.array(texts, pa.string()))
    study.generations.write("again", changed, {"engine": "dummy"})
    assert_refused(sweep, write(tmp_path / "mine.csv", labels), "a text that no longer exists", capsys)
    target = TowardsDirection("1" * 16, "epoch-1")
    other = store_sweep(
        sweep.parents[2],
        lambda *_: False,
        respond=lambda *_: "Toward.",
        leave_out=lambda node: node.point.is_origin,
        kind="interpolate_1d",
        towards=(target,),
    )
    response_id = load_study(other).generations.set_index("response").loc["Toward.", "response_id"].iloc[0]
    outside = {key: value for key, value in labels.items() if key != replaced} | {response_id: "complied"}
    assert_refused(sweep, write(tmp_path / "mine.csv", outside), "outside the grids over random directions", capsys)
    capsys.readouterr()
    assert main(["judge", str(other), f"calibrate={tmp_path / 'mine.csv'}"]) == 2
    assert "name a sweep over random directions" in " ".join(capsys.readouterr().err.split())


def _text(sweep: Path, response_id: str) -> str:
    generations = load_study(sweep).generations
    return str(generations.loc[generations["response_id"] == response_id, "response"].iloc[0])
