"""The provenance of a page's numbers: everything that is needed to trust them or to measure them again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.report.page.evidence import Evidence
from orchestrator.store.lease import holders
from orchestrator.store.records import RUNNING, RunRecord, SweepRecord
from orchestrator.store.status import at_work
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.grid import Grid
from orchestrator.sweep.prompt_rendering import renderings
from orchestrator.sweep.tasks import PromptSet
from orchestrator.utils.console import duration


def provenance(stored: StoredSweep, summary: SweepSummary, evidence: Evidence) -> list[tuple[str, str]]:
    """Return the provenance as (name, value) pairs, in the order of the page. Unknown values are left out.

    Args:
        stored: The sweep and its runs.
        summary: The sweep's summary.
        evidence: The sweep's prompt sets.
    """
    study, sweep, runs = stored.study, stored.sweep, stored.record.runs
    info = study.info
    grid = sweep.grid.to_json()
    rows = [
        ("Model", f"{info.model}, {info.dtype}"),
        ("Weights", " ".join(str(value) for value in (info.source, info.revision) if value)),
        ("Fingerprint", info.fingerprint),
        ("Study", f"{study.id}, noise version {info.noise_version}"),
        ("Sweep", sweep.id),
        ("Grid", ", ".join(f"{name} {_to_text(value)}" for name, value in grid.items() if value is not None)),
        ("Seeds", _seeds(sweep.grid)),
        ("Targets", _targets(stored.record)),
        *(("Prompt set", _prompt_set(prompts)) for prompts in evidence.prompt_sets),
        *(("Rendered prompts", str(rendering)) for rendering in renderings(evidence.prompt_sets, sweep.thought)),
        *(("Engine", _pairs(engine)) for engine in summary.engines),
        ("Versions", _pairs({key: value for key, value in summary.versions.items() if key != "platform"})),
        ("Machines", "; ".join(_machines(runs))),
        ("Cost", _cost(summary, runs)),
        ("Runs", "; ".join(_run(run, at_work(run, holders(stored.folder.path))) for run in runs)),
    ]
    return [(name, value) for name, value in rows if value]


def _seeds(grid: Grid) -> str:
    axes = (axis for k in range(grid.lines) for axis in grid.axes(k))
    return ", ".join(dict.fromkeys(str(axis.seed) for axis in axes if axis is not None and axis.seed is not None))


def _targets(record: SweepRecord) -> str:
    """Return the adapter version and what the engine's rounding adds to each target's displacement, as text."""
    geometry = record.target_geometry
    if geometry is None:
        return ""
    shares = [f"{record.labels.get(name, name)} {100 * share:.2g}%" for name, share in geometry.rounding.items()]
    added = f"; the engine's rounding adds, of the displacement's length: {', '.join(shares)}" if shares else ""
    return f"adapter version {geometry.adapter_version}{added}"


def _prompt_set(prompts: PromptSet) -> str:
    early_stop = ", early stop" if prompts.sampling.stop else ""
    return (
        f"{prompts.id}: {len(prompts.prompts)} of {prompts.probe_set} ({prompts.group}), system prompt "
        f"{prompts.system_prompt}, greedy, at most {prompts.sampling.max_tokens} tokens{early_stop}"
    )


def _machines(runs: Sequence[RunRecord]) -> Iterator[str]:
    """Yield `2 x AMD EPYC, 2 cores, 8 GiB`: each kind of machine that ran actors, and how many there were."""
    hosts = {host: machine for run in runs for host, machine in run.machines.items()}
    kinds = Counter(_machine(machine) for machine in hosts.values())
    for kind, count in kinds.items():
        yield f"{count} x {kind}" if count > 1 else kind
    if not kinds:  # recorded by an earlier version
        yield from dict.fromkeys(str(run.versions["platform"]) for run in runs if "platform" in run.versions)


def _machine(machine: Mapping[str, Any]) -> str:
    cards = Counter(machine.get("gpus", ()))
    gpus = [f"{count} x {name}" if count > 1 else name for name, count in cards.items()]
    cores, memory = machine.get("cores", "?"), machine.get("memory_gib", "?")
    return ", ".join([machine.get("cpu", "?"), f"{cores} cores", f"{memory} GiB", *gpus])


def _cost(summary: SweepSummary, runs: Sequence[RunRecord]) -> str:
    gpu_hours = sum(run.totals.gpu_seconds for run in runs) / 3600
    at_once = f"at most {summary.actors_at_once} actors at once, " if summary.actors_at_once else ""
    parts = [
        duration(summary.seconds),
        f"{summary.tokens:,} tokens",
        f"{at_once}{summary.restarts} replaced" if at_once else f"{summary.restarts} actors replaced",
    ]
    if summary.ready_seconds:
        parts.append(f"actors idle {100 * summary.idle_seconds / summary.ready_seconds:.0f}% of the time")
    if summary.speculative:
        parts.append(f"{summary.speculative} points begun on speculation")
    if gpu_hours:
        parts.append(f"{gpu_hours:.2f} GPU-hours")
    return ", ".join(parts)


def _run(run: RunRecord, is_at_work: bool) -> str:
    """Return the start time and the outcome of a run, as text."""
    started = ""
    if run.started_at is not None:
        started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(run.started_at))
    outcome = "died" if run.outcome == RUNNING and not is_at_work else run.outcome
    return " ".join(text for text in (started, outcome) if text)


def _pairs(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_to_text(item)}" for key, item in value.items())


def _to_text(value: Any) -> str:
    """Return a JSON value as text without quotation marks."""
    if isinstance(value, Mapping):
        return f"({_pairs(value)})"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_to_text(item) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
