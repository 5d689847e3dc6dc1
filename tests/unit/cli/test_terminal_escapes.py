"""No verb passes control characters of a stranger's study, file name or preset on to the terminal."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from tests.unit.stored import basin, store_sweep

pytestmark = pytest.mark.thorough


EVIL = "m\x1b]0;owned\x07\x1b[2J\x9b2J\u202ex"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Return a sweep of a study whose model, system prompt and probe set are named by a stranger."""
    path = store_sweep(tmp_path / "studies", basin(0.2), EVIL, system_prompt=EVIL, probe_set=EVIL)
    (path.parents[1] / "generations" / f"{EVIL}.parquet").write_text("no Parquet")
    (path.parents[1] / EVIL).write_text("no part of a study")
    return path


VERBS = {
    "status": ["status", "{studies}"],
    "verify": ["verify", "{studies}"],
    "verify --json": ["verify", "{studies}", "--json"],
    "compact": ["compact", "{studies}"],
    "reduce": ["reduce", "{sweep}"],
    "reduce --json": ["reduce", "{sweep}", "--json"],
    "report": ["report", "{sweep}"],
    "judge": ["judge", "{sweep}"],
    "compare": ["compare", "{sweep}", "{sweep}"],
    "gate": ["gate", "{sweep}", "visage=70"],
    "view": ["view", f"{{studies}}/{EVIL}"],
    "plan": ["plan", "engine=dummy", f"out={{studies}}/{EVIL}/x", f"model.path={EVIL}"],
    "unknown option": ["plan", f"{EVIL}=1"],
    "unknown verb": [EVIL],
}


@pytest.mark.filterwarnings("ignore:Glyph")  # figures draw them as boxes
@pytest.mark.parametrize("name", VERBS)
def test_no_verb_prints_control_characters(sweep: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([argument.format(sweep=sweep, studies=sweep.parents[2]) for argument in VERBS[name]])
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    assert printed
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", printed), ascii(printed)


def test_a_traceback_is_sanitized_too() -> None:
    code = (
        "import sys; from orchestrator.cli import main\n"
        "def fail(arguments): raise RuntimeError('\\x1b[2J')\n"
        "main._run = fail; main.entry()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr and "\\u001b[2J" in done.stderr and "\x1b" not in done.stderr
