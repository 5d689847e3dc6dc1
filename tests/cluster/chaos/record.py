"""Counts of a disturbed run, and the record of all runs in benchmarks/RESULTS.md."""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import section, table
from tests.cluster.chaos.hosts import ROOT

RUNS = ROOT / "benchmarks" / "data" / "chaos.jsonl"


@dataclass(frozen=True)
class Conditions:
    """The machine and the options of a disturbed run.

    Attributes:
        machine: The machine.
        engine: The engine.
        seconds: Seconds for which the sweeps were disturbed.
        seed: The seed of the disturbances.
    """

    machine: str
    engine: str
    seconds: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class ChaosOutcome:
    """The counts of a disturbed run.

    Attributes:
        conditions: Where and how it was disturbed.
        disturbances: How often each disturbance happened.
        sweeps: Number of sweeps, one after the other.
        drivers: Number of drivers that were started.
        deaths: Number of actors that were replaced.
        rows: Number of stored answers.
        expected: Number of answers of the undisturbed study.
        lost: Answers that are missing.
        doubled: Answers that are stored twice.
        different: Answers that differ from the undisturbed ones.
        unreadable: Files that do not verify.
        unequal: Sweeps whose landscape or summary differs from the undisturbed one.
        equal_after_merging: Whether the study equals the undisturbed one after its parts were merged.
        reads: How often the reader read the study while it was disturbed.
        checked: Number of answers that were checked meanwhile, by who gave them.
        problems: One line for each fault.
        note: What became of its faults, added by hand to a recorded run.
    """

    conditions: Conditions
    disturbances: Mapping[str, int]
    sweeps: int
    drivers: int
    deaths: int
    rows: int
    expected: int
    lost: int
    doubled: int
    different: int
    unreadable: int
    unequal: int
    equal_after_merging: bool
    reads: int
    checked: Mapping[str, int]
    problems: tuple[str, ...]
    note: str = ""

    @property
    def is_sound(self) -> bool:
        """True if the study equals the undisturbed one, and every answer meanwhile was right."""
        faults = self.lost or self.doubled or self.different or self.unreadable or self.unequal or self.problems
        return not faults and self.rows == self.expected and self.equal_after_merging

    def lines(self) -> list[str]:
        """Return the counts as lines for the terminal."""
        counts = ", ".join(f"{name} {n}" for name, n in sorted(self.disturbances.items()))
        checked = ", ".join(f"{name} {n}" for name, n in sorted(self.checked.items()))
        merged = "equal" if self.equal_after_merging else "NOT EQUAL"
        return [
            f"survived {sum(self.disturbances.values())} disturbances ({counts}); {self.sweeps} sweeps, "
            f"{self.drivers} drivers, {self.deaths} actors replaced",
            f"rows {self.rows} of {self.expected}: lost {self.lost}, doubled {self.doubled}, "
            f"different {self.different}; unreadable files {self.unreadable}; unequal sweeps {self.unequal}; "
            f"after merging {merged}",
            f"checked in {self.reads} reads: {checked}; {len(self.problems)} problems",
            *(f"  {problem}" for problem in self.problems[:20]),
            "the study equals the undisturbed one" if self.is_sound else "THE STUDY DOES NOT EQUAL THE UNDISTURBED ONE",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values, its problems as text -> how often."""
        return {**dataclasses.asdict(self), "problems": dict(collections.Counter(map(_shortened, self.problems)))}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ChaosOutcome:
        """Return an outcome that was recorded."""
        conditions = Conditions(**document["conditions"])
        problems = tuple(text for text, n in document["problems"].items() for _ in range(n))
        return cls(**{**document, "conditions": conditions, "problems": problems})


def record(outcome: ChaosOutcome) -> None:
    """Add an outcome to the recorded runs, and write the sum of all of them to RESULTS.md."""
    with open(RUNS, "a", encoding="utf-8") as file:
        file.write(json.dumps(outcome.to_json()) + "\n")
    section("chaos", markdown(recorded(RUNS)))


def recorded(path: Path) -> list[ChaosOutcome]:
    """Return the recorded runs."""
    return [ChaosOutcome.from_json(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def markdown(runs: Sequence[ChaosOutcome]) -> str:
    """Return the section for RESULTS.md: the sums over all runs, each run, and every fault that was found."""
    disturbances = _sum(run.disturbances for run in runs)
    checked = _sum(run.checked for run in runs)
    counts = [[name, f"{n:,}"] for name, n in sorted(disturbances.items())]

    def total(name: str) -> str:
        return f"{sum(getattr(run, name) for run in runs):,}"

    results = [
        ["sweeps that were disturbed", total("sweeps")],
        ["answers stored, of those of undisturbed runs", f"{total('rows')} of {total('expected')}"],
        ["lost, doubled, different", ", ".join(map(total, ("lost", "doubled", "different")))],
        ["files that do not verify", total("unreadable")],
        ["sweeps whose landscape or summary differs", total("unequal")],
        ["runs whose study is not equal after merging", str(sum(not run.equal_after_merging for run in runs))],
        *([f"answers checked meanwhile, of {name}", f"{n:,}"] for name, n in sorted(checked.items())),
        ["faults of any kind, listed below", str(sum(len(run.problems) for run in runs))],
        ["drivers started, actors replaced", f"{total('drivers')}, {total('deaths')}"],
    ]
    listed = [
        [f"`--engine {how.engine} --seconds {how.seconds:.0f} --seed {how.seed}`", how.machine,
         str(sum(run.disturbances.values())), str(len(run.problems))] for run in runs for how in [run.conditions]
    ]  # fmt: skip
    faults = [
        f"* seed {run.conditions.seed}, {n} time{'s' if n > 1 else ''}: `{text}`"
        for run in runs
        for text, n in collections.Counter(map(_shortened, run.problems)).items()
    ]
    notes = [f"* seed {run.conditions.seed}: {run.note}" for run in runs if run.note]
    return "\n\n".join([
        "## Disturbed sweeps",
        "`python -m tests.cluster.chaos OPTIONS --record`: sweeps on three hosts in network namespaces. The counts are "
        f"sums over {len(runs)} runs, {sum(run.conditions.seconds for run in runs):,.0f} s of disturbances together.",
        table(["disturbance", "times"], [*counts, ["all", f"{sum(disturbances.values()):,}"]]),
        table(["result", "count"], results),
        table(["options", "machine", "disturbances", "faults"], listed),
        *(["Faults that were found:", "\n".join(faults)] if faults else []),
        *(["What became of them:", "\n".join(notes)] if notes else []),
    ])  # fmt: skip


def _shortened(problem: str) -> str:
    """Return a problem without the number of the read, temporary folders and the middle of a traceback."""
    text = re.sub(r"\S*/chaos-\w+/", "", re.sub(r"^read \d+: ", "", problem.strip()))
    lines = text.splitlines()
    if len(lines) > 1:
        text = f"{lines[0].partition(':')[0]}: {lines[-1]}"
    return text[:200].replace("`", "'")


def _sum(counts: Any) -> collections.Counter[str]:
    total: collections.Counter[str] = collections.Counter()
    for count in counts:
        total.update(count)
    return total
