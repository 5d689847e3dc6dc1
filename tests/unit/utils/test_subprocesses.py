"""Modules run in subprocesses: JSON requests, failures and output that is shown."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orchestrator.utils.subprocesses import first_line, run_module, run_python

ECHO = """
import os, sys
from orchestrator.utils.subprocesses import serve_module

def respond(request):
    print("a library's note")
    return {"request": request, "mark": os.environ["MARK"]}

serve_module(respond)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which subprocesses import modules."""
    root = str(Path(__file__).parents[3])
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
    return tmp_path


def test_output_of_libraries_is_not_part_of_the_response(folder: Path) -> None:
    (folder / "echo.py").write_text(ECHO)
    assert run_module("echo", {"a": [1]}, {"MARK": "x"}, 60) == {"request": {"a": [1]}, "mark": "x"}


def test_a_failure_message_ends_with_the_output_of_the_process(folder: Path) -> None:
    (folder / "fails.py").write_text("import sys; sys.exit('no such thing')")
    with pytest.raises(RuntimeError, match=r"(?s)-m fails failed with 1:\nno such thing"):
        run_python("fails")
    assert run_python("fails", check=False).returncode == 1


def test_a_process_that_exceeds_its_timeout_is_ended(folder: Path) -> None:
    (folder / "sleeps.py").write_text("import time; time.sleep(60)")
    with pytest.raises(subprocess.TimeoutExpired):
        run_python("sleeps", timeout=0.5)


def test_a_stream_that_is_shown_appears_on_stderr(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "talks.py").write_text("import sys; print('out'); print('err', file=sys.stderr)")
    completed = run_python("talks", show="stdout")
    assert (completed.stdout, completed.stderr) == (None, b"err\n")
    completed = run_python("talks", show="stderr")
    assert (completed.stdout, completed.stderr) == (b"out\n", None)
    assert capfd.readouterr() == ("", "out\nerr\n")


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError("abc"), 2) == "ab"
    assert first_line(ValueError()) == "ValueError"
