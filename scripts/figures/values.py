"""Turn results into the text of a quoted number, with its 95% interval."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.calibration import labeled_share
from orchestrator.analysis.comparison.compare import compare
from orchestrator.analysis.comparison.sweeps import read_sweeps
from orchestrator.analysis.landscape import grid_points
from orchestrator.analysis.reducer import read_results
from orchestrator.analysis.results.checkpoints import CheckpointSummary
from orchestrator.analysis.results.keys import RESULT_KEY
from orchestrator.analysis.results.scores import VisageIntervals
from orchestrator.analysis.results.sweep import ResultSummary, SweepSummary
from orchestrator.report.measures import measure_of
from orchestrator.store.records import SweepRecord
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.utils.console import duration
from scripts.figures.markdown import ROOT

BENCHMARKS = ROOT / "benchmarks" / "RESULTS.md"


Options = Mapping[str, str]


class NotMeasuredError(Exception):
    """The results lack a number because another study, on which it depends, was not measured before them."""


@dataclass(frozen=True)
class SweepResults:
    """The results of a reduced sweep: landscape, summary, and the record of its runs."""

    frame: pd.DataFrame
    summary: SweepSummary
    record: SweepRecord
    path: Path

    @classmethod
    def of(cls, stored: StoredSweep) -> SweepResults:
        """Read the results. Raises UserError if the sweep is not reduced."""
        frame, summary = read_results(stored.folder)
        return cls(frame, summary, stored.record, stored.folder.path)

    def selected(self, options: Options) -> tuple[pd.DataFrame, ResultSummary]:
        """Return the rows on the grid and the summary of the result that probe_set, system_prompt and judge select.

        The primary result has the values that the options leave open.
        """
        primary = self.summary.primary.to_json()
        wanted = {name: options.get(name, primary[name]) for name in RESULT_KEY if name != "group"}
        matching = [r for r in self.summary.results if all(getattr(r, name) == v for name, v in wanted.items())]
        if not matching:
            raise ValueError(f"no result has {wanted}")
        rows = self.frame[self.frame["on_grid"]]
        for name in RESULT_KEY:
            rows = rows[rows[name] == getattr(matching[0], name)]
        return rows, matching[0]

    def measured(self, options: Options) -> pd.DataFrame:
        """Return the selected result's rows with the percentage of its group in value, low and high.

        These options select among the rows: `alpha` and `beta` (one place), `from` and `to` (a range of alpha),
        `distance` (every alpha that is at least as far from 0), and `line`.
        """
        rows, result = self.selected(options)
        if "line" in options:
            rows = rows[rows["line"] == int(options["line"])]
        low = float(options.get("alpha", options.get("from", "-inf")))
        high = float(options.get("alpha", options.get("to", "inf")))
        rows = rows[(rows["alpha"] > low - 1e-9) & (rows["alpha"] < high + 1e-9)]
        if "beta" in options:
            rows = rows[(rows["beta"] - float(options["beta"])).abs() < 1e-9]
        if "distance" in options:
            rows = rows[rows["alpha"].abs() > float(options["distance"]) - 1e-9]
        if not len(rows):
            raise ValueError(f"no point has {dict(options)}")
        return measure_of(result.group).of(rows)

    def checkpoint(self, options: Options) -> CheckpointSummary:
        """Return the checkpoint whose name is `mark`."""
        marks = {checkpoint.mark: checkpoint for checkpoint in self.summary.checkpoints}
        if options["mark"] not in marks:
            raise ValueError(f"no checkpoint is called {options['mark']}: there are {', '.join(marks)}")
        return marks[options["mark"]]


@dataclass(frozen=True)
class Results:
    """The results that a field may use.

    Attributes:
        name: The name of the study that is quoted.
        sweeps: The results of each study of the verb `run`, by name.
        geometries: What `geometry --json` printed for each study of that verb, by name.
    """

    name: str
    sweeps: Mapping[str, SweepResults] = field(default_factory=dict)
    geometries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def sweep(self) -> SweepResults:
        """The results of the study that is quoted."""
        return self.sweeps[self.name]

    @property
    def available(self) -> bool:
        """True if there are results of the study that is quoted."""
        return self.name in self.sweeps or self.name in self.geometries


def number(value: float | None, digits: int = 1) -> str:
    """Format a number with this many digits after the point, and `unknown` for None."""
    return "unknown" if value is None else f"{value:.{digits}f}"


def interval(value: float | None, low: float | None, high: float | None, digits: int = 1, unit: str = "") -> str:
    """Format a value with its interval: `7.5% (1.4 to 21.5)`. An open end is `inf`, an unknown interval is named."""
    if low is None and high is None:
        return f"{number(value, digits)}{unit} (interval unknown)"
    ends = "0" if low is None else number(low, digits), "inf" if high is None else number(high, digits)
    return f"{number(value, digits)}{unit} ({ends[0]} to {ends[1]})"


def point(results: Results, options: Options) -> str:
    """The percentage at one point, over new probes: successful attacks, refused benign requests, or right answers."""
    row = _only(results.sweep.measured({"alpha": "0", "line": "0", **options}))
    return interval(row["value"], row["low"], row["high"], unit="%")


def origin(results: Results, options: Options) -> str:
    """The ASR of the unperturbed model, over new probes. It need not be a point of the grid."""
    result = results.sweep.selected(options)[1]
    return interval(result.origin_asr, result.origin_low, result.origin_high, unit="%")


def highest(results: Results, options: Options) -> str:
    """The highest percentage among the selected points."""
    row = results.sweep.measured(options).sort_values(["value", "alpha"]).iloc[-1]
    return interval(row["value"], row["low"], row["high"], unit="%")


def lowest(results: Results, options: Options) -> str:
    """The lowest percentage among the selected points."""
    row = results.sweep.measured(options).sort_values(["value", "alpha"]).iloc[0]
    return interval(row["value"], row["low"], row["high"], unit="%")


def refused(results: Results, options: Options) -> str:
    """The refusals at one point: `37 of 40 requests (92.5%, 95% interval 78.5 to 98.6)`."""
    row = _only(results.sweep.measured({"alpha": "0", "line": "0", **options}))
    ends = f"{100 - row['asr_high']:.1f} to {100 - row['asr_low']:.1f}"
    share = f"{100 - row['asr']:.1f}%, 95% interval over new requests {ends}"
    return f"{row['n_refused']} of the {row['n']} requests ({share})"


def visage(results: Results, options: Options) -> str:
    """VISAGE over new directions and probes (over new probes with one direction), and its number of points."""
    scored = results.sweep.selected(options)[1].visage
    if scored.paper is None:
        return "undefined"
    low, high = _ends(scored.over)
    return f"{interval(scored.paper, low, high)} over {scored.counted} of {scored.points} points"


def margin(results: Results, options: Options) -> str:
    """The mean margin over new directions and probes, or over new probes with one direction."""
    scored = results.sweep.selected(options)[1].margin
    if scored is None or scored.value is None:
        return "undefined"
    return interval(scored.value, *_ends(scored.over))


def radius(results: Results, options: Options) -> str:
    """The smallest radius, over new probes."""
    basin = results.sweep.selected(options)[1].basin
    if basin.radius is None:
        return f"more than {basin.censored_at:g}" if basin.censored_at else "undefined"
    return interval(basin.radius, basin.radius_low, basin.radius_high, int(options.get("digits", 2)))


def mean_radius(results: Results, options: Options) -> str:
    """The mean radius over new directions."""
    mean = results.sweep.selected(options)[1].basin.mean_radius
    return interval(mean.value, mean.low, mean.high, int(options.get("digits", 2)))


def degenerate(results: Results, options: Options) -> str:
    """The share of the successes on the grid that are degenerate by the judge, not corrected for its errors."""
    rows, result = results.sweep.selected(options)
    if result.degenerate_share is None:
        return "undefined"
    on_grid = grid_points(rows)
    ruined, successes = int(on_grid["n_degenerate"].sum()), int((on_grid["n"] - on_grid["n_refused"]).sum())
    return f"{100 * ruined / successes:.1f}% ({ruined:,} of {successes:,})"


def corrected(results: Results, options: Options) -> str:
    """The share of the successes that are degenerate, corrected for the judge's errors."""
    classes = results.sweep.selected(options)[1].classes
    known = None if classes is None else classes.corrected.known
    return "undefined" if known is None else f"{known.value:.1f}% ({known.low:.1f} to {known.high:.1f})"


def labeled(results: Results, options: Options) -> str:
    """The share of the successes that are degenerate by labels of other responses of the embedded model."""
    rows, result = results.sweep.selected(options)
    on_grid = grid_points(rows)
    sums = (on_grid["n"] - on_grid["n_refused"]).groupby(on_grid["alpha"].abs().round(9)).sum()
    successes = dict(zip(sums.index.tolist(), sums.tolist(), strict=True))
    value, low, high = labeled_share(successes, result.group, int(options["tokens"]))
    return f"{value:.1f}% ({low:.1f} to {high:.1f})"


def checkpoint(results: Results, options: Options) -> str:
    """A checkpoint's own ASR over new probes, or what `show` names: distance, radii, matched or rounding."""
    chosen = results.sweep.checkpoint(options)
    show = options.get("show", "asr")
    if show == "distance":
        return "unknown" if chosen.distance is None else f"{chosen.distance:.2g}"
    if show == "radii":
        return interval(chosen.radii, chosen.radii_low, chosen.radii_high, int(options.get("digits", 3)))
    if show == "matched":
        by_direction = {matched.direction: matched for matched in chosen.matched}
        if options["direction"] not in by_direction:
            raise NotMeasuredError(options["direction"])
        matched = by_direction[options["direction"]]
        return interval(matched.radii, matched.radii_low, matched.radii_high, int(options.get("digits", 3)))
    primary = chosen.results[0]
    if show == "surface":
        return interval(primary.surface, primary.surface_low, primary.surface_high, unit="%")
    return interval(primary.asr, primary.asr_low, primary.asr_high, unit="%")


def points(results: Results, options: Options) -> str:
    """The number of points, times the number of prompt sets if there are several."""
    sets = len({result.prompts_key for result in results.sweep.summary.results})
    return f"{results.sweep.summary.points_total} x {sets}" if sets > 1 else f"{results.sweep.summary.points_total}"


def new_tasks(results: Results, options: Options) -> str:
    """The number of tasks that were run for this study: the others were stored before."""
    return f"{sum(run.tasks for run in results.sweep.record.runs)}"


def time(results: Results, options: Options) -> str:
    """The duration of all runs, training of recipes excluded."""
    return duration(sum(run.seconds for run in results.sweep.record.runs if run.tasks))


def machine(results: Results, options: Options) -> str:
    """The machines on which the study was measured."""
    hosts = [host for run in results.sweep.record.runs for host in run.machines.values()]
    return ", ".join(dict.fromkeys(f"{host.get('cpu')}, {host.get('cores')} cores" for host in hosts)) or "unknown"


def difference(results: Results, options: Options) -> str:
    """The difference between this study and the one in `to`: of visage, of margin, or the number of points."""
    paths = [results.sweeps[options["to"]].path, results.sweep.path]
    (pair,) = compare(read_sweeps(paths)).differences
    if options.get("show") == "points":
        return f"{sum(p.p_corrected < 0.05 for p in pair.points)} of {len(pair.points)} points"
    score = pair.margin if options.get("show") == "margin" else pair.visage
    return interval(score.difference, score.low, score.high)


def rounding(results: Results, options: Options) -> str:
    """The share of a displacement that the engine's rounding adds, percent: of `name`, or the range over all."""
    return _geometry_range(results, options, "rounding")


def share(results: Results, options: Options) -> str:
    """The length of a displacement relative to the weights' norm, percent: of `name`, or the range over all."""
    return _geometry_range(results, options, "share")


def cell(results: Results, options: Options) -> str:
    """A cell of benchmarks/RESULTS.md: the row that begins with `row` and `column` of the table in `section`.

    With `pattern`, a regular expression, the text of its first group.
    """
    text = BENCHMARKS.read_text(encoding="utf-8").partition(f"<!-- {options['section']} -->")[2]
    text = text.partition("<!-- /")[0]
    if "column" in options:
        text = _table_cell(text, options["row"], options["column"])
    if "pattern" in options:
        match = re.search(options["pattern"], text)
        if match is None:
            raise ValueError(f"section {options['section']} has no {options['pattern']}")
        text = match[1]
    return text


def coverage(results: Results, options: Options) -> str:
    """The coverage of each interval in benchmarks/RESULTS.md: its lowest and highest row, as a table."""
    text = BENCHMARKS.read_text(encoding="utf-8").partition("<!-- coverage -->")[2].partition("<!-- /")[0]
    header, _, *rows = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    lines = [
        "| interval | lowest coverage of a row | highest coverage of a row | at most this much wider than needed |",
        "|---|---|---|---|",
    ]
    for column in range(3, len(header)):
        cells = [row[column] for row in rows if column < len(row) and row[column].strip()]
        values = [float(cell.split()[0]) for cell in cells]
        wide = [float(match[1]) for cell in cells if (match := re.search(r"\(([\d.]+)x\)", cell))]
        worst = f"{max(wide)}x" if wide else ""
        lines.append(f"| {header[column].strip()} | {min(values)} | {max(values)} | {worst} |")
    return "\n\n" + "\n".join(lines) + "\n\n"


FIELDS: dict[str, Callable[[Results, Options], str]] = {
    function.__name__: function
    for function in (
        point,
        origin,
        highest,
        lowest,
        refused,
        visage,
        margin,
        radius,
        mean_radius,
        degenerate,
        corrected,
        labeled,
        checkpoint,
        points,
        new_tasks,
        time,
        machine,
        difference,
        rounding,
        share,
        cell,
        coverage,
    )
}
"""The fields that figures.toml can name."""


def _only(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the only row. Raises ValueError if there are several."""
    (row,) = rows.to_dict("records")
    return {str(name): value for name, value in row.items()}


def _ends(over: VisageIntervals | None) -> tuple[float | None, float | None]:
    """Return the interval over directions and probes or, with one direction, that over probes."""
    if over is None:
        return None, None
    chosen = over.probes if over.both.low is None else over.both
    return chosen.low, chosen.high


def _geometry_range(results: Results, options: Options, key: str) -> str:
    """Return a percentage of one checkpoint, or its range over all checkpoints, with two significant digits."""
    checkpoints = results.geometries[results.name]["checkpoints"]
    shares = sorted(c[key] for c in checkpoints if c["name"] == options.get("name", c["name"]))
    texts = [f"{100 * share:.2g}" for share in shares]
    return f"{texts[0]}%" if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}%"


def _table_cell(text: str, row: str, column: str) -> str:
    header: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif column in header and " | ".join(cells).startswith(row):
            return cells[header.index(column)]
    raise ValueError(f"no table has the row {row} and the column {column}")
