"""Test the output of `run` on a real terminal, with a real Ray cluster."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from pathlib import Path

import pyte
import pytest

from tests.e2e.conftest import command

pytestmark = pytest.mark.cluster

COLUMNS, ROWS = 80, 30


def run_on_a_terminal(*arguments: str) -> tuple[list[list[str]], list[str]]:
    """Run one command line on a terminal; return every state of its screen, and all lines that remain at the end."""
    screen = pyte.HistoryScreen(COLUMNS, ROWS, history=10_000)
    stream = pyte.ByteStream(screen)
    child, terminal = pty.fork()
    if not child:
        os.environ["TERM"] = "xterm-256color"
        os.execv(command()[0], command(*arguments))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    screens = []
    while True:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # Linux raises it once the other end is closed
            break
        stream.feed(data)
        screens.append([line.rstrip() for line in screen.display])
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, screens[-1]
    above = ["".join(line[x].data for x in range(COLUMNS)).rstrip() for line in screen.history.top]
    return screens, above + [line.rstrip() for line in screen.display]


def test_a_run_on_a_terminal_shows_a_live_display_and_leaves_only_results(tmp_path: Path) -> None:
    screens, remaining = run_on_a_terminal(
        "run", "engine=dummy", "engine.seconds=0.1", "grid.directions=1", "probes.limit=8", f"out={tmp_path}"
    )
    live = ["\n".join(screen) for screen in screens]
    halfway = re.compile(r"measuring .* \d+ of 21 points .*left\n +1 actor · [\d,]+ tok/s\nASR 100% (.*\n)+ +0% .*█.*·")
    assert any(halfway.search(screen) for screen in live), live[len(live) // 2]

    text = "\n".join(remaining)
    assert "measuring" not in text and "\nASR 100%" not in text, "the live display must be gone"
    logged = text[: text.index("alpha")]  # before the table
    logs = re.search(r"logs: (\S+), (\S+)", logged.replace("\n", ""))
    assert logs and Path(logs[2].split("actor")[0]).is_dir(), "the log folder must be named"
    expected = (
        r"21 tasks at 21 points|intervals over new probes$|logs: |actor .* holds the model|21 of 21 points in |"
        r"\S*/logs|\S*\.log,|\S*-ray$|prompts of harmful: bare text|.*' webcams\"$|$"
    )
    unexpected = [line for line in logged.splitlines() if not re.match(expected, line.strip()) and "/" not in line]
    assert unexpected == [], "output of Ray or the engine must not appear in between"
    assert "VISAGE" in text
