"""The mean of a measure over lines, as stored."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.utils.records import JsonRecord


@dataclass(frozen=True, kw_only=True)
class MeanCurve(JsonRecord):
    """The mean over lines at each alpha with its 95% interval; see `analysis.curves`.

    Attributes:
        measure: `asr` or `correct`.
        lines: Number of lines.
        over: Variation that the interval covers: `curves.BOTH` or `curves.PROBES`.
        alpha: Coordinates, in ascending order.
        value: Percent, at each alpha. None where a line lacks the point.
    """

    measure: str
    lines: int
    over: str
    alpha: tuple[float, ...]
    value: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
