"""What people see on stderr while a sweep runs: one live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import collections
import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from orchestrator import judges
from orchestrator.store.study import Study
from orchestrator.sweep.grid import Sweep
from orchestrator.sweep.tasks import PromptSet
from orchestrator.utils.console import PLAIN_EVERY, duration
from orchestrator.utils.errors import UserError

REFRESHES = 4  # of the live display, a second
READING = 0.02  # seconds that a refresh may spend on reading what came
ROWS = 4  # of the curve


@contextlib.contextmanager
def apart(console: Console, log: Path) -> Iterator[Console]:
    """Keep the terminal to the display: whatever else this process, or a library in it, writes to stdout or stderr
    goes to a file. Yields the console that still reaches the terminal.

    Where `console` does not write to this process's own stderr (in a test, in a notebook) nothing is moved.
    """
    try:
        own = console.file.fileno() == 2
    except (OSError, ValueError):
        own = False
    if not own:
        yield console
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(1), os.dup(2)
    with (
        open(log, "ab", buffering=0) as file,
        open(os.dup(2), "w", encoding=console.encoding, errors="replace") as terminal,
    ):
        try:
            _flush()
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            yield Console(file=terminal)
        finally:
            _flush()
            for number, before in zip((1, 2), kept, strict=True):
                os.dup2(before, number)
                os.close(before)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


class Curve:
    """Attack success along the sweep's lines, or on its planes over the distance from the origin, as far as it is
    known, by the keyword judge: read from the disk, bit by bit, while the sweep runs. Of the primary prompt set."""

    def __init__(self, study: Study, sweep: Sweep, prompt_sets: Sequence[PromptSet]) -> None:
        asked = [prompts for prompts in prompt_sets if prompts.group == "harmful"] or list(prompt_sets)
        self._study, self._set = study, asked[0]
        self._judge = judges.get("keyword")
        self._texts = {prompt.id: prompt.text for prompt in self._set.prompts}
        self._asr: dict[str, float] = {}
        self._plane = sweep.grid.is_plane
        step = (sweep.grid.range[1] - sweep.grid.range[0]) / sweep.grid.steps
        self._points: dict[float, list[str]] = {}
        for node in (node for node in sweep.grid.walk() if node.on_grid):
            far = None if node.beta is None else round(step * round(math.hypot(node.alpha, node.beta) / step), 9)
            self._points.setdefault(node.alpha if far is None else far, []).append(node.point.id)
        own = {task.key for task in sweep.tasks() if task.prompt_set_id == self._set.id}
        parts = {part.path.stem for key, part in study.stored().items() if key in own}
        self._waiting = collections.deque(sorted(parts))

    def came(self, visit: str) -> None:
        """A visit is stored under this name."""
        self._waiting.append(visit)

    def read(self, seconds: float = math.inf) -> None:
        """Read what came, for no longer than that."""
        until = time.monotonic() + seconds
        while self._waiting and time.monotonic() < until:
            with contextlib.suppress(UserError):  # a disk that refuses is for the sweep to tell
                self._count(self._waiting.popleft())

    def _count(self, name: str) -> None:
        table = self._study.read_visit(name)
        if table is None:
            return
        frame = table.select(["point_id", "prompt_set_id", "prompt_id", "response"]).to_pandas()
        for point, rows in frame[frame["prompt_set_id"] == self._set.id].groupby("point_id"):
            asked = rows["prompt_id"].map(self._texts)
            said = [self._judge.verdict(*each) for each in zip(asked, rows["response"], strict=True)]
            self._asr[str(point)] = 100 * (1 - said.count("refused") / len(said))

    @property
    def means(self) -> list[tuple[float, float | None]]:
        """(alpha, mean ASR in percent over the lines; None until it is known on each of them), sorted. On planes
        (distance, mean over the points at about that distance of which it is known)."""
        found: list[tuple[float, float | None]] = []
        for alpha, points in sorted(self._points.items()):
            known = [self._asr[point] for point in points if point in self._asr]
            enough = known if self._plane else len(known) == len(points)
            found.append((alpha, sum(known) / len(known) if enough else None))
        return found


class Display:
    """Hears the dispatcher's events and shows points done, speed, time left, actors, failures and the curve so far."""

    def __init__(self, visits: int, console: Console | None = None, curve: Curve | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._curve = curve
        self._total, self._done, self._tokens, self._failed, self._given_up = visits, 0, 0, 0, 0
        self._loading: set[int] = set()
        self._ready: set[int] = set()
        self._state = "starting Ray and the engine"
        self._began = time.monotonic()
        self._first: float | None = None
        self._said = time.monotonic()
        self._bar = Progress(
            SpinnerColumn("dots" if self._fancy else "line"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,} of {task.total:,} points"),
            TextColumn("{task.fields[time]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(self._state, total=visits, time="")
        self._live = Live(
            get_renderable=self._picture, console=self._console, transient=True, refresh_per_second=REFRESHES
        )

    @property
    def _fancy(self) -> bool:
        return self._console.encoding.lower().startswith("utf")

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        if self._done:
            seconds = time.monotonic() - self._began
            self.say(f"{self._done:,} of {self._total:,} points in {duration(seconds)}, {', '.join(self._facts())}")

    def observe(self, event: str, **fields: Any) -> None:
        """Take one event of the dispatcher's."""
        slot = fields.get("slot", -1)
        match event:
            case "actor_starting":
                self._loading.add(slot)
            case "actor_ready":
                self._loading.discard(slot)
                self._ready.add(slot)
                self._first = self._first or time.monotonic()
                self._state = "measuring"
                self.say(f"actor {fields['actor']} holds the model (loaded in {duration(fields['load_seconds'])})")
            case "visit_done":
                self._done += 1
                self._tokens += fields["tokens"]
                if self._curve is not None and self._console.is_terminal:
                    self._curve.came(fields["visit"])
                self._plain_line()
            case "visit_failed" | "actor_died" | "actor_failed_to_start":
                self._failed += 1
                if event != "visit_failed":
                    self._loading.discard(slot)
                    self._ready.discard(slot)
                last = (fields["why"].strip().splitlines() or ["no reason given"])[-1]
                self.say(f"{event.replace('_', ' ')}: {last}")
            case "visit_quarantined":
                self._given_up += 1
                self.say(f"given up after {len(fields['story'])} tries: point {fields['point_id']}")
            case "stopping":
                self._state = "stopping"
                self.say(f"{fields['signal']}: letting running visits finish; once more stops at once")

    def say(self, text: str) -> None:
        """A line that stays, above what is live."""
        self._said = time.monotonic()
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _plain_line(self) -> None:
        if self._console.is_terminal or time.monotonic() - self._said <= PLAIN_EVERY:
            return
        self.say(", ".join([f"{self._done:,} of {self._total:,} points", *self._facts(), self._left()]))

    def _facts(self) -> list[str]:
        """Speed and failures."""
        seconds = time.monotonic() - (self._first or self._began)
        facts = [f"{self._tokens / max(seconds, 1e-9):,.0f} tok/s"]
        if self._failed:
            facts.append(f"{self._failed} failure{'s' * (self._failed > 1)}")
        return [*facts, *([f"{self._given_up} given up"] if self._given_up else [])]

    def _left(self) -> str:
        seconds = time.monotonic() - (self._first or self._began)
        return f"{duration(seconds / self._done * (self._total - self._done))} left" if self._done else ""

    # The live display.

    def _picture(self) -> RenderableType:
        gone = duration(time.monotonic() - self._began)
        left = self._left()
        self._bar.update(
            self._task, completed=self._done, description=self._state, time=f"{gone}, {left}" if left else gone
        )
        facts = [f"{len(self._ready)} actor{'s' * (len(self._ready) != 1)}"] if self._ready else []
        facts += [f"{len(self._loading)} loading"] if self._loading else []
        facts += self._facts() if self._done else []
        between = " · " if self._fancy else ", "
        lines: list[RenderableType] = [self._bar, Text(f"  {between.join(facts)}", style="dim")]
        if self._curve is not None:
            self._curve.read(READING)
            if self._console.height > ROWS + 6:
                lines.append(Text(bars(self._curve.means, self._console.width - 10, self._fancy)))
        return Group(*lines)


def bars(means: Sequence[tuple[float, float | None]], width: int, fancy: bool = True) -> str:
    """Percentages over alpha as bars of text, ROWS high; a dot where nothing is known yet."""
    every = math.ceil(len(means) / max(width, 10))
    middle = min(range(len(means)), key=lambda i: abs(means[i][0]))
    kept = [mean for i, mean in enumerate(means) if (i - middle) % every == 0]
    wide = max(1, min(3, width // len(kept)))
    heights = "·▁▂▃▄▅▆▇█" if fancy else ".__-==###"

    def column(percent: float | None, row: int) -> str:
        if percent is None:
            return heights[0] if row == 0 else " "
        eighths = round(percent / 100 * 8 * ROWS) - 8 * row
        if eighths <= 0:
            return heights[1] if row == 0 else " "
        return heights[min(8, eighths)]

    names = {ROWS - 1: "ASR 100%", 0: "0%"}
    lines = [
        f"{names.get(row, ''):>8} {''.join(wide * column(percent, row) for _, percent in kept)}".rstrip()
        for row in reversed(range(ROWS))
    ]
    first, last = f"{kept[0][0]:+.2g}", f"{kept[-1][0]:+.2g}"
    return "\n".join([*lines, f"{'':9}{first}{last:>{max(1, wide * len(kept) - len(first))}}"])
