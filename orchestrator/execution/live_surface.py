"""The picture of an adaptive grid as it refines, as text: measured points, inferred ones, and points under way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping

import numpy as np
from rich.text import Text

from orchestrator.analysis.adaptive.geometry import Node
from orchestrator.analysis.adaptive.posterior import Posterior
from orchestrator.analysis.requested import AdaptiveGrid, AdaptiveLine
from orchestrator.execution.live_curve import ROWS, draw_bars
from orchestrator.scoring.deciding import PointCounts
from orchestrator.sweep.points import Point
from orchestrator.utils.shades import ASCII_SHADES, LEGEND, SHADES, cell, thin

EVERY = 1.0
"""Seconds between two computations of the picture, at least."""
_SHARE = 0.05  # of the time that computing it may take, because the same thread hands out the work
MEASURED, WAITING, INFERRED = range(3)


class LiveSurface:
    """ASR by the deciding judge at measured points, and inferred from these at all others.

    Args:
        grid: The adaptive grid.
        counts: Counts of the measured points by point id. The run adds to them.
        begun: Points that are measured or under way. The run adds to them.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        grid: AdaptiveGrid,
        counts: Mapping[str, PointCounts],
        begun: Collection[Point],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grid, self._counts, self._begun, self._clock = grid, counts, begun, clock
        self._points = {point for line in grid.lines for point in line.points.values()}
        self._next_at = -math.inf
        self._size: tuple[int, int] | None = None
        self._text: Text | None = None

    def add_visit(self, visit: str) -> None:
        """Do nothing: the run itself counts what is stored."""

    def read(self, seconds: float) -> None:
        """Do nothing: the run itself counts what is stored."""

    def summary(self) -> str:
        """Return how many points are measured, under way and saved so far."""
        measured = sum(point.id in self._counts for point in self._points)
        under_way = sum(point.id not in self._counts and point in self._begun for point in self._points)
        saved = len(self._points) - measured - under_way
        total = len(self._points)
        return f"measured {measured} of {total} points, {under_way} under way or waiting, {saved} visits saved so far"

    def draw(self, width: int, height: int, unicode: bool) -> Text | None:
        """Return the picture for a terminal of this size, or None if nothing fits. It is kept for EVERY seconds."""
        begun = self._clock()
        if self._size != (width, height) or begun >= self._next_at:
            self._size = width, height
            rows = self._plane(width, height) if self._grid.grid.is_plane else self._lines(width, height, unicode)
            text = "\n".join([self.summary(), *rows])
            self._text = Text(text if unicode else text.translate(_ASCII), no_wrap=True) if height > 6 else None
            self._next_at = begun + max(EVERY, (self._clock() - begun) / _SHARE)
        return self._text

    def _state(self, line: AdaptiveLine) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the ASR in percent and the state (MEASURED, ...) of each node. None before anything is measured."""
        counts = line.counts(self._counts)
        if not any(judged for _, judged in counts.values()):
            return None
        states = np.full(line.shape.sizes, INFERRED)
        for node, point in line.points.items():
            if node in counts:
                states[node] = MEASURED
            elif point in self._begun:
                states[node] = WAITING
        return Posterior.of(line.shape, counts).inferred, states

    def _lines(self, width: int, height: int, unicode: bool) -> list[str]:
        """Return the mean over lines as bars, with the points that are measured on every line marked beneath."""
        alphas = self._grid.grid.coordinates()[0]
        known = [state for line in self._grid.lines if (state := self._state(line)) is not None]
        if height <= ROWS + 7 or len(known) < len(self._grid.lines):
            return []
        means = np.mean([asr for asr, _ in known], axis=0)
        measured = np.all([states == MEASURED for _, states in known], axis=0)
        bars = draw_bars(list(zip(alphas, means.tolist(), strict=True)), width - 10, unicode, measured.tolist())
        return bars.splitlines()

    def _plane(self, width: int, height: int) -> list[str]:
        """Return the first plane as a shaded grid, thinned to the terminal's size."""
        alphas, betas = self._grid.grid.coordinates()
        line, room = self._grid.lines[0], height - 9
        state = self._state(line)
        if state is None or room < 3:
            return []
        asr, states = state
        every = max(math.ceil(2 * len(alphas) / max(width - 11, 10)), math.ceil(len(betas) / room))
        text = []
        for beta in reversed(thin(betas, every)):
            nodes: list[Node] = [(alphas.index(alpha), betas.index(beta)) for alpha in thin(alphas, every)]
            marks = ["+" if node == line.shape.origin else ("", "?", ".")[states[node]] for node in nodes]
            cells = "".join(cell(float(asr[node]), mark) for node, mark in zip(nodes, marks, strict=True))
            text.append(f"{beta:+7.3f} |{cells}|")
        number = f"plane 0 of {len(self._grid.lines)}; " if len(self._grid.lines) > 1 else ""
        text += [LEGEND, f"{number}. inferred  ? under way  + origin"]
        return text


_ASCII = str.maketrans(SHADES, ASCII_SHADES)
