"""What people see while a sweep runs: on a terminal, in a pipe, and what libraries may not do to it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pyte
import pytest
from rich.console import Console

import orchestrator.utils.console
from orchestrator.execution.progress import Curve, Display, apart, bars
from orchestrator.store.study import Study
from orchestrator.sweep.grid import Sweep
from orchestrator.utils.console import reading
from tests.unit.stored import basin, store_sweep

READY = {"slot": 0, "actor": "host-1", "load_seconds": 12.3}


class Terminal(io.StringIO):
    """A file that is a terminal, and what stands on its screen."""

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_sweep(tmp_path_factory.mktemp("studies"), basin(0.25, slack=0), directions=2)


def curve(folder: Path) -> Curve:
    study = Study.open(folder.parents[1])
    record = study.read_sweep(folder)
    sweep = Sweep.from_json(record["request"], record["name"])
    return Curve(study, sweep, [study.read_prompt_set(set_id) for set_id in sweep.prompt_set_ids])


def done(**fields: object) -> dict[str, object]:
    return {"slot": 0, "visit": "v", "tokens": 1000, **fields}


def test_a_terminal_has_one_display_that_is_gone_at_the_end(folder: Path) -> None:
    terminal = Terminal()
    with Display(200, terminal.console, curve(folder)) as display:
        display.observe("actor_starting", slot=0)
        display.observe("actor_starting", slot=1)
        display.observe("actor_ready", **READY)
        for _ in range(50):
            display.observe("visit_done", **done())
        display.observe("actor_died", slot=1, why="Traceback\nRayActorError: it died")
        display.observe("visit_quarantined", story=["a", "b", "c"], point_id="abc")
        display._live.refresh()
        shown = terminal.lines
        assert shown[0] == "actor host-1 holds the model (loaded in 12 s)"
        assert shown[1:3] == ["actor died: RayActorError: it died", "given up after 3 tries: point abc"]
        assert "measuring" in shown[3] and "50 of 200 points" in shown[3] and shown[3].endswith("left")
        assert re.fullmatch(r"  1 actor · [\d,]+ tok/s · 1 failure · 1 given up", shown[4])
        assert shown[5].startswith("ASR 100% ███") and shown[8].startswith("      0% ███") and "▁▁▁" in shown[8]
        assert shown[9].split() == ["-0.5", "+0.5"]
    *said, last = terminal.lines
    assert said == shown[:3], "what was live is gone"
    assert re.fullmatch(r"50 of 200 points in .*s, [\d,]+ tok/s, 1 failure, 1 given up", last)


def test_a_pipe_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.execution.progress.PLAIN_EVERY", -1.0)
    file = io.StringIO()
    with Display(4, Console(file=file, width=80)) as display:
        display.observe("actor_ready", **READY)
        for _ in range(4):
            display.observe("visit_done", **done())
    lines = file.getvalue().splitlines()
    assert "\x1b" not in file.getvalue() and len(lines) == 6
    assert re.fullmatch(r"2 of 4 points, [\d,]+ tok/s, .* s left", lines[2])
    assert lines[-1].startswith("4 of 4 points in ")


def test_nothing_done_is_nothing_said_at_the_end() -> None:
    file = io.StringIO()
    with Display(4, Console(file=file)):
        pass
    assert file.getvalue() == ""


def test_the_curve_is_what_is_stored_so_far(folder: Path) -> None:
    told = curve(folder)
    assert {asr for _, asr in told.means} == {None}, "nothing was read yet"
    told.read()
    study = Study.open(folder.parents[1])
    landscape, _ = study.read_landscape(folder)
    means = landscape.groupby("alpha")["asr"].mean()
    assert dict(told.means) == pytest.approx(means.to_dict())
    told.came("no such visit")
    told.read()
    assert dict(told.means) == pytest.approx(means.to_dict())


def test_a_plane_is_told_over_the_distance(tmp_path: Path) -> None:
    grid = {"kind": "random_2d", "directions": 1}
    far = store_sweep(tmp_path, basin(0.31, slack=0), leave_out=lambda node: node.alpha > 0.35, **grid)
    told = curve(far)
    told.read()
    means = dict(told.means)
    assert means[0.0] == 0.0 and means[0.1] == 0.0 and means[0.5] == 100.0
    assert min(means) == 0.0 and 0.6 < max(means) < 0.8


def test_bars_fit_and_keep_the_origin() -> None:
    means = [(i / 100, None if i % 2 else 100.0 * abs(i) / 50) for i in range(-50, 51)]
    for width in (12, 40, 200):
        lines = bars(means, width).splitlines()
        assert len(lines) == 5 and max(map(len, lines)) <= width + 9
    assert bars([(-0.1, 100.0), (0.0, 0.0), (0.1, None)], 9, fancy=False).splitlines() == [
        "ASR 100% ###",
        "         ###",
        "         ###",
        "      0% ###___...",
        "         -0.1 +0.1",
    ]


NOISY = """
import os, sys
from pathlib import Path
from rich.console import Console
from orchestrator.execution.progress import apart
with apart(Console(stderr=True), Path(sys.argv[1])) as console:
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
def test_what_libraries_write_goes_to_a_file(fails: list[str], tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.log"
    said = subprocess.run([sys.executable, "-c", NOISY, str(log), *fails], capture_output=True, text=True, check=False)
    if fails:
        assert (said.stdout, said.stderr) == ("", "of its own\n"), "who fails is heard"
    else:
        assert (said.stdout, said.stderr) == ("result\n", "ours\nafterwards\n")
    assert log.read_text().splitlines() == ["(raylet) a library's own words", "printed", "complained"]


def test_another_console_is_left_alone(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    with apart(console, tmp_path / "log") as given:
        assert given is console
        os.write(1, b"")
    assert list(tmp_path.iterdir()) == []


def test_a_pass_over_the_weights_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    with reading(screen, "the weights of m") as progress:
        progress(0.5)
        progress(0.75)
    assert "reading the weights of m" in screen.getvalue() and screen.lines == [], "gone at the end"
    pipe = io.StringIO()
    with reading(pipe, "the weights of m") as progress:
        progress(0.25)
        assert pipe.getvalue() == "", "too early for a line"
        monkeypatch.setattr(orchestrator.utils.console, "PLAIN_EVERY", 0.0)
        progress(0.5)
    assert re.fullmatch(r"reading the weights of m: 50%, 0\.\d s left\n", pipe.getvalue())
    quiet = io.StringIO()
    with reading(quiet, "what was remembered"):
        pass
    assert quiet.getvalue() == ""
