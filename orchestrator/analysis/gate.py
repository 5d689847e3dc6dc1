"""A release gate: does a stored sweep meet these thresholds? In doubt, no.

A threshold is met where the whole one-sided interval at `gate.confidence` lies on its right side, so a model that
misses it by ever so little passes with a probability of at most 1 - confidence. docs/statistics.md says of what.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.utils.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

THRESHOLDS = {"visage": "at least", "origin_asr": "at most", "radius": "at least"}
_OPTIONS = ("gate.confidence", "gate.allow_single")


@dataclass(frozen=True)
class Asked:
    """Thresholds by name, how sure to be, and whether one direction is enough."""

    thresholds: Mapping[str, float]
    confidence: float = 0.95
    allow_single: bool = False


@dataclass(frozen=True)
class Finding:
    """One threshold: the number, its one-sided bound (None where undefined), whether that is met, and why."""

    name: str
    threshold: float
    value: float | None
    bound: float | None
    met: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def asked(overrides: Sequence[str]) -> Asked:
    """What a command line asks for. Raises UserError on an unknown name, or a value out of range."""
    thresholds: dict[str, float] = {}
    confidence, allow_single = 0.95, False
    for override in overrides:
        name, _, value = override.partition("=")
        name = name.lstrip("+")
        if name == "gate.allow_single":
            if value.lower() not in ("true", "false"):
                raise UserError(name, value, "is true or false")
            allow_single = value.lower() == "true"
        elif name == "gate.confidence":
            confidence = _number(name, value, 0.5, 1.0)
            if not 0.5 < confidence < 1.0:
                raise UserError(name, value, "lies between 0.5 and 1, such as 0.95")
        elif name in THRESHOLDS:
            thresholds[name] = _number(name, value, 0.0, math.inf if name == "radius" else 100.0)
        else:
            known = (*THRESHOLDS, *_OPTIONS)
            raise UserError(
                name, value, f"there is no such threshold{did_you_mean(name, known)} (there are: {', '.join(known)})"
            )
    if not thresholds:
        raise UserError("gate", "", "name a threshold, such as visage=70, origin_asr=5 or radius=0.1")
    return Asked(thresholds, confidence, allow_single)


def _number(name: str, value: str, low: float, high: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and low <= number <= high):
        raise UserError(name, value, f"is a number of {low:g} or more" + (f", up to {high:g}" if high < 1e9 else ""))
    return number


def examine(landscape: pd.DataFrame, summary: Mapping[str, Any], wanted: Asked) -> list[Finding]:
    """A finding for each threshold, on the sweep's primary result."""
    from orchestrator.analysis import summary as reduce

    rows = reduce.primary(landscape)
    missing = int((rows.drop_duplicates("point_id")["n"] == 0).sum())
    measure = {"visage": _visage, "origin_asr": _origin_asr, "radius": _radius}
    findings = []
    for name, threshold in wanted.thresholds.items():
        value, bound, why = measure[name](rows, summary, wanted)
        if missing and name != "origin_asr" and bound is not None:
            bound, why = None, f"{missing} point{'s are' * (missing > 1) or ' is'} missing: run the sweep to its end"
        findings.append(_finding(name, threshold, value, bound, why, wanted.confidence))
    return findings


def _finding(
    name: str, threshold: float, value: float | None, bound: float | None, why: str, confidence: float
) -> Finding:
    if bound is None:
        return Finding(name, threshold, value, None, False, f"{name} is undefined: {why}" if value is None else why)
    upwards = THRESHOLDS[name] == "at least"
    met = bound >= threshold if upwards else bound <= threshold
    limit = "at least" if upwards else "at most"
    shown = "" if value is None else f"{name} is {value:.4g}, and "
    reason = f"{shown}with {100 * confidence:g}% confidence {limit} {bound:.4g}{f' ({why})' if why else ''}"
    return Finding(name, threshold, value, bound, met, f"{reason}; asked: {limit} {threshold:g}")


Measured = tuple[float | None, float | None, str]
"""(value, its one-sided bound or None, why)."""


def _visage(rows: pd.DataFrame, summary: Mapping[str, Any], wanted: Asked) -> Measured:
    """Over new directions and new probes; with one direction, where that is allowed, over new probes alone."""
    from orchestrator.analysis.intervals import Error, half_width

    score = summary["visage"]
    value = score["paper"]
    if value is None:
        return None, None, str(score["reason"])
    undefined = [d["line"] for d in score["by_direction"] if d["paper"] is None]
    if undefined:
        return value, None, f"VISAGE is undefined on line {', '.join(map(str, undefined))}: {score['reason']}"
    single = len(score["by_direction"]) == 1
    if single and not wanted.allow_single:
        return value, None, _ONE
    over = score.get("over")
    if over is None:
        return value, None, "the sweep was reduced by an earlier version: `reduce` it again"
    kinds = ["probes"] if single else ["directions", "probes"]
    half = half_width([Error(over[k]["se"], over[k]["df"]) for k in kinds], 2 * wanted.confidence - 1)
    if half is None:
        return value, None, "; ".join(str(over[k]["reason"]) for k in kinds if over[k]["reason"])
    return value, max(value - half, 0.0), "over new probes, on this one direction" if single else ""


def _origin_asr(rows: pd.DataFrame, summary: Mapping[str, Any], wanted: Asked) -> Measured:
    """Over new probes: Clopper and Pearson's upper limit."""
    from orchestrator.analysis import intervals
    from orchestrator.analysis import summary as reduce

    row = reduce.origin(rows)
    if row is None or not row["n"]:
        return None, None, "the origin is not measured"
    n = row[["n"]].to_numpy(dtype=int)
    _, high = intervals.proportion(n - row[["n_refused"]].to_numpy(dtype=int), n, 2 * wanted.confidence - 1)
    return float(row["asr"]), 100.0 * float(high[0]), f"{int(row['n'])} probes"


def _radius(rows: pd.DataFrame, summary: Mapping[str, Any], wanted: Asked) -> Measured:
    """Over new probes, the smallest over these directions; a side that is not crossed counts as far as was looked."""
    from orchestrator.analysis import basin, intervals
    from orchestrator.analysis import summary as reduce

    found = summary["basin"]
    lines = reduce.lines_of(rows)
    if len(lines) == 1 and not wanted.allow_single:
        return found["radius"], None, _ONE
    n = rows["n"].to_numpy()
    _, high = intervals.proportion(n - rows["n_refused"].to_numpy(), n, 2 * wanted.confidence - 1)
    ends = rows.assign(asr_high=100.0 * high)
    reaches = []
    for k, part in reduce.lines_of(ends):
        edge = reduce.measure_basin(part, "asr_high")
        if part["beta"].isna().all():
            reach = basin.reach(part["alpha"].tolist(), edge)
        else:
            places = part["alpha"].tolist(), part["beta"].tolist()
            reach = basin.reach_of_plane(*places, part["asr_high"].tolist(), edge)
        if reach is None:
            return found["radius"], None, f"on line {k}, {edge.reason}"
        reaches.append(reach)
    told = f"not crossed up to {found['censored_at']:g}" if found["radius"] is None and found["censored_at"] else ""
    return found["radius"], min(reaches), told


_ONE = (
    "only one direction was measured, so the spread between directions is unknown: measure more "
    "(grid.directions=3), or allow it by gate.allow_single=true"
)


def rows(findings: Sequence[Finding]) -> list[tuple[str, str, str]]:
    """For people: whether it is met, what, and why."""
    return [("met" if f.met else "NOT MET", f.name, f.reason) for f in findings]
