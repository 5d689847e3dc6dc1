"""Attack success rate (ASR) measured so far, drawn as bars of text while a sweep runs."""

from __future__ import annotations

import collections
import contextlib
import math
import time
from collections.abc import Sequence

from rich.text import Text

from orchestrator import judges
from orchestrator.scoring.visit_scores import VisitScores
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.grid import Sweep
from orchestrator.utils.errors import UserError

ROWS = 4  # height of the curve in lines of text
UNICODE_BARS = "·▁▂▃▄▅▆▇█"  # unknown, then heights from 0 to 8 eighths of a row
ASCII_BARS = ".__-==###"


class LiveCurve:
    """Attack success rate by the keyword judge on the first harmful prompt set, or on the first one if none is harmful.

    Reads visits from the study as they are stored, a few at a time, so that the display stays responsive.
    """

    def __init__(self, stored: StoredSweep) -> None:
        first = next((p for p in stored.pooled.sets if p.group == "harmful"), stored.pooled.sets[0])
        shown = [prompts for prompts in stored.prompt_sets if stored.pooled.ids[prompts.id] == first.id]
        self._scores = VisitScores(stored.study, shown, stored.sweep.thought, judges.get("keyword"))
        self._asr: dict[str, float] = {}  # percent, by point id
        self._is_plane = stored.sweep.grid.is_plane
        self._points = _points_by_position(stored.sweep)
        names = {part.path.stem for key, part in stored.generations.items() if stored.pooled.ids[key[1]] == first.id}
        self._unread = collections.deque(sorted(names))

    def add_visit(self, visit: str) -> None:
        """Queue a stored visit for reading, by its id."""
        self._unread.append(visit)

    def read(self, seconds: float = math.inf) -> None:
        """Read queued visits until none is left or `seconds` have passed."""
        until = time.monotonic() + seconds
        while self._unread and time.monotonic() < until:
            with contextlib.suppress(UserError):  # the sweep itself reports a disk that cannot be read
                self._read_visit(self._unread.popleft())

    def _read_visit(self, name: str) -> None:
        self._asr |= {point: asr for (point, _), asr in self._scores.read(name).items()}

    def draw(self, width: int, height: int, unicode: bool) -> Text | None:
        """Return the curve for a terminal of this size, or None if it does not fit."""
        return Text(draw_bars(self.means, width - 10, unicode)) if height > ROWS + 6 else None

    @property
    def means(self) -> list[tuple[float, float | None]]:
        """Pairs of position and mean attack success rate in percent, sorted by position.

        On lines the position is the coefficient, and the mean is None until the point is known on every line. On planes
        the position is the distance from the origin, and the mean is over the known points at about that distance.
        """
        means: list[tuple[float, float | None]] = []
        for position, points in sorted(self._points.items()):
            known = [self._asr[point] for point in points if point in self._asr]
            enough = bool(known) if self._is_plane else len(known) == len(points)
            means.append((position, sum(known) / len(known) if enough else None))
        return means


def _points_by_position(sweep: Sweep) -> dict[float, list[str]]:
    """Return the ids of the grid's points by coefficient or, on planes, by distance from the origin in whole steps."""
    step = (sweep.grid.range[1] - sweep.grid.range[0]) / sweep.grid.steps
    points: dict[float, list[str]] = {}
    for node in sweep.grid.iter_nodes():
        if not node.on_grid:
            continue
        position = node.alpha
        if node.beta is not None:
            position = round(step * round(math.hypot(node.alpha, node.beta) / step), 9)
        points.setdefault(position, []).append(node.point.id)
    return points


def draw_bars(
    means: Sequence[tuple[float, float | None]],
    width: int,
    unicode: bool = True,
    measured: Sequence[bool] | None = None,
) -> str:
    """Draw percentages over positions as bars of text, ROWS high, with a dot for each unknown value.

    Args:
        means: Pairs of position and percentage, sorted; None for an unknown percentage.
        width: Columns available for the bars. If there are more values, every n-th one is drawn, the origin included.
        unicode: Whether the terminal can show block characters.
        measured: Whether each value is measured and not inferred. A row beneath the bars marks those that are. None: no
            row.
    """
    every = math.ceil(len(means) / max(width, 10))
    middle = min(range(len(means)), key=lambda i: abs(means[i][0]))
    indices = [i for i in range(len(means)) if (i - middle) % every == 0]
    kept = [means[i] for i in indices]
    columns = max(1, min(3, width // len(kept)))
    characters = UNICODE_BARS if unicode else ASCII_BARS
    labels = {ROWS - 1: "ASR 100%", 0: "0%"}
    lines = []
    for row in reversed(range(ROWS)):
        bars = "".join(columns * _bar_character(percent, row, characters) for _, percent in kept)
        lines.append(f"{labels.get(row, ''):>8} {bars}".rstrip())
    if measured is not None:
        marks = "".join(columns * ("^" if measured[i] else " ") for i in indices)
        lines.append(f"measured {marks}".rstrip())
    first, last = f"{kept[0][0]:+.2g}", f"{kept[-1][0]:+.2g}"
    return "\n".join([*lines, f"{'':9}{first}{last:>{max(1, columns * len(kept) - len(first))}}"])


def _bar_character(percent: float | None, row: int, characters: str) -> str:
    """Return the character of a bar in a row; row 0 is the lowest."""
    if percent is None:
        return characters[0] if row == 0 else " "
    eighths = round(percent / 100 * 8 * ROWS) - 8 * row
    if eighths <= 0:
        return characters[1] if row == 0 else " "
    return characters[min(8, eighths)]
