"""An output that cannot be written ends a command in one sentence, with an exit code that is not 0."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from orchestrator.cli.main import main

pytestmark = pytest.mark.thorough

PLAN = ["plan", "engine=dummy"]
CALLS = [PLAN, [*PLAN, "--json"], ["--help"]]


def closed_pipe() -> io.TextIOWrapper:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


@pytest.mark.parametrize("arguments", CALLS)
@pytest.mark.parametrize(("output", "reason"), [("/dev/full", "No space left on device"), ("pipe", "Broken pipe")])
def test_an_output_that_is_lost_is_told_in_a_sentence(
    arguments: list[str], output: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = closed_pipe() if output == "pipe" else open(output, "w")  # noqa: SIM115 - closed below
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(arguments) == 1
    assert capsys.readouterr().err == f"error: stdout: the output cannot be written there ({reason})\n"
    stream.close()  # writes nothing more


def test_a_mistake_is_told_by_the_exit_code_if_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, closed_pipe())
    assert main(["nothing", "--json"]) == 2


def test_the_process_ends_without_a_traceback() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-P", "-m", "orchestrator", *PLAN]
        buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=buffered, check=False, timeout=120)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done.stderr
