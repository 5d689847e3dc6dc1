"""Progress of a running sweep on a terminal and in a pipe, and redirected output of libraries."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pyte
import pytest
from rich.console import Console

import orchestrator.utils.console
from orchestrator.execution.progress import ProgressDisplay, redirect_output
from orchestrator.utils import logs
from orchestrator.utils.console import file_progress
from tests.unit.execution.test_live_curve import stored_curve
from tests.unit.stored import basin, store_sweep

READY = {"slot": 0, "actor": "host-1", "load_seconds": 12.3}


class Terminal(io.StringIO):
    """A terminal in memory; `lines` is the text on its screen."""

    def __init__(self, columns: int = 90, rows: int = 24) -> None:
        super().__init__()
        self._screen = pyte.Screen(columns, rows)
        self.console = Console(file=self, width=columns, height=rows, force_terminal=True)

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        pyte.Stream(self._screen).feed(text.replace("\n", "\r\n"))
        return super().write(text)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display if line.strip()]


def visit_fields(**fields: object) -> dict[str, object]:
    return {"slot": 0, "visit": "v", "tokens": 1000, **fields}


def test_the_live_display_disappears_at_the_end(tmp_path: Path) -> None:
    curve = stored_curve(store_sweep(tmp_path, basin(0.25, slack=0), directions=2))
    terminal = Terminal()
    with ProgressDisplay(200, terminal.console, curve) as display:
        display.observe("actor_starting", slot=0)
        display.observe("actor_starting", slot=1)
        display.observe("actor_ready", **READY)
        for _ in range(50):
            display.observe("visit_done", **visit_fields())
        display.observe("actor_died", slot=1, why="Traceback\nRayActorError: it died")
        display.observe("visit_quarantined", story=["a", "b", "c"], point_id="abc")
        display._live.refresh()
        lines = terminal.lines
        assert lines[0] == "actor host-1 holds the model (loaded in 12 s)"
        assert lines[1:3] == ["actor died: RayActorError: it died", "given up after 3 tries: point abc"]
        assert "measuring" in lines[3] and "50 of 200 points" in lines[3] and lines[3].endswith("left")
        assert re.fullmatch(r"  1 actor · [\d,]+ tok/s · 1 failure · 1 given up", lines[4])
        assert lines[5].startswith("ASR 100% ███") and lines[8].startswith("      0% ███") and "▁▁▁" in lines[8]
        assert lines[9].split() == ["-0.5", "+0.5"]
    *remaining, summary = terminal.lines
    assert remaining == lines[:3], "only the lines above the live display are kept"
    assert re.fullmatch(r"50 of 200 points in .*s, [\d,]+ tok/s, 1 failure, 1 given up", summary)


def test_the_use_of_the_actors_is_told_if_verdicts_have_added_points() -> None:
    totals = {"visits": 9, "ready_seconds": 80.0, "idle_seconds": 20.0, "speculative": 3, "unneeded": 1}
    for added in (0, 4):
        file = io.StringIO()
        with ProgressDisplay(5, Console(file=file, width=80)) as display:
            if added:
                display.observe("visits_added", visits=added, speculative=3)
            display.observe("visit_done", **visit_fields())
            display.observe("dispatch_finished", **totals)
        lines = file.getvalue().splitlines()
        assert lines[-1].startswith(f"1 of {5 + added} points")
        told = "actors were idle 25% of the time; 3 points begun on speculation, 1 not needed" in lines
        assert told == bool(added)


def test_a_pipe_receives_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.execution.progress.PLAIN_EVERY", -1.0)
    file = io.StringIO()
    with ProgressDisplay(4, Console(file=file, width=80)) as display:
        display.observe("actor_ready", **READY)
        for _ in range(4):
            display.observe("visit_done", **visit_fields())
    lines = file.getvalue().splitlines()
    assert "\x1b" not in file.getvalue() and len(lines) == 6
    assert re.fullmatch(r"2 of 4 points, [\d,]+ tok/s, .* s left", lines[2])
    assert lines[-1].startswith("4 of 4 points in ")


def test_without_a_completed_visit_there_is_no_summary() -> None:
    file = io.StringIO()
    with ProgressDisplay(4, Console(file=file)):
        pass
    assert file.getvalue() == ""


NOISY = """
import os, sys
from pathlib import Path
from rich.console import Console
from orchestrator.execution.progress import redirect_output
with redirect_output(Console(stderr=True), Path(sys.argv[1])) as console:
    os.write(2, b"(raylet) a library's own words\\n")
    print("printed")
    print("complained", file=sys.stderr)
    if sys.argv[2:]:
        raise SystemExit("of its own")
    console.print("ours")
print("result")
print("afterwards", file=sys.stderr)
"""


@pytest.mark.parametrize("fails", [[], ["fails"]])
def test_output_of_libraries_goes_to_a_file(fails: list[str], tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.log"
    completed = subprocess.run(
        [sys.executable, "-c", NOISY, str(log), *fails], capture_output=True, text=True, check=False
    )
    if fails:
        assert (completed.stdout, completed.stderr) == ("", "of its own\n"), "an error reaches the terminal"
    else:
        assert (completed.stdout, completed.stderr) == ("result\n", "ours\nafterwards\n")
    written = log.read_text().splitlines()  # stdout may be buffered, stderr is not
    assert written[0] == "(raylet) a library's own words" and sorted(written[1:]) == ["complained", "printed"]


def test_a_full_disk_behind_stderr_ends_nothing(tmp_path: Path) -> None:
    safe = f"from orchestrator.utils.sanitize import safe_output\nwith safe_output():\n{textwrap.indent(NOISY, '    ')}"
    command = [sys.executable, "-c", safe, str(tmp_path / "run.log")]
    with open("/dev/full", "w") as full:
        completed = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, check=False)
    assert (completed.returncode, completed.stdout) == (0, "result\n")
    assert "printed" in (tmp_path / "run.log").read_text()


def test_a_console_that_is_not_stderr_is_not_redirected(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    with redirect_output(console, tmp_path / "log") as yielded:
        assert yielded is console
        os.write(1, b"")
    assert list(tmp_path.iterdir()) == []


def test_reading_the_weights_shows_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    logs.configure()  # messages are hidden before
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with file_progress("the weights of m") as progress:
        progress(0.5)
        progress(0.75)
    assert "reading the weights of m" in screen.getvalue() and screen.lines == [], "gone at the end"
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    with file_progress("the weights of m") as progress:
        progress(0.25)
        assert pipe.getvalue() == "", "too early for a line"
        monkeypatch.setattr(orchestrator.utils.console, "PLAIN_EVERY", 0.0)
        progress(0.5)
    assert re.fullmatch(r"reading the weights of m: 50%, 0\.\d s left\n", pipe.getvalue())
    quiet = io.StringIO()
    monkeypatch.setattr(sys, "stderr", quiet)
    with file_progress("remembered results"):
        pass
    assert quiet.getvalue() == ""


def test_responses_read_at_the_origin_are_counted_after_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.execution.progress.PLAIN_EVERY", -1.0)
    file = io.StringIO()
    with ProgressDisplay(1, Console(file=file, width=80)) as display:
        display.observe("actor_ready", **READY)
        display.observe("visit_done", **visit_fields())
        display.observe("continuations_queued", continuations=100)
        display.observe("continuations_done", slot=0, batch="b", continuations=64, tokens=640, seconds=1.0)
        display.observe("continuations_failed", slot=0, batch="c", why="Traceback\nRuntimeError: no memory")
        display.observe("continuations_given_up", batch="c", story=["a", "b"])
    lines = file.getvalue().splitlines()
    assert re.fullmatch(r"1 of 1 points in .*s, 1?[\d,]+ tok/s", lines[2])
    assert re.fullmatch(r"64 of 100 responses, [\d,]+ tok/s, .*s left", lines[3])
    assert lines[4:6] == [
        "continuations failed: RuntimeError: no memory",
        "given up after 2 tries: responses to read at the origin",
    ]
    assert re.fullmatch(r"64 of 100 responses in .*s, [\d,]+ tok/s, 1 failure", lines[6])
