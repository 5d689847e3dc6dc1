"""Find out what the studies of figures.toml lack, measure it with the product's own verbs, and read the results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import orchestrator
from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.models.targets import all_on_this_machine
from orchestrator.pipeline.estimate import estimate_prepared, estimate_sweep
from orchestrator.pipeline.prepare import find_missing, prepare
from orchestrator.pipeline.reduce import judge_and_reduce
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.utils.console import duration
from orchestrator.utils.errors import ExitCode, UserError
from scripts.figures.definitions import Study
from scripts.figures.markdown import ROOT

GEOMETRY_SECONDS = 60.0
"""Assumed duration of `geometry` with checkpoints of the embedded model."""


@dataclass(frozen=True)
class State:
    """The progress of a study: its missing tasks and its stored sweep.

    Attributes:
        study: Its definition.
        missing: Number of tasks to run.
        seconds: Their estimated duration.
        stored: The sweep. None if its recipes are not trained yet, or for `geometry`.
        skipped: Why the study cannot be measured here. None if it can.
    """

    study: Study
    missing: int = 0
    seconds: float = 0.0
    stored: StoredSweep | None = None
    skipped: str | None = None


def examine(study: Study, out: Path) -> State:
    """Return the progress of a study below `out`. Nothing is measured; weights may be fetched and read."""
    options = study.options()
    if options is None:
        return State(study, skipped=f"set {study.needs} to measure it")
    if study.verb == "geometry":
        return State(study) if geometry_path(study, out).exists() else State(study, 1, GEOMETRY_SECONDS)
    presets = Presets()
    config = compose([*options, f"out={out}"])
    if not all_on_this_machine(config, presets):
        plan = estimate_sweep(config, presets)
        return State(study, plan.tasks, 3600 * (plan.wall_hours or 0.0))
    prepared = prepare(config, presets)
    missing = find_missing(prepared, prepared.stored).tasks
    plan = estimate_prepared(prepared, missing, prepared.stored)
    stored = StoredSweep.open(prepared.stored.folder) if prepared.stored.folder.path.is_dir() else None
    return State(study, len(missing), 3600 * (plan.wall_hours or 0.0) if missing else 0.0, stored)


def announcement(states: Sequence[State]) -> Iterator[str]:
    """Yield the lines that say what will be measured and how long that takes."""
    for state in states:
        if state.skipped:
            yield f"{state.study.name}: skipped, {state.skipped}"
        elif state.missing:
            yield f"{state.study.name}: {state.missing} tasks to run, about {duration(state.seconds)}"
    waiting = [state for state in states if state.missing]
    stored = sum(not state.missing and not state.skipped for state in states)
    if waiting:
        seconds = sum(state.seconds for state in waiting)
        yield f"{stored} of {len(states)} studies are stored; measuring the others takes about {duration(seconds)}, "
        yield "finetunings not counted. Interrupt at any time: the same command continues."
    else:
        yield f"{stored} of {len(states)} studies are stored: nothing to measure."


def measure(study: Study, out: Path) -> int:
    """Run what is missing of a study, in a process of its own with its usual display, and return the exit code."""
    options = study.options() or []
    command = [sys.executable, "-m", "orchestrator", study.verb, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if study.verb == "run":
        command.append(f"out={out}")
        completed = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=False)
        return completed.returncode
    printed = subprocess.run([*command, "--json"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=False)
    if printed.returncode == ExitCode.COMPLETE:
        path = geometry_path(study, out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".tmp").write_bytes(printed.stdout)
        path.with_suffix(".tmp").replace(path)
    return printed.returncode


def geometry_path(study: Study, out: Path) -> Path:
    """Return the file that holds what `geometry` printed for a study."""
    return out / "geometry" / f"{hashlib.sha256(study.command.encode()).hexdigest()[:16]}.json"


def read_geometry(study: Study, out: Path) -> Mapping[str, object]:
    """Return what `geometry` printed for a study."""
    document: dict[str, object] = json.loads(geometry_path(study, out).read_text(encoding="utf-8"))
    return document


class Reductions:
    """Judges and reduces stored sweeps again if the code, or an earlier sweep, has changed since the last time.

    Attributes:
        changed: Whether any sweep was reduced in this call. All later sweeps then are, since some results depend on
            other sweeps of the study.
    """

    def __init__(self, out: Path, console: Console) -> None:
        self._path = out / "reduced.json"
        self._console = console
        self._code = _fingerprint()
        self._done: dict[str, str] = json.loads(self._path.read_text()) if self._path.exists() else {}
        self.changed = False

    def update(self, study: Study, stored: StoredSweep, was_run: bool) -> None:
        """Judge and reduce a sweep if necessary. Its responses are not generated again."""
        name = stored.folder.path.name
        if was_run or self.changed or self._done.get(name) != self._code:
            self.changed = True
            options = study.options() or []
            judge_and_reduce(compose([*options, f"out={stored.study.out}"]), stored, self._console)
            self._done[name] = self._code
            self._path.write_text(json.dumps(self._done, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _fingerprint() -> str:
    """Return a hash of the code and data that turn responses into results and pictures."""
    folder = Path(str(orchestrator.__file__)).parent
    digest = hashlib.sha256()
    for package in ("analysis", "judges", "pipeline", "report", "scoring", "data/english"):
        for path in sorted(path for path in (folder / package).rglob("*") if path.suffix in (".py", ".json")):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def completed(state: State, out: Path) -> State:
    """Return the state after a study was measured, without an estimate. Raises UserError if it is not stored."""
    after = examine(state.study, out)
    if after.missing:
        raise UserError(state.study.name, after.missing, "tasks are still missing after the run: see its messages")
    return dataclasses.replace(after, seconds=state.seconds)
