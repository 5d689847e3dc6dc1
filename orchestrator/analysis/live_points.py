"""Points of a sweep as they are measured: their ASR, and VISAGE and radius of the points so far."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.analysis import basin, visage
from orchestrator.analysis.landscape import PRIMARY_GROUP
from orchestrator.scoring.visit_scores import VisitScores, live_judge
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.tasks import PromptSet

MOST_NODES = 5000
"""Size of a grid up to which the numbers so far are computed, because they are computed anew at each point."""


@dataclass(frozen=True)
class Position:
    """One place of a point on the grid. The origin has one on each line or plane.

    Attributes:
        line: Number of the line or plane, from 0.
        alpha: First coordinate.
        beta: Second coordinate. None on a line.
    """

    line: int
    alpha: float
    beta: float | None


@dataclass(frozen=True)
class MeasuredPoint:
    """A point whose responses were stored a moment ago.

    Attributes:
        point_id: The point's id.
        positions: Its places on the grid.
        asr: Attack success rate in percent, by the name of the prompts: `PROBE_SET`, or `PROBE_SET/SYSTEM_PROMPT` if
            the sweep has several system prompts. Empty if a model or people decide, who judge after the sweep.
        tokens: Number of generated tokens.
        seconds: Time of the visit.
        visage_so_far: Mean VISAGE of the points measured so far, in percent, on the first harmful prompts (or the first
            ones, if none are harmful). None until both ends of every line are measured, if VISAGE is undefined, and on
            grids of more than MOST_NODES nodes.
        radius_so_far: Smallest radius of the basin over the lines measured so far, in units of alpha. None before a
            line has an edge, on planes, and on grids of more than MOST_NODES nodes.
    """

    point_id: str
    positions: tuple[Position, ...]
    asr: Mapping[str, float]
    tokens: int
    seconds: float
    visage_so_far: float | None = None
    radius_so_far: float | None = None


def point_names(prompt_sets: Sequence[PromptSet]) -> dict[tuple[str, str], str]:
    """Return the names under which ASR is reported, by (probe set, system prompt)."""
    several = len({prompts.system_prompt for prompts in prompt_sets}) > 1
    return {
        (prompts.probe_set, prompts.system_prompt): f"{prompts.probe_set}/{prompts.system_prompt}"
        if several
        else prompts.probe_set
        for prompts in prompt_sets
    }


class LivePoints:
    """Turns the dispatcher's event `visit_done` into a MeasuredPoint.

    Points that are stored already count for the numbers so far.
    """

    def __init__(self, stored: StoredSweep) -> None:
        names = point_names(stored.prompt_sets)
        self._names = {p.id: names[p.probe_set, p.system_prompt] for p in stored.pooled.sets}
        harmful = [prompts for prompts in stored.pooled.sets if prompts.group == PRIMARY_GROUP]
        self._primary = (harmful or list(stored.pooled.sets))[0].id
        judge = live_judge(stored)
        self._scores = None
        self._asr: dict[str, float] = {}  # percent of the primary prompts, by point id
        if judge is not None:
            self._scores = VisitScores(stored.study, stored.prompt_sets, stored.sweep.thought, judge)
            for visit in sorted({part.path.stem for part in stored.generations.values()}):
                self._read(visit)
        self._has_visage = visage.why_inapplicable(stored.sweep.grid.to_json()) is None
        self._positions: dict[str, list[Position]] = {}
        self._lines: dict[int, list[tuple[Position, str]]] = {}  # the equally spaced points of each line or plane
        for node in stored.sweep.grid.iter_nodes():
            position = Position(node.line, node.alpha, node.beta)
            self._positions.setdefault(node.point.id, []).append(position)
            if node.on_grid:
                self._lines.setdefault(node.line, []).append((position, node.point.id))
        if sum(map(len, self._lines.values())) > MOST_NODES:
            self._lines.clear()

    def take(self, visit: str, point_id: str, tokens: int, seconds: float, **_: Any) -> MeasuredPoint:
        """Return the point of a visit that is stored, given the fields of its event. Raises UserError."""
        scores = self._read(visit)
        asr = {self._names[set_id]: value for (point, set_id), value in scores.items() if point == point_id}
        return MeasuredPoint(
            point_id=point_id,
            positions=tuple(self._positions.get(point_id, ())),
            asr=asr,
            tokens=tokens,
            seconds=seconds,
            visage_so_far=self._visage(),
            radius_so_far=self._radius(),
        )

    def _read(self, visit: str) -> dict[tuple[str, str], float]:
        scores = {} if self._scores is None else self._scores.read(visit)
        self._asr |= {point: value for (point, set_id), value in scores.items() if set_id == self._primary}
        return scores

    def _visage(self) -> float | None:
        if not self._has_visage:
            return None
        values = []
        for nodes in self._lines.values():
            coordinates = np.array([[p.alpha] if p.beta is None else [p.alpha, p.beta] for p, _ in nodes])
            values.append(visage.measure(coordinates, self._asr_at(nodes)).value)
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known and len(known) == len(values) else None

    def _radius(self) -> float | None:
        edges = []
        for nodes in self._lines.values():
            if nodes[0][0].beta is not None:
                return None
            radius = basin.measure_line([position.alpha for position, _ in nodes], self._asr_at(nodes)).radius
            if radius is not None:
                edges.append(radius)
        return min(edges, default=None)

    def _asr_at(self, nodes: list[tuple[Position, str]]) -> list[float]:
        return [self._asr.get(point, math.nan) for _, point in nodes]
