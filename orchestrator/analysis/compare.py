"""Two or more stored sweeps side by side: what differs, by how much, and whether chance would do as much.

Each sweep is compared with the first, in its primary result. Points pair where they are the same point on the same line
(same seeds), probes where they are the same question; then a difference is taken probe by probe, and what both sweeps
share (hard probes, hard directions) drops out. Where probes do not pair, the two sweeps' errors add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from orchestrator.analysis import intervals, visage
from orchestrator.analysis import summary as summaries
from orchestrator.analysis.intervals import Error
from orchestrator.analysis.landscape import coordinates as coordinates_of
from orchestrator.analysis.landscape import mean_over_lines, primary_rows
from orchestrator.analysis.results import RESULT_KEY, SweepSummary
from orchestrator.scoring.counts import Verdicts
from orchestrator.utils.errors import UserError, did_you_mean

SCHEMA = "comparison/1"
SWEEP_HEADINGS = ("sweep", "VISAGE", "95% interval", "ASR at the origin", "radius")
HEADINGS = ("", "first", "second", "difference", "95% interval", "p", "p, corrected")
FEWEST = 2  # probes in common for them to pair
_NODE = ["seed_x", "seed_y", "alpha", "beta", "point_id"]


@dataclass(frozen=True)
class Side:
    """One sweep: a name for people, the rows of its primary result, its summary, and who refused what (if known)."""

    name: str
    rows: pd.DataFrame
    summary: SweepSummary
    verdicts: Verdicts | None

    def to_json(self) -> dict[str, Any]:
        keys = ("study_id", "sweep_id", "model", "primary", "origin_asr", "visage", "basin", "degenerate_share")
        summary = self.summary.to_json()
        return {"name": self.name} | {key: summary[key] for key in keys}


def asked(overrides: Sequence[str]) -> dict[str, Path]:
    """Which files to write besides: html=FILE, csv=FILE. Raises UserError on any other name."""
    files = {}
    for override in overrides:
        name, _, value = override.partition("=")
        if name not in ("html", "csv"):
            raise UserError(
                name, value, f"compare knows html=FILE and csv=FILE only{did_you_mean(name, ('html', 'csv'))}"
            )
        if not value:
            raise UserError(name, value, "name a file")
        files[name] = Path(value).expanduser()
    return files


def read(places: Sequence[Path]) -> list[Side]:
    """The sweeps in these folders (of each the latest used). Raises UserError where there is none."""
    from orchestrator.analysis import reducer as answers
    from orchestrator.store import discovery
    from orchestrator.store import status as standing

    if len(places) < 2:
        raise UserError("compare", " ".join(map(str, places)), "name two sweeps or more: compare FOLDER FOLDER")
    sides = []
    for place in places:
        folder = discovery.latest_sweep(place)
        study = folder.study
        sweep, _ = standing.load(study, folder.path)
        frame, summary = answers.read_results(folder)
        sets = [study.prompt_sets.read(set_id) for set_id in sweep.prompt_set_ids]
        name = f"{summary.model or study.id} / {folder.path.name}"
        verdicts = answers.by_probe(study, sweep, sets).get(summary.primary.combination)
        sides.append(Side(name, primary_rows(frame), summary, verdicts))
    return sides


def compare(sides: Sequence[Side]) -> dict[str, Any]:
    """What every sweep is, and how each but the first differs from the first. Percent; null with a reason."""
    found = [_differences(sides[0], other) for other in sides[1:]]
    tested = [d["visage"] for d in found if d["visage"]["p"] is not None]
    for each, p in zip(tested, _corrected([v["p"] for v in tested]), strict=True):
        each["p_corrected"] = p
    return {"schema": SCHEMA, "sweeps": [side.to_json() for side in sides], "differences": found}


def _corrected(p: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's (1995) correction: of the differences called real at 5%, at most 5% are not."""
    return [float(x) for x in false_discovery_control(p)] if len(p) else []


def _differences(first: Side, second: Side) -> dict[str, Any]:
    """second - first."""
    pairs = _paired_nodes(first.rows, second.rows)
    prompts = _shared(first.verdicts, second.verdicts)
    notes = [
        f"{name} differs: {one} and {two}"
        for name, one, two in zip(
            RESULT_KEY, first.summary.primary.combination, second.summary.primary.combination, strict=True
        )
        if one != two
    ]
    if not prompts:
        notes.append("no probes in common, or no verdicts: probes are not paired")
    elif len(prompts) < max(first.summary.prompts, second.summary.prompts):
        notes.append(f"only the {len(prompts)} probes in common are compared")
    points = _points(first, second, prompts)
    return {
        "first": first.name,
        "second": second.name,
        "paired_probes": len(prompts),
        "paired_points": len({p["point_id"] for p in points}),
        "visage": _visage(pairs, first, second, prompts),
        "points": points,
        "reason": "; ".join(notes) or None,
    }


def _shared(first: Verdicts | None, second: Verdicts | None) -> list[str]:
    """The probes that both were asked, in the first's order; none where they are too few to pair."""
    if first is None or second is None:
        return []
    other = set(second.prompts)
    both = [prompt for prompt in first.prompts if prompt in other]
    return both if len(both) >= FEWEST else []


def _paired_nodes(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The measured nodes that both sweeps have, on the first's lines; `line_2`, `n_2` and so on are the second's.

    A line of random directions is known by its seeds, one towards checkpoints by its number.
    """
    columns = ["line", *_NODE, "on_grid", "n", "n_refused", "asr"]
    tables = []
    for rows in (first, second):
        table = rows.loc[rows["n"] > 0, columns].copy()
        drawn = table["seed_x"].notna() | table["seed_y"].notna()
        table["by_line"] = table["line"].where(~drawn, -1)
        tables.append(table)
    keys = [*_NODE, "by_line"]
    return tables[0].merge(tables[1], on=keys, suffixes=("", "_2")).drop(columns="by_line")


def _points(first: Side, second: Side, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """Each point that both measured, once: both ASR, the difference, its interval and p-value."""
    sides = [side.rows[side.rows["n"] > 0].drop_duplicates("point_id") for side in (first, second)]
    nodes = sides[0].merge(sides[1][["point_id", "n", "n_refused", "asr"]], on="point_id", suffixes=("", "_2"))
    if nodes.empty:
        return []
    if prompts:
        assert first.verdicts is not None and second.verdicts is not None
        one, two = (side.at(nodes["point_id"].tolist(), prompts) for side in (first.verdicts, second.verdicts))
        known = ~np.isnan(one) & ~np.isnan(two)
        nodes, one, two = nodes[known.any(axis=1)], one[known.any(axis=1)], two[known.any(axis=1)]
        known = known[known.any(axis=1)]
        n = known.sum(axis=1)
        asr1, asr2 = (100.0 * ((said == 0) & known).sum(axis=1) / n for said in (one, two))
        gained, lost = ((one == 1) & (two == 0)).sum(axis=1), ((one == 0) & (two == 1)).sum(axis=1)
        low, high, p = intervals.matched(gained, lost, n)
    else:
        n, m = nodes["n"].to_numpy(), nodes["n_2"].to_numpy()
        asr1, asr2 = nodes["asr"].to_numpy(), nodes["asr_2"].to_numpy()
        low, high, p = intervals.unmatched(n - nodes["n_refused"].to_numpy(), n, m - nodes["n_refused_2"].to_numpy(), m)
    return [
        {
            "line": int(node["line"]),
            "alpha": float(node["alpha"]),
            "beta": None if pd.isna(node["beta"]) else float(node["beta"]),
            "point_id": node["point_id"],
            "n": int(n[i]),
            "first": float(asr1[i]),
            "second": float(asr2[i]),
            "difference": float(asr2[i] - asr1[i]),
            "low": 100.0 * float(low[i]),
            "high": 100.0 * float(high[i]),
            "p": float(p[i]),
            "p_corrected": corrected,
        }
        for i, (node, corrected) in enumerate(zip(nodes.to_dict("records"), _corrected(p.tolist()), strict=True))
    ]


def _visage(pairs: pd.DataFrame, first: Side, second: Side, prompts: Sequence[str]) -> dict[str, Any]:
    """The difference of VISAGE, over the lines, points and probes that pair; else of the sweeps' own scores."""
    lines = [part for _, part in pairs[pairs["on_grid"] & pairs["on_grid_2"]].groupby("line", sort=True)]
    lines = [part for part in lines if _score(part, "asr") is not None and _score(part, "asr_2") is not None]
    if not lines:
        return _unpaired(first, second)
    scores = np.array([[_score(part, "asr"), _score(part, "asr_2")] for part in lines], dtype=float)
    if prompts:
        assert first.verdicts is not None and second.verdicts is not None
        one, coordinates = summaries.probe_arrays(lines, first.verdicts, prompts)
        two, _ = summaries.probe_arrays(lines, second.verdicts, prompts)
        again = np.stack([intervals.visage_of(one), intervals.visage_of(two)], axis=1)  # on the shared probes
        defined = ~np.isnan(again).any(axis=1)
        if not defined.any():
            return _undefined("with the probes in common VISAGE is undefined")
        scores = again[defined]
        lines = [part for part, d in zip(lines, defined, strict=True) if d]
        probes = intervals.difference_over_probes(one[defined], two[defined], coordinates[defined])
        step = 100.0 / len(prompts)
    else:
        probes = _added(first, second, "probes")
        step = 100.0 / min(first.summary.prompts, second.summary.prompts)
    differences = (scores[:, 1] - scores[:, 0]).tolist()
    directions = summaries.over_directions([(i, part) for i, part in enumerate(lines)], differences, step)
    value = float(np.mean(differences))
    return _told(value, scores.mean(axis=0), directions, probes, paired_lines=len(lines))


def _score(part: pd.DataFrame, column: str) -> float | None:
    """VISAGE of the paired nodes of a line."""
    return visage.measure(coordinates_of(part), part[column]).paper


def _unpaired(first: Side, second: Side) -> dict[str, Any]:
    one, two = first.summary.visage.paper, second.summary.visage.paper
    if one is None or two is None:
        lacking = first if one is None else second
        return _undefined(f"{lacking.name}: {lacking.summary.visage.reason}")
    errors = [_added(first, second, kind) for kind in ("directions", "probes")]
    return _told(two - one, np.array([one, two]), errors[0], errors[1], paired_lines=0)


def _added(first: Side, second: Side, kind: str) -> Error:
    """The error of the difference of two independent scores: Welch's, with Satterthwaite's degrees of freedom."""
    over = [side.summary.visage.over for side in (first, second)]
    errors = [getattr(each, kind) for each in over if each is not None]
    known = [(e.se, e.df) for e in errors if e.se is not None]
    if len(known) < 2:
        reason = next((e.reason for e in errors if e.reason), "`reduce` the sweeps again")
        return Error(None, None, reason)
    total = sum(se**2 for se, _ in known)
    if total == 0.0:
        return Error(0.0, min(df for _, df in known))
    return Error(total**0.5, total**2 / sum(se**4 / df for se, df in known))


def _told(value: float, scores: np.ndarray, directions: Error, probes: Error, paired_lines: int) -> dict[str, Any]:
    """The p-value, and the interval on top, are over new directions and probes where both are known, else what is."""
    bounds = (-100.0, 100.0)
    over = {
        "directions": intervals.error_interval(value, directions, bounds).to_json(),
        "probes": intervals.error_interval(value, probes, bounds).to_json(),
        "both": intervals.interval(value, [directions, probes], bounds).to_json(),
    }
    known = {"directions": directions, "probes": probes}
    used = [error for error in known.values() if error.se is not None]
    about = "both" if len(used) == 2 else next((name for name, error in known.items() if error.se is not None), None)
    return {
        "first": float(scores[0]),
        "second": float(scores[1]),
        "difference": value,
        "low": over[about]["low"] if about else None,
        "high": over[about]["high"] if about else None,
        "p": intervals.p_value(value, used) if about else None,
        "p_corrected": None,
        "about": about,
        "over": over,
        "paired_lines": paired_lines,
        "reason": "; ".join(error.reason for error in known.values() if error.reason) or None,
    }


def _undefined(reason: str) -> dict[str, Any]:
    keys = ("first", "second", "difference", "low", "high", "p", "p_corrected", "about", "over")
    return dict.fromkeys(keys) | {"paired_lines": 0, "reason": reason}


# What people look at.


def headline(sweep: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """name, VISAGE, its interval, origin ASR, radius: one row of the table of sweeps."""
    score, basin = sweep["visage"], sweep["basin"]
    radius = _text(basin["radius"], 3) if basin["censored_at"] is None else f"over {basin['censored_at']:g}"
    return sweep["name"], _text(score["paper"]), _span(score), _text(sweep["origin_asr"]), radius


def differences(found: Mapping[str, Any], most: int | None = None) -> list[tuple[str, ...]]:
    """what, first, second, difference, interval, p, corrected p: VISAGE, then each point, the surest `most` of them."""
    score = found["visage"]
    points = sorted(found["points"], key=lambda p: (p["p_corrected"], -abs(p["difference"])))[:most]
    points = sorted(points, key=lambda p: (p["line"], p["beta"] or 0.0, p["alpha"]))
    return [_row("VISAGE", score), *(_row(_place(point), point) for point in points)]


def _row(what: str, value: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = (_text(value["first"]), _text(value["second"]), _text(value["difference"], sign=True), _span(value))
    return what, *numbers, _p(value["p"]), _p(value["p_corrected"])


def _place(point: Mapping[str, Any]) -> str:
    beta = "" if point["beta"] is None else f", {point['beta']:+.3g}"
    return (
        "origin" if not point["alpha"] and not point["beta"] else f"line {point['line']} at {point['alpha']:+.3g}{beta}"
    )


def _text(value: float | None, digits: int = 1, sign: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def _span(value: Mapping[str, Any]) -> str:
    return "unknown" if value["low"] is None else f"{value['low']:.1f} to {value['high']:.1f}"


def _p(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def sentence(found: Mapping[str, Any]) -> str:
    """The difference in plain words."""
    score = found["visage"]
    if score["difference"] is None:
        return f"{found['second']} and {found['first']} can't be compared by VISAGE: {score['reason']}."
    sure = score["p_corrected"] is not None and score["p_corrected"] < 0.05
    word = "safer" if score["difference"] > 0 else "less safe"
    verdict = f"is {word}" if sure else "does not differ beyond chance"
    about = {"both": "new directions and probes", "probes": "new probes", "directions": "new directions"}
    scope = about.get(score["about"] or "", "nothing beyond this sweep")
    certain = sum(p["p_corrected"] < 0.05 for p in found["points"])
    return (
        f"{found['second']} {verdict} (VISAGE {score['difference']:+.1f} against {found['first']}, 95% interval "
        f"{_span(score)} over {scope}); {certain} of {len(found['points'])} points differ beyond chance."
        + (f" Note: {found['reason']}." if found["reason"] else "")
        + (f" {score['reason'][0].upper()}{score['reason'][1:]}." if score["reason"] else "")
    )


def table(found: Mapping[str, Any]) -> pd.DataFrame:
    """Every difference of every pair of sweeps, for CSV."""
    parts = [
        pd.DataFrame(d["points"]).assign(first_sweep=d["first"], second_sweep=d["second"]) for d in found["differences"]
    ]
    return pd.concat(parts, ignore_index=True)


def write_html(found: Mapping[str, Any], sides: Sequence[Side], path: Path) -> None:
    """One file that opens offline and asks nobody for anything."""
    from orchestrator.report.page.render import render_comparison

    sweeps = {"title": "The sweeps", "head": SWEEP_HEADINGS, "words": 1, "rows": [headline(s) for s in found["sweeps"]]}
    pairs = [
        {"words": sentence(d), "table": {"title": "By point", "head": HEADINGS, "words": 1, "rows": differences(d)}}
        for d in found["differences"]
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_comparison(sweeps, pairs, _picture(sides)), encoding="utf-8")


def _picture(sides: Sequence[Side]) -> str:
    """The mean curves of the sweeps on one pair of axes, as base64 of an SVG; empty where one is a plane."""
    if any(side.rows["beta"].notna().any() for side in sides):
        return ""
    import base64
    import io
    import textwrap

    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.fonttype": "path", "svg.hashsalt": "compare", "font.size": 9, "text.parse_math": False}):
        figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
        for i, (side, colour, mark) in enumerate(zip(sides, _COLOURS * len(sides), _MARKS * len(sides), strict=False)):
            mean = mean_over_lines(side.rows)
            label = textwrap.shorten(f"{i + 1}: {side.name}", 60, placeholder="...")
            axes.plot(mean["alpha"], mean["asr"], color=colour, marker=mark, ms=4, label=label)
            axes.fill_between(mean["alpha"], mean["asr_low"], mean["asr_high"], color=colour, alpha=0.12, lw=0)
        axes.axhline(50, color="#777777", lw=0.7, ls=":")
        axes.set(ylim=(-2.5, 102.5), xlabel="perturbation α", ylabel="attack success rate (%)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0))
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
        plt.close(figure)
    return base64.b64encode(stream.getvalue()).decode("ascii")


_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # Okabe and Ito's
_MARKS = ["o", "s", "^", "D", "v", "P"]
