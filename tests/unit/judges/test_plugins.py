"""A user's judge is a file or an installed package. Its verdicts can be read where its code is not."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import judges
from orchestrator.cli.main import main
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from tests.unit.packages import declare, forget_packages
from tests.unit.stored import basin, store_sweep

pytestmark = pytest.mark.thorough


HOW_TO = Path(__file__).parents[3] / "docs" / "howto" / "judge.md"


@pytest.fixture(autouse=True)
def no_plugins_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the judges that a test loads, and skip figures and report, which take longer than the tests."""
    monkeypatch.setattr("orchestrator.pipeline.reduce.draw_figures", lambda *_: None)
    monkeypatch.setattr("orchestrator.pipeline.reduce.write_report", lambda *_: None)
    yield
    forget()


def forget() -> None:
    """Forget all loaded judges, as a new process would."""
    judges._added.clear()
    forget_packages()


def how_to_file(folder: Path) -> Path:
    """Write the judge of the how-to page to a file."""
    (code,) = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    path = folder / "question.py"
    path.write_text(code, encoding="utf-8")
    return path


def sweep(out: Path) -> Path:
    """Store a line of 5 points and 6 probes, on which nothing asks back."""
    return store_sweep(out, basin(0.25), probes=tuple("abcdef"), directions=1, steps=4)


def summary(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_file_of_the_how_to_judges_and_is_read_without_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = sweep(tmp_path / "out"), how_to_file(tmp_path)
    first = summary(capsys, "judge", str(folder), "judges=[question,keyword]", f"judge.path={file}")
    assert first["primary"]["judge"] == "question" and first["points_done"] == first["points_total"]
    by_name = {judge["judge"]: judge for judge in first["judges"]}
    assert by_name["question"]["sets"][0]["verdicts"] == {"refused": 0, "complied": 30}
    assert first["agreement"][0]["n"] == 30
    (judged,) = (path for path in folder.parent.iterdir() if path != folder)
    forget()
    assert main(["reduce", str(judged)]) == 0
    assert main(["gate", str(judged), "radius=0", "allow_single=true"]) == 0
    again = summary(capsys, "judge", str(judged))
    assert [judge["judge_id"] for judge in again["judges"]] == [judge["judge_id"] for judge in first["judges"]]


def test_the_id_follows_the_content_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = sweep(tmp_path / "out"), how_to_file(tmp_path)
    ids = []
    for code in (file.read_text(encoding="utf-8"), file.read_text(encoding="utf-8").replace('"?"', '"."')):
        file.write_text(code, encoding="utf-8")
        (judge,) = summary(capsys, "judge", str(folder), f"judge.path={file}")["judges"]
        ids.append(judge["judge_id"])
    assert judge["sets"][0]["verdicts"] == {"refused": 30, "complied": 0}
    study = Study.open(folder.parents[1])
    assert ids[0] != ids[1] and set(ids) <= set(study.judge_ids())
    (other,) = (path for path in folder.parent.iterdir() if path != folder)
    description = SweepFolder(study, other).read_description("question")
    assert description is not None and description.judge_id == ids[1] and description.origin == "question.py"
    forget()
    (judge,) = summary(capsys, "reduce", str(other))["judges"]
    assert judge["judge_id"] == ids[1], "the code that judged last counts"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            "class Question",
            "1 / 0\n\n\nclass Question",
            r"raises ZeroDivisionError \(division by zero\) in line 6 when",
        ),
        ("class Question(Judge):", "class Question(Judge)", r"raises SyntaxError \(expected ':'\) in line 6"),
        ("JUDGE = Question()", "", "defines no JUDGE"),
        ("JUDGE = Question()", "JUDGE = Question", "JUDGE is a class"),
        ("JUDGE = Question()", "JUDGE = 3", "no instance of a subclass"),
        ('name = "question"', 'name = "keyword"', "the name of a judge or column of this program"),
        ('name = "question"', 'name = "My judge"', "lower-case letters"),
        ("version = 1", 'version = "1"', "whole number from 1"),
        ('("refused", "complied")', '"refused"', "a tuple of texts"),
        ("response.rstrip()", "str(1 / 0)", r"raises ZeroDivisionError .* mend question.py"),
        ('else "complied"', 'else "fine"', r"returns 'fine', which is none of its verdicts \(refused, complied\)"),
        ("response.rstrip()", "response[-2]", r"raises IndexError .*'Say hello.' and ''"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, why: str
) -> None:
    file = how_to_file(tmp_path)
    code = file.read_text(encoding="utf-8")
    assert old in code
    file.write_text(code.replace(old, new), encoding="utf-8")
    assert main(["plan", "engine=dummy", f"judge.path={file}"]) == 2
    error = capsys.readouterr().err
    assert "question.py" in error and re.search(why, error), error
    assert not (tmp_path / "__pycache__").exists()


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "engine=dummy", f"judge.path={tmp_path / 'none.py'}"]) == 2
    assert "none.py: cannot be read (No such file or directory)" in capsys.readouterr().err
    assert main(["plan", "engine=dummy", "judge=question"]) == 2
    assert "your own: judge.path=FILE" in capsys.readouterr().err


def test_a_judge_that_fails_on_a_stored_response_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = sweep(tmp_path / "out"), how_to_file(tmp_path)
    code = file.read_text(encoding="utf-8")
    file.write_text(code.replace("return", 'assert "list" not in response\n        return', 1), encoding="utf-8")
    assert main(["judge", str(folder), f"judge.path={file}"]) == 2
    assert "raises AssertionError in line" in capsys.readouterr().err


def test_a_judge_of_an_installed_package_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = how_to_file(tmp_path)
    site = tmp_path / "site"
    site.mkdir()
    declare(site, "my-judges", judges.ENTRY_POINTS, "question = my_judges")
    (site / "my_judges.py").write_bytes(file.read_bytes())
    with monkeypatch.context() as patched:
        patched.syspath_prepend(site)
        forget()
        assert "question" in judges.names()
        folder = sweep(tmp_path / "out")
        (judge,) = summary(capsys, "judge", str(folder), "judge=question")["judges"]
        (site / "my_judges.py").write_text("raise RuntimeError('broken')", encoding="utf-8")
        forget()
        monkeypatch.delitem(sys.modules, "my_judges")
        assert main(["judge", str(folder), "judge=question"]) == 2
        error = capsys.readouterr().err
        assert f"raises RuntimeError (broken) in line 1 of {site / 'my_judges.py'} when it is imported" in error
        assert "package my-judges" in error
    file_judge = judges.add_file(file)
    assert judge["judge_id"] == file_judge.id, "the same content is the same judge"
