"""`run` as it looks on a terminal: a real one, with a real Ray behind it."""

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


def on_a_terminal(*arguments: str) -> tuple[list[list[str]], list[str]]:
    """Run one command line on a terminal: each picture of its screen, and all lines that stay at the end."""
    screen = pyte.HistoryScreen(COLUMNS, ROWS, history=10_000)
    stream = pyte.ByteStream(screen)
    child, terminal = pty.fork()
    if not child:
        os.environ["TERM"] = "xterm-256color"
        os.execv(command()[0], command(*arguments))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    pictures = []
    while True:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # how Linux says that nobody is at the other end any more
            break
        stream.feed(data)
        pictures.append([line.rstrip() for line in screen.display])
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, pictures[-1]
    above = ["".join(line[x].data for x in range(COLUMNS)).rstrip() for line in screen.history.top]
    return pictures, above + [line.rstrip() for line in screen.display]


def test_a_run_on_a_terminal(tmp_path: Path) -> None:
    pictures, stays = on_a_terminal(
        "run", "engine=dummy", "engine.seconds=0.1", "grid.directions=1", "probes.limit=8", f"out={tmp_path}"
    )
    live = ["\n".join(picture) for picture in pictures]
    halfway = re.compile(r"measuring .* \d+ of 21 points .*left\n +1 actor · [\d,]+ tok/s\nASR 100% (.*\n)+ +0% .*█.*·")
    assert any(halfway.search(picture) for picture in live), live[len(live) // 2]

    text = "\n".join(stays)
    assert "measuring" not in text and "\nASR 100%" not in text, "the live display is gone"
    told = text[: text.index("alpha")]  # before the table
    logs = re.search(r"logs: (\S+), (\S+)", told.replace("\n", ""))
    assert logs and Path(logs[2].split("actor")[0]).is_dir(), "where Ray's and the engine's words are"
    known = r"21 tasks at 21 points|logs: |actor .* holds the model|21 of 21 points in |\S*/logs|\S*\.log,|$"
    odd = [line for line in told.splitlines() if not re.match(known, line.strip()) and "/" not in line]
    assert odd == [], "nothing of Ray's or the engine's in between"
    assert "VISAGE" in text
