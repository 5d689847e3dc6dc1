"""The picture of an adaptive grid in a terminal sharpens while the grid refines."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.analysis.adaptive.rule import RULE_VERSION
from orchestrator.analysis.requested import AdaptiveGrid
from orchestrator.execution.live_surface import LiveSurface
from orchestrator.sweep.grid import Adaptive, Grid
from orchestrator.sweep.points import Point
from orchestrator.utils.choices import GridKind


class Run:
    """A run of a simulated basin; `show` returns the lines of the picture. Each call is a minute after the last."""

    def __init__(self, kind: GridKind, steps: int, directions: int = 1) -> None:
        chosen = Adaptive("keyword", RULE_VERSION)
        self.grid = AdaptiveGrid(Grid(kind, steps=steps, directions=directions, adaptive=chosen))
        self.counts: dict[str, tuple[int, int]] = {}
        self.begun: set[Point] = set()
        self.now = 0.0
        self._surface = LiveSurface(self.grid, self.counts, self.begun, lambda: self.now)

    def level(self, measure: bool = True) -> None:
        """Begin the nodes that the rule asks for, and measure them: refusals up to a third of the axis."""
        for line in self.grid.lines:
            half = line.shape.sizes[0] // 2
            for node in line.refine(self.counts).missing:
                self.begun.add(line.points[node])
                if measure:
                    near = all(3 * abs(i - half) <= 2 * half for i in node)
                    self.counts.setdefault(line.points[node].id, (0 if near else 40, 40))

    def show(self, width: int = 80, height: int = 40, unicode: bool = True) -> list[str]:
        self.now += 60
        text = self._surface.draw(width, height, unicode)
        return [] if text is None else text.plain.splitlines()


def test_a_plane_sharpens_and_tells_measured_inferred_and_waiting_points_apart() -> None:
    run = Run(GridKind.random_2d, 8)
    assert run.show() == ["measured 0 of 81 points, 0 under way or waiting, 81 visits saved so far"]
    run.level()
    coarse = run.show()
    assert coarse[0] == "measured 25 of 81 points, 0 under way or waiting, 56 visits saved so far"
    assert coarse[1].startswith(" +0.500 |██") and coarse[1].count(".") == 5, "every second point is inferred"
    assert coarse[5][9:].count("+") == 1 and "." in coarse[5], "the origin, between inferred points"
    run.level(measure=False)
    waiting = run.show()
    assert sum(row.count("?") for row in waiting[1:-2]) == 5 and "5 under way or waiting, 51" in waiting[0]
    run.level()
    fine = run.show()
    assert sum(row[9:].count(".") for row in fine[1:-2]) < sum(row[9:].count(".") for row in coarse[1:-2])
    assert fine[-1].endswith(". inferred  ? under way  + origin")


def test_a_line_has_its_measured_points_marked_beneath() -> None:
    run = Run(GridKind.random_1d, 16, directions=2)
    run.level()
    rows = run.show()
    assert rows[-2] == "measured " + "   ".join(["^^^"] * 9)
    assert rows[-1].split() == ["-0.5", "+0.5"]
    run.level()
    assert run.show()[-2].count("^^^") > 9


@pytest.mark.parametrize("kind", [GridKind.random_1d, GridKind.random_2d])
def test_the_picture_fits_any_terminal(kind: GridKind, tmp_path: Path) -> None:
    run = Run(kind, 20)
    run.level()
    for width, height in ((20, 3), (60, 10), (80, 24), (200, 60)):
        rows = run.show(width, height, unicode=False)
        assert len(rows) <= height - 3 and all(len(row) <= max(width, 80) for row in rows)
        assert "\n".join(rows).isascii()


def test_the_picture_is_computed_once_a_second() -> None:
    run = Run(GridKind.random_1d, 16)
    run.level()
    before = run.show()
    run.level()
    run.now -= 60
    assert run.show() == before and run.show() != before


def test_a_picture_that_takes_long_is_computed_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    run, computed = Run(GridKind.random_1d, 8), []

    def lines(*_: object) -> list[str]:
        run.now += 3.0
        computed.append(run.now)
        return []

    monkeypatch.setattr(LiveSurface, "_lines", lines)
    run.show()
    for _ in range(50):
        run.now -= 59.0  # `show` adds a minute
        run.show()
    assert len(computed) == 1
    run.show()
    assert len(computed) == 2
