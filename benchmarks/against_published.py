"""Compare this program with the published way to measure a landscape: the embedded model's line and plane of 21 points.

    python -m benchmarks.against_published [--grids line,plane] [--sample 40] [--minutes M] [--store FILE]

Every visit is the same for all: 40 prompts, 32 tokens at most, greedy, float32, CPU. The ways are

* published: transformers, batches of 4, a stored direction, `load_state_dict` at each point;
* tuned: transformers, one batch of all prompts, the direction added in place;
* whole: this program, whole responses;
* early: this program, which ends a response at a keyword of refusal;
* adaptive: `early` at the points that an adaptive grid measures.

Each point is measured in all ways in turn, so that other work on the machine slows all alike. On the plane,
`published`, `tuned` and `whole` are measured on a random sample, stratified by the distance from the origin. Timings
are appended to a file as they are made; the same command goes on where it was interrupted, and writes what it has to
RESULTS.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.published_ways import (
    EARLY,
    GRIDS,
    PROCESSES,
    PUBLISHED,
    TUNED,
    WHOLE,
    Process,
    Visited,
    prepared_grid,
    serve,
    start,
)
from benchmarks.results import machine, section, table
from orchestrator.analysis.adaptive.geometry import Node
from orchestrator.analysis.requested import AdaptiveLine
from orchestrator.utils.json_lines import read_lines
from orchestrator.utils.parsing import read_json_object

WAYS = (PUBLISHED, TUNED, WHOLE, EARLY)
ADAPTIVE = "adaptive"
GOALS = {("line", PUBLISHED): 8.0, ("plane", PUBLISHED): 14.0, ("plane", TUNED): 3.5}
"""Goals for the time of a way over that of `adaptive`."""
STRATA = 4
_SEED = 19
_PREFILLS = 3  # visits with one token each, of which the median is taken


@dataclass(frozen=True)
class Timing:
    """A visit that was measured.

    Attributes:
        grid: A name of `GRIDS`.
        way: One of `WAYS`.
        node: The point.
        tokens: Maximum number of tokens of a response. None: that of the sweep; 1 measures the prompts alone.
        visited: Its measurements.
        load: Load of the machine before it.
    """

    grid: str
    way: str
    node: Node
    tokens: int | None
    visited: Visited
    load: float


class Store:
    """A file of timings, a line of JSON each."""

    def __init__(self, path: Path) -> None:
        """Read what is stored."""
        self._path = path
        self.timings: dict[tuple[str, str, Node, int | None], Timing] = {}
        self.peaks: list[float] = []
        for value in read_lines(path, {}) if path.exists() else ():
            if "peak" in value:
                self.peaks.append(value["peak"])
                continue
            value |= {"node": tuple(value["node"]), "visited": Visited(**value["visited"])}
            self._keep(Timing(**value))

    def _keep(self, timing: Timing) -> None:
        self.timings[timing.grid, timing.way, timing.node, timing.tokens] = timing

    def add(self, timing: Timing) -> None:
        """Store a timing."""
        self._keep(timing)
        self._append(dataclasses.asdict(timing))

    def add_peak(self, flops: float) -> None:
        """Store a measurement of the machine's arithmetic."""
        self.peaks.append(flops)
        self._append({"peak": flops})

    def _append(self, value: dict[str, object]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(value))  # the newline comes first, so that half a line spoils only itself

    def visits(self, grid: str, way: str) -> dict[Node, Visited]:
        """Return the whole visits of a way."""
        return {t.node: t.visited for t in self.timings.values() if (t.grid, t.way, t.tokens) == (grid, way, None)}

    def prompts_alone(self, way: str) -> float:
        """Return the seconds that the prompts of a visit take; NaN if not measured."""
        seconds = [t.visited.seconds for t in self.timings.values() if t.way == way and t.tokens == 1]
        return statistics.median(seconds) if seconds else math.nan

    @property
    def loads(self) -> list[float]:
        """The load of the machine before each visit."""
        return [timing.load for timing in self.timings.values()]


def strata(line: AdaptiveLine) -> list[list[Node]]:
    """Return the nodes of a plane in groups of about the same size, by distance from the origin."""
    center = np.array(line.shape.center)
    nodes = sorted(line.shape.nodes(), key=lambda node: (float(np.linalg.norm(np.array(node) - center)), node))
    return [[tuple(map(int, node)) for node in part] for part in np.array_split(np.array(nodes), STRATA)]


def sample(line: AdaptiveLine, size: int) -> list[Node]:
    """Return the nodes at which every way is measured: all of a line, a stratified random sample of a plane."""
    if line.shape.is_line:
        return line.shape.nodes()
    rng = np.random.default_rng(_SEED)
    each = math.ceil(size / STRATA)
    return [part[i] for part in strata(line) for i in sorted(rng.permutation(len(part))[:each].tolist())]


def todo(grid: str, line: AdaptiveLine, size: int) -> Iterator[tuple[str, str, Node, int | None]]:
    """Yield the visits of a grid in the order in which they are measured: sampled nodes first, all ways in turn."""
    rng = np.random.default_rng(_SEED)
    sampled = sample(line, size)
    others = sorted(set(line.shape.nodes()) - set(sampled))
    for k, i in enumerate(rng.permutation(len(sampled))):
        for way in WAYS:
            if k < _PREFILLS:
                yield grid, way, sampled[i], 1
            yield grid, way, sampled[i], None
    for i in rng.permutation(len(others)):
        yield grid, EARLY, others[i], None


def measure(store: Store, lines: dict[str, AdaptiveLine], size: int, minutes: float) -> bool:
    """Measure what is not stored yet; return whether nothing is left when the time is over."""
    jobs = [job for grid, line in lines.items() for job in todo(grid, line, size) if job not in store.timings]
    if not jobs:
        return True
    with ExitStack() as stack:
        processes: dict[str, Process] = {}
        for name, ways in PROCESSES.items():
            process = stack.enter_context(start(name))
            process.visit(ways[0], jobs[0][0], jobs[0][2], 1)  # the first call takes longer
            processes |= dict.fromkeys(ways, process)
        end = time.monotonic() + 60.0 * minutes
        for number, (grid, way, node, tokens) in enumerate(jobs):
            if time.monotonic() >= end:
                return False
            if number % 20 == 0:
                store.add_peak(processes[TUNED].peak())
            load = os.getloadavg()[0]
            visited = processes[way].visit(way, grid, node, tokens)
            store.add(Timing(grid, way, node, tokens, visited, load))
            print(f"{number + 1} of {len(jobs)}: {grid} {way} {node}: {visited.seconds:.1f} s", flush=True)
    return True


@dataclass(frozen=True)
class Ratio:
    """A ratio of two totals, estimated from a stratified sample.

    Attributes:
        value: The ratio.
        half_width: Of its 95% interval. 0 if every unit was measured.
    """

    value: float
    half_width: float


def ratio(strata: Sequence[tuple[int, Sequence[float], Sequence[float]]]) -> Ratio:
    """Return the total of y over the total of x, the combined ratio estimate of a stratified sample.

    W. G. Cochran, "Sampling Techniques", 3rd edition, section 6.11, with a t quantile.

    Args:
        strata: For each stratum its number of units, and y and x of those sampled.
    """
    totals = [(n * float(np.mean(y)), n * float(np.mean(x))) for n, y, x in strata]
    below = math.fsum(x for _, x in totals)
    value = math.fsum(y for y, _ in totals) / below
    variance, degrees = 0.0, 0
    for n, y, x in strata:
        if n == len(y):
            continue
        residuals = np.array(y) - value * np.array(x)
        degrees += len(y) - 1
        spread = float(np.var(residuals, ddof=1)) if len(y) > 1 else math.inf
        variance += n**2 * (1.0 - len(y) / n) * spread / len(y)
    return Ratio(value, float(stats.t.ppf(0.975, degrees)) * math.sqrt(variance) / below if degrees else 0.0)


def over_early(store: Store, grid: str, line: AdaptiveLine, way: str) -> Ratio | None:
    """Return the time of a way over that of `early` on a whole grid. None if a stratum has too few visits."""
    slow, fast = store.visits(grid, way), store.visits(grid, EARLY)
    groups = []
    for part in [line.shape.nodes()] if line.shape.is_line else strata(line):
        both = [node for node in part if node in slow and node in fast]
        if len(both) < min(2, len(part)):
            return None
        groups.append((len(part), [slow[n].seconds for n in both], [fast[n].seconds for n in both]))
    return ratio(groups)


def operations(visited: Sequence[Visited], prompt_tokens: int) -> float:
    """Return the floating-point operations of the matrix products of visits of the embedded model; attention left out.

    Each token but the last of a response passes all layers; each generated one takes a product with the vocabulary.
    """
    model = prepared_grid("line").model
    assert model is not None
    shape = read_json_object(model.path / "config.json")
    vocabulary = shape["vocab_size"] * shape["hidden_size"]
    layers = model.n_parameters - vocabulary
    return math.fsum(
        2.0 * layers * (prompt_tokens + each.generated - each.judged) + 2.0 * vocabulary * each.generated
        for each in visited
    )


def rows(store: Store, grid: str, line: AdaptiveLine) -> list[list[str]]:
    """Return the rows of a grid's table."""
    (prompts,) = prepared_grid(grid).prompt_sets
    prompt_tokens = sum(map(len, prompts.token_ids))
    flops = statistics.median(store.peaks) if store.peaks else math.nan
    early = store.visits(grid, EARLY)
    whole = len(early) == line.shape.size
    counts = {node: (each.unsafe, each.judged) for node, each in early.items()}
    chosen = line.refine({line.points[node].id: count for node, count in counts.items()}).needed if whole else ()
    early_total = math.fsum(each.seconds for each in early.values()) if whole else math.nan
    adaptive_total = math.fsum(early[node].seconds for node in chosen) if whole else math.nan
    cells = []
    for way in (*WAYS, ADAPTIVE):
        visits = [early[node] for node in chosen] if way == ADAPTIVE else list(store.visits(grid, way).values())
        if not visits:
            continue
        seconds = math.fsum(each.seconds for each in visits)
        per_early = Ratio(adaptive_total / early_total, 0.0) if way == ADAPTIVE else over_early(store, grid, line, way)
        prompts_alone = store.prompts_alone(EARLY if way == ADAPTIVE else way)
        total = None if per_early is None else Ratio(*(early_total * v for v in dataclasses.astuple(per_early)))
        over = (
            None
            if per_early is None
            else Ratio(*(early_total / adaptive_total * v for v in dataclasses.astuple(per_early)))
        )
        goal = GOALS.get((grid, way))
        cells.append(
            [
                way,
                f"{len(visits)} of {line.shape.size}",
                f"{seconds / len(visits):.2f}",
                _cell(total, 0),
                _cell(per_early, 2),
                _cell(over, 1),
                "" if goal is None else f"{goal:g}",
                f"{sum(each.generated for each in visits) / len(visits):,.0f}",
                f"{100.0 * prompts_alone * len(visits) / seconds:.0f}",
                f"{100.0 * operations(visits, prompt_tokens) / flops / seconds:.0f}",
            ]
        )
    return cells


def _cell(value: Ratio | None, digits: int) -> str:
    if value is None or math.isnan(value.value):
        return "not yet"
    error = f" ± {value.half_width:.{digits}f}" if value.half_width else ""
    return f"{value.value:.{digits}f}{error}"


HEADER = [
    "way",
    "points measured",
    "seconds a point",
    "whole grid, s",
    "over early",
    "over adaptive",
    "goal",
    "tokens generated a point",
    "prompts' share, %",
    "share of the arithmetic limit, %",
]


def report(store: Store, lines: dict[str, AdaptiveLine], where: str) -> str:
    """Return the section of RESULTS.md."""
    loads = store.loads
    flops = statistics.median(store.peaks) / 1e9 if store.peaks else math.nan
    texts = [
        "## Against the published way, on a CPU",
        f"`python -m benchmarks.against_published`, {where}, {os.environ.get('OMP_NUM_THREADS', 'all')} threads; load "
        f"{min(loads):.1f} to {max(loads):.1f} (median {statistics.median(loads):.1f}) before the visits. The embedded "
        "model, 40 prompts, at most 32 tokens, float32. `published`: transformers, batches of 4, a stored direction, "
        "`load_state_dict` at each point. `tuned`: transformers, one batch, the direction added in place. `whole` and "
        "`early`: visits of this program, with whole responses and with early stop. `adaptive`: `early` at the points "
        "that an adaptive grid measures. Visits alone are timed: the start of the process, scheduling, storing and "
        "judging are left out for all. `±`: 95% interval over the points that were not measured (combined ratio "
        "estimate of the stratified sample). `prompts' share`: time of a visit that generates one token, over that of "
        "a visit. `share of the arithmetic limit`: time that the matrix products of the visits would take at the speed "
        f"of one of 2,048 x 2,048 in float32, {flops:.0f} GFLOP/s on this machine, over the time they took.",
    ]
    for grid, line in lines.items():
        cells = rows(store, grid, line)
        if cells:
            texts += [
                f"### {grid[0].upper()}{grid[1:]} of {' x '.join(map(str, line.shape.sizes))}",
                table(HEADER, cells),
            ]
    return "\n\n".join(texts)


def main() -> None:
    """Measure and report, or with --serve be one of the processes that measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grids", default="line,plane", help="which of line and plane to measure (default: both)")
    parser.add_argument("--sample", type=int, default=40, help="points of the plane to measure in all ways")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time; run again to go on")
    parser.add_argument("--store", type=Path, default=Path("outputs/against_published.jsonl"), help="file of timings")
    parser.add_argument("--serve", choices=PROCESSES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.grids.split(",")) - GRIDS.keys():
        parser.error(
            f"--grids: {', '.join(sorted(unknown))}: expected names of {', '.join(GRIDS)}, separated by commas"
        )
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if options.serve is not None:
        serve(options.serve)
        return
    where = machine()
    store = Store(options.store)
    lines = {grid: AdaptiveLine(prepared_grid(grid).sweep.grid, 0) for grid in options.grids.split(",")}
    done = measure(store, lines, options.sample, options.minutes)
    if not store.timings:
        parser.error("--minutes: no visit was measured in this time: give it more")
    text = report(store, lines, where)
    section("against_published", text)
    print(text)
    if not done:
        print("\nThe time is over; the same command goes on.")


if __name__ == "__main__":
    main()
