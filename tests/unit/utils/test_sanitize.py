"""Texts cannot control the terminal, whichever way they are printed."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from orchestrator.utils import logs
from orchestrator.utils.safe_console import SafeConsole
from orchestrator.utils.sanitize import SafeStream, safe_output, sanitize

EVIL = "\x1b]0;owned\x07\x1b[2Jx\r\x9b31m\u202egnp\x7f"
SHOWN = "\\u001b]0;owned\\u0007\\u001b[2Jx\\u000d\\u009b31m\\u202egnp\\u007f"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(st.text())
def test_what_is_left_is_printable_and_can_be_encoded(text: str) -> None:
    safe = sanitize(text)
    assert all(char in "\n\t" or not re.match(r"[\x00-\x1f\x7f-\x9f]", char) for char in safe)
    safe.encode()
    assert sanitize(safe) == safe


def test_json_stays_the_same_json() -> None:
    text = json.dumps({"name": EVIL}, ensure_ascii=False)
    assert json.loads(sanitize(text)) == {"name": EVIL}


def test_print_and_logging_are_sanitized(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with safe_output():
        print(f"a {EVIL}", file=sys.stdout)
        print(f"b {EVIL}", file=sys.stderr)
    assert (out.getvalue(), err.getvalue()) == (f"a {SHOWN}\n", f"b {SHOWN}\n")
    assert sys.stdout is out
    logs.configure()
    logging.getLogger("orchestrator").warning("c %s", EVIL)
    assert err.getvalue().endswith(f"c {SHOWN}\n")


def test_a_librarys_progress_bar_still_moves() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        for text in ("\r 50%|## | x\x1b[31m", "\n", "\x1b[A", "\r        \r"):
            SafeStream(stream).write(text)
    assert terminal.getvalue() == "\r 50%|## | x\\u001b[31m\n\x1b[A\r        \r"
    assert "\x1b" not in file.getvalue()


def test_a_consoles_own_colors_stay_and_those_of_texts_do_not() -> None:
    terminal = Terminal()
    console = SafeConsole(file=terminal)
    table = Table(EVIL)
    table.add_row(Text(EVIL, style="bold"))
    console.print(table)
    console.print(f"[red]{EVIL}")
    with Progress(TextColumn("{task.description}"), console=console) as bar:
        bar.add_task(EVIL)
    left = re.sub(r"\x1b\[[0-9;?]*[mhlAK]|\r", "", terminal.getvalue())  # what Rich itself writes
    assert "\x1b[" in terminal.getvalue() and "[red]" in left
    assert sanitize(left) == left and "\\u001b]0;owned" in left


def test_a_console_on_a_safe_stream_writes_to_the_terminal_itself() -> None:
    terminal = Terminal()
    SafeConsole(file=SafeStream(terminal)).print(Text("x", style="bold"))  # type: ignore[arg-type]
    assert terminal.getvalue() == "\x1b[1mx\x1b[0m\n"


def test_every_console_of_the_program_is_a_safe_one() -> None:
    root = Path(__file__).parents[3]
    files = [*root.glob("orchestrator/**/*.py"), *root.glob("workers/**/*.py")]
    with_others = {file.name for file in files if re.search(r"\bConsole\(", file.read_text(encoding="utf-8"))}
    assert not with_others, "use SafeConsole"
