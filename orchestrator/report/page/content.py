"""What a report shows, as plain values: the headline, the charts' numbers, the tables, where it all comes from."""

from __future__ import annotations

import itertools
import math
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis import published
from orchestrator.analysis.landscape import combinations, primary_rows
from orchestrator.analysis.results import RESULT_KEY, BasinSummary, Estimate, ResultKey, SweepSummary
from orchestrator.analysis.summary import summarize_checkpoints
from orchestrator.report import terminal
from orchestrator.report.page import contours
from orchestrator.report.page.evidence import Evidence
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.grid import Grid, Sweep
from orchestrator.sweep.points import Direction, RandomDirection
from orchestrator.utils.console import duration

ANSWERED = ("benign",)  # groups that should be answered: what counts there is how much is refused
RIGHT = ("capability",)  # groups with right answers: what counts there is how many are given
UNKNOWN = "–"
MINUS = "\N{MINUS SIGN}"


def page_content(
    study: Study, sweep: Sweep, folder: Path, frame: pd.DataFrame, summary: SweepSummary, found: Evidence
) -> dict[str, Any]:
    """Everything the page's template asks for."""
    record = SweepFolder(study, folder).read_record()
    return {
        "model": summary.model,
        "about": about(summary),
        "verdict": terminal.verdict(summary),
        "said": terminal.paragraph(summary).removeprefix(terminal.verdict(summary)).strip(),
        "tiles": tiles(summary),
        "warnings": warnings(summary, found),
        "chart": chart(sweep, frame, summary, found),
        "plane": sweep.grid.is_plane,
        "uncertainty": certainty_table(summary),
        "more_directions": enough(summary),
        "results": results_table(summary),
        "categories": category_tables(sweep, frame, found),
        "agreement": agreement_table(found),
        "checkpoints": checkpoint_table(frame, summary),
        "command": shlex.join(["python", "-m", "orchestrator", "run", *record.get("overrides", [])]),
        "provenance": provenance(study, sweep, summary, record, found),
        "sampled": sampled(found),
        "reveal": found.reveal,
    }


# The headline.


def about(summary: SweepSummary) -> str:
    """What the headline's numbers are of."""
    primary = summary.primary
    return (
        f"{summary.prompts} prompts of {primary.probe_set} ({primary.group}), "
        f"system prompt {primary.system_prompt}, judge {primary.judge}"
    )


def tiles(summary: SweepSummary) -> list[dict[str, str]]:
    """The four numbers: name, value, unit, and how sure they are."""
    score, basin, origin = summary.visage, summary.basin, summary.origin_asr
    share = summary.degenerate_share
    if score.paper is None:
        sure = score.reason
    elif score.low is None:
        sure = "one direction: spread between directions unknown"
    else:
        sure = f"95% interval {score.low:.1f} to {score.high:.1f}, over directions"
    low, high = summary.origin_low, summary.origin_high
    censored = basin.radius is None and basin.censored_at is not None
    if censored:
        edge = f"50% is not reached as far as {basin.censored_at:.2g}"
    elif basin.radius is None:
        edge = basin.reason or "unknown"
    else:
        above = "open above" if basin.radius_high is None else f"{basin.radius_high:.2f}"
        edge = f"95% interval {_number(basin.radius_low, 2)} to {above}"
    radius = f"> {basin.censored_at:.2g}" if censored else _number(basin.radius, 2)
    return [
        {"name": "VISAGE", "value": _number(score.paper), "unit": "of 100", "sure": sure or ""},
        {
            "name": "ASR at the origin",
            "value": _number(origin),
            "unit": "%",
            "sure": "not measured" if origin is None else f"95% interval {low:.1f} to {high:.1f}%",
        },
        {"name": "Basin radius", "value": radius, "unit": "", "sure": edge},
        {
            "name": "Degenerate",
            "value": _number(share, 0),
            "unit": "" if share is None else "% of successes",
            "sure": "no attack succeeded" if share is None else "empty, repetition or no language",
        },
    ]


def warnings(summary: SweepSummary, found: Evidence) -> list[str]:
    """What a reader must know before trusting the numbers."""
    told = []
    missing = summary.points_total - summary.points_done
    if missing:
        told.append(f"{missing} of {summary.points_total} points are missing; they are left open in the charts.")
    if summary.tasks_failed:
        told.append(f"{summary.tasks_failed} tasks failed and were given up; retry=failed tries them again.")
    if len(summary.engines) > 1:
        told.append("The responses come from more than one engine: near-ties may have been decided differently.")
    return told


def sampled(found: Evidence) -> str:
    """How much of what was said the page holds."""
    held, total = len(found.responses), found.total
    if held == total:
        return f"All {total:,} responses are in this file."
    of = ", ".join(f"{len(found.shown_prompts[p.id])} of {len(p.prompts)} ({p.probe_set})" for p in found.prompt_sets)
    return f"This file holds a sample, {held:,} of {total:,} responses: at every point, of the prompts {of}."


# The charts.


def chart(sweep: Sweep, frame: pd.DataFrame, summary: SweepSummary, found: Evidence) -> dict[str, Any]:
    """Numbers by result, and which results are shown together (a view); points by their place in `points`."""
    points = list(dict.fromkeys(frame["point_id"]))
    places = {point: i for i, point in enumerate(points)}
    set_places = {(p.probe_set, p.group, p.system_prompt): i for i, p in enumerate(found.prompt_sets)}
    results = []
    for (key, rows), numbers in zip(combinations(frame), summary.results, strict=True):
        kind = kind_of(key.group)
        rows = _counted(rows, kind)
        results.append(
            {
                "set": set_places[key.probe_set, key.group, key.system_prompt],
                "judge": list(sweep.judges).index(key.judge),
                "kind": kind,
                "name": f"{_COUNTED[kind]} ({key.probe_set})",
                "label": " · ".join(key.combination),
                "rows": _rows(rows, places),
                "mean": None if sweep.grid.is_plane else _mean(rows),
                "planes": [_plane(part) for _, part in rows.groupby("line")] if sweep.grid.is_plane else [],
                "edges": _edges(numbers.basin) if kind == "safety" else [],
            }
        )
    nodes = sweep.grid.nodes
    return {
        "plane": sweep.grid.is_plane,
        "axes": _axis_names(sweep.grid),
        "lines": [line_name(sweep.grid, k) for k in range(sweep.grid.lines)],
        "marks": [[n.line, places[n.point.id], n.mark] for n in nodes if n.mark and n.point.id in places],
        "beside": _beside(frame),
        "points": points,
        "origin": next((places[n.point.id] for n in nodes if n.point.is_origin), None),
        "results": results,
        "views": list(_views(sweep.grid.is_plane, combinations(frame), summary.primary)),
    }


_COUNTED = {"safety": "attack success", "refusal": "over-refusal", "right": "answered right"}


def kind_of(group: str) -> str:
    """What counts in a group of prompts: `safety`, attacks that succeed; `refusal`, what is refused; `right`, right
    answers."""
    return "refusal" if group in ANSWERED else "right" if group in RIGHT else "safety"


def _counted(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows with `value`, `low` and `high`: percentages of what counts."""
    if kind == "right" and "correct" in rows:
        return rows.assign(value=rows["correct"], low=rows["correct_low"], high=rows["correct_high"])
    if kind == "safety":
        return rows.assign(value=rows["asr"], low=rows["asr_low"], high=rows["asr_high"])
    return rows.assign(value=100 - rows["asr"], low=100 - rows["asr_high"], high=100 - rows["asr_low"])


def _rows(rows: pd.DataFrame, places: Mapping[str, int]) -> dict[str, list[Any]]:
    """Columns; `value` and its interval are null where the point is missing."""
    return {
        "line": rows["line"].tolist(),
        "point": rows["point_id"].map(places).tolist(),
        "grid": rows["on_grid"].astype(int).tolist(),
        "n": rows["n"].tolist(),
        **{name: _values(rows[name]) for name in ("alpha", "beta")},
        **{name: _values(rows[name], 2) for name in ("value", "low", "high", "complied", "degenerate")},
        "refused": _values(100 - rows["asr"], 2),
    }


def _mean(rows: pd.DataFrame) -> dict[str, list[float | None]]:
    mean = rows.groupby("alpha")[["value", "low", "high", "degenerate"]].mean(skipna=False).reset_index()
    return {"alpha": _values(mean["alpha"]), **{name: _values(mean[name], 2) for name in list(mean.columns)[1:]}}


def _plane(part: pd.DataFrame) -> dict[str, Any]:
    grid = contours.pivot(part, "value")
    return {
        "x": [float(grid.columns[0]), float(grid.columns[-1])],
        "y": [float(grid.index[0]), float(grid.index[-1])],
        "bands": contours.bands(grid),
        "threshold": contours.threshold(grid),
    }


def _beside(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Checkpoints that stand beside their line or plane, at their nearest place on it, with the ASR of each result."""
    return [
        {
            "line": each.line,
            "mark": each.mark,
            "alpha": each.alpha,
            "beta": each.beta,
            "asr": [result.asr for result in each.results],
        }
        for each in summarize_checkpoints(frame)
        if each.projected
    ]


def _edges(basin: BasinSummary) -> list[float]:
    return [edge for edge in (basin.left, basin.right) if basin.radius and edge is not None]


def _views(
    plane: bool, parts: Sequence[tuple[ResultKey, pd.DataFrame]], primary: ResultKey
) -> Iterator[dict[str, Any]]:
    """An attack's curve and, beside it on a line, what is refused or answered right under the same system prompt; the
    primary first."""
    keys = [key for key, _ in parts]
    kinds = [kind_of(key.group) for key in keys]
    heads = [i for i, kind in enumerate(kinds) if plane or kind == "safety"] or range(len(keys))
    for i in sorted(heads, key=lambda i: keys[i] != primary):
        beside = [
            j
            for j, other in enumerate(keys)
            if not plane
            and (kinds[i], kinds[j]) in (("safety", "refusal"), ("safety", "right"))
            and (other.system_prompt, other.judge) == (keys[i].system_prompt, keys[i].judge)
        ]
        label = f"{keys[i].probe_set} · system prompt {keys[i].system_prompt} · judge {keys[i].judge}"
        yield {"label": label, "results": [i, *beside]}


def line_name(grid: Grid, k: int) -> str:
    """`direction 1 (seed 123)`, `plane 1 (seeds 123, 124)`, `towards NAME`."""
    axes = [axis for axis in grid.axes(k) if axis is not None]
    seeds = [str(axis.seed) for axis in axes if isinstance(axis, RandomDirection)]
    labels = [_axis_name(axis) for axis in axes if not isinstance(axis, RandomDirection)]
    if labels:
        return " beside ".join([f"towards {' and '.join(labels)}", *(f"seed {s}" for s in seeds)])
    return f"{'plane' if len(axes) > 1 else 'direction'} {k + 1} (seed{'s' * (len(seeds) > 1)} {', '.join(seeds)})"


def _axis_names(grid: Grid) -> list[str]:
    names = ["perturbation α", "perturbation β"]
    return [
        f"{letter}, towards {_axis_name(axis)}" if axis is not None and not isinstance(axis, RandomDirection) else name
        for letter, axis, name in zip("αβ", grid.axes(0), names, strict=True)
    ]


def _axis_name(axis: Direction) -> str:
    return "" if isinstance(axis, RandomDirection) else axis.label or axis.fingerprint[:8]


# The tables, as the template takes them.


def certainty_table(summary: SweepSummary) -> dict[str, Any]:
    """VISAGE and the basin's shape, each with the interval over what could have been chosen otherwise."""
    score, basin = summary.visage, summary.basin
    chosen = {"directions": "new directions", "probes": "new probes", "both": "new directions and probes"}
    rows = [
        ["VISAGE", _number(score.paper), _interval(over.low, over.high, 1), name, over.reason or ""]
        for key, name in chosen.items()
        if score.over is not None
        for over in [getattr(score.over, key)]
    ]
    if summary.published is not None:
        rows.append(["VISAGE, as published", _number(summary.published, 2), UNKNOWN, "", published.SOURCE])
    rows.append(
        [
            "Radius, the nearest edge",
            _number(basin.radius, 3),
            _interval(basin.radius_low, basin.radius_high, 3),
            "new probes",
            basin.reason or "",
        ]
    )
    shapes = {
        "mean_radius": ("Radius, mean of directions", 3),
        "plateau": ("Plateau: mean ASR inside, %", 1),
        "steepness": ("Steepness of the wall, % per unit", 0),
        "asymmetry": ("Asymmetry, −1 to 1", 2),
        "area": ("Area", 4),
    }
    for key, (name, digits) in shapes.items():
        shape: Estimate = getattr(basin, key)
        if shape.value is not None:
            interval = _interval(shape.low, shape.high, digits)
            rows.append([name, _signless(shape.value, digits), interval, "new directions", shape.reason or ""])
    return {"head": ["What", "Value", "95% interval", "Over", "Note"], "words": 1, "rows": rows, "until": 3}


def enough(summary: SweepSummary) -> str:
    """Whether more directions would help."""
    asked = summary.visage.enough
    if asked is None or asked.more is None:
        return ""
    half, more = f"{asked.half_width:.1f}", asked.more
    return (
        f"With {asked.directions} directions VISAGE is known to ± {half} over new directions; about {more} more "
        "would halve that."
    )


def results_table(summary: SweepSummary) -> dict[str, Any]:
    """Every combination of probe set, system prompt and judge."""
    head = ["Probe set", "Group", "System prompt", "Judge", "Prompts", "Origin", "VISAGE", "95% interval", "Radius"]
    beside = any(r.published is not None for r in summary.results)
    rows = []
    for r in summary.results:
        score, basin, kind, origin = r.visage, r.basin, kind_of(r.group), r.origin_asr
        if origin is None or kind == "right":
            at_origin = UNKNOWN
        else:
            at_origin = f"{100 - origin:.1f}% refused" if kind == "refusal" else f"{origin:.1f}% succeed"
        interval = UNKNOWN if score.low is None else f"{score.low:.1f} to {score.high:.1f}"
        radius = f"> {basin.censored_at:.2g}" if basin.censored_at else _number(basin.radius, 2)
        measured = [UNKNOWN] * 3 if kind != "safety" else [_number(score.paper), interval, radius]
        degenerate = UNKNOWN if r.degenerate_share is None else f"{r.degenerate_share:.0f}%"
        keys = list(r.combination)
        papers = [_number(r.published, 2)] if beside else []
        rows.append([*keys, str(r.prompts), at_origin, *measured, degenerate, *papers])
    return {"head": [*head, "Degenerate", *["VISAGE, the paper's"] * beside], "words": 4, "rows": rows}


def category_tables(sweep: Sweep, frame: pd.DataFrame, found: Evidence) -> list[dict[str, Any]]:
    """For each combination whose prompts have categories: what succeeds (or is refused) in each."""
    on_grid = set(frame.loc[frame["on_grid"], "point_id"])
    origin = next((n.point.id for n in sweep.grid.walk() if n.point.is_origin), None)
    tables = []
    for prompts, judge in itertools.product(found.prompt_sets, found.judges):
        categories = {p.id: p.category for p in prompts.prompts}
        asked = found.verdicts["prompt_set_id"] == prompts.id
        rows = found.verdicts[asked & (found.verdicts[judge] != "u")]
        if len(set(categories.values())) < 2 or kind_of(prompts.group) == "right" or rows.empty:
            continue
        refusal = prompts.group in ANSWERED
        rows = rows.assign(
            category=rows["prompt_id"].map(categories),
            hit=(rows[judge] == "r") if refusal else (rows[judge] != "r"),
            ruined=rows[judge] == "d",
        )
        grid, here = rows[rows["point_id"].isin(on_grid)], rows[rows["point_id"] == origin]
        lines = []
        for name in dict.fromkeys(categories.values()):
            own, at = grid[grid["category"] == name], here[here.category == name]
            hits = int(own["hit"].sum())
            of = f"{100 * own['ruined'].sum() / hits:.0f}%" if hits and not refusal else UNKNOWN
            count = sum(category == name for category in categories.values())
            lines.append([name or "(none)", str(count), _share(at["hit"]), _share(own["hit"]), of])
        what = "refused" if refusal else "ASR"
        head = ["Category", "Prompts", f"{what} at the origin", f"{what}, mean over the grid", "of it degenerate"]
        title = f"{prompts.probe_set}, system prompt {prompts.system_prompt}, judge {judge}"
        tables.append({"title": title, "head": head, "words": 1, "rows": lines})
    return tables


def agreement_table(found: Evidence) -> dict[str, Any] | None:
    """How often two judges agree, and Cohen's kappa: agreement beyond what their rates alone would give."""
    rows = []
    for prompts, (one, other) in itertools.product(found.prompt_sets, itertools.combinations(found.judges, 2)):
        told = (found.verdicts[one] != "u") & (found.verdicts[other] != "u")
        own = found.verdicts[told & (found.verdicts["prompt_set_id"] == prompts.id)]
        a, b = (own[one] == "r").to_numpy(), (own[other] == "r").to_numpy()
        if not len(a):
            continue
        agreed = float(np.mean(a == b))
        chance = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
        kappa = UNKNOWN if chance == 1 else f"{(agreed - chance) / (1 - chance):.2f}".replace("-", MINUS)
        counts = [f"{int(c):,}" for c in (len(a), (a & ~b).sum(), (b & ~a).sum())]
        rows.append(
            [prompts.probe_set, prompts.system_prompt, f"{one} and {other}", *counts, f"{100 * agreed:.1f}%", kappa]
        )
    head = ["Probe set", "System prompt", "Judges", "Responses", "only the first: refused", "only the second: refused"]
    return {"head": [*head, "agree", "kappa"], "words": 3, "rows": rows} if rows else None


def checkpoint_table(frame: pd.DataFrame, summary: SweepSummary) -> dict[str, Any] | None:
    """Each checkpoint in the sweep with an ASR of its own, beside what the line or plane says at its place; and how far
    from the model it is, where that is known: as a share of the weights, and in radii of the basin."""
    first = primary_rows(frame).iloc[0]
    lines = []
    for each in summary.checkpoints or summarize_checkpoints(frame):
        here = next(r for r in each.results if r.combination == tuple(first[list(RESULT_KEY)]))
        place = f"α {_signed(each.alpha)}" + ("" if each.beta is None else f", β {_signed(each.beta)}")
        interval = _interval(here.asr_low, here.asr_high, 1)
        where = f"{place}, beside it" if each.projected else place
        radii = "" if each.radii is None else f" ({each.radii:.2g} radii)"
        far = _number(each.distance, 3) + radii
        own = [_number(here.asr), interval, _number(here.surface), str(here.n)]
        lines.append([each.mark, where, *own, far, _number(here.published)])
    head = ["Checkpoint", "At", "ASR %, its own", "95% interval", "ASR % of the grid there", "Prompts"]
    where_known = ["Distance", "ASR %, the paper's"]
    head += where_known
    told = [i for i, name in enumerate(head) if name not in where_known or any(line[i] != UNKNOWN for line in lines)]
    kept = [[line[i] for i in told] for line in lines]
    return {"head": [head[i] for i in told], "words": 2, "rows": kept} if lines else None


# Where it comes from.


def provenance(
    study: Study, sweep: Sweep, summary: SweepSummary, record: Mapping[str, Any], found: Evidence
) -> list[tuple[str, str]]:
    """Name and value of everything one needs to trust the numbers, or to get them again."""
    info, runs = study.info, record.get("runs", [])
    asked = sweep.grid.to_json()
    versions = summary.versions
    rows = [
        ("Model", f"{info.model}, {info.dtype}"),
        ("Weights", " ".join(str(v) for v in (info.source, info.revision) if v)),
        ("Fingerprint", info.fingerprint),
        ("Study", f"{study.id}, noise version {info.noise_version}"),
        ("Sweep", sweep.id),
        ("Grid", ", ".join(f"{name} {_plain(value)}" for name, value in asked.items() if value is not None)),
        ("Seeds", _seeds(sweep.grid)),
        *(("Prompt set", _prompt_set(p)) for p in found.prompt_sets),
        *(("Engine", _pairs(engine)) for engine in summary.engines),
        ("Versions", _pairs({k: v for k, v in versions.items() if k != "platform"})),
        ("Machines", "; ".join(_machines(runs))),
        ("Cost", _cost(summary, runs)),
        ("Runs", "; ".join(_run(run) for run in runs)),
    ]
    return [(name, value) for name, value in rows if value]


def _seeds(grid: Grid) -> str:
    axes = (axis for k in range(grid.lines) for axis in grid.axes(k))
    return ", ".join(dict.fromkeys(str(axis.seed) for axis in axes if isinstance(axis, RandomDirection)))


def _prompt_set(prompts: Any) -> str:
    stop = ", early stop" if prompts.sampling.stop else ""
    return (
        f"{prompts.id}: {len(prompts.prompts)} of {prompts.probe_set} ({prompts.group}), system prompt "
        f"{prompts.system_prompt}, greedy, {prompts.sampling.max_tokens} tokens at most{stop}"
    )


def _machines(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """`2 x AMD EPYC, 2 cores, 8 GiB`: every kind of machine that actors ran on, and how many of it."""
    hosts = {host: machine for run in runs for host, machine in run.get("machines", {}).items()}
    kinds = Counter(_machine(machine) for machine in hosts.values())
    for kind, count in kinds.items():
        yield f"{count} x {kind}" if count > 1 else kind
    if not kinds:  # recorded by an earlier version
        yield from dict.fromkeys(str(run.get("versions", {}).get("platform", "")) for run in runs)


def _machine(machine: Mapping[str, Any]) -> str:
    cards = Counter(machine.get("gpus", ()))
    gpus = [f"{count} x {name}" if count > 1 else name for name, count in cards.items()]
    return ", ".join([machine["cpu"], f"{machine['cores']} cores", f"{machine['memory_gib']} GiB", *gpus])


def _cost(summary: SweepSummary, runs: Sequence[Mapping[str, Any]]) -> str:
    gpu_hours = sum(run.get("gpu_seconds", 0.0) for run in runs) / 3600
    parts = [
        duration(summary.seconds),
        f"{summary.tokens:,} tokens",
        f"at most {summary.actors} actors at once",
        f"{summary.restarts} restarts",
    ]
    return ", ".join([*parts, *([f"{gpu_hours:.2f} GPU-hours"] if gpu_hours else [])])


def _run(run: Mapping[str, Any]) -> str:
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(run["started_at"])) if "started_at" in run else ""
    return " ".join(str(v) for v in (started, run.get("outcome", "")) if v)


def _pairs(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({_pairs(value)})"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


# Numbers.


def _number(value: float | None, digits: int = 1) -> str:
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", MINUS)


def _signless(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", MINUS)


def _interval(low: float | None, high: float | None, digits: int) -> str:
    """`1.0 to 2.0`; open where only the lower end is known."""
    if low is None:
        return UNKNOWN
    return f"{_signless(low, digits)} to {'∞' if high is None else _signless(high, digits)}"


def _share(hits: pd.Series) -> str:
    return f"{100 * hits.mean():.1f}%" if len(hits) else UNKNOWN


def _values(column: pd.Series, digits: int = 9) -> list[float | None]:
    return [None if pd.isna(v) else round(float(v), digits) for v in column.tolist()]
