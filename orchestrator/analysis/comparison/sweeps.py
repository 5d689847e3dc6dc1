"""Read the sweeps to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from orchestrator.analysis.adapter_versions import older_version_note
from orchestrator.analysis.comparison.differences import SweepHeadline
from orchestrator.analysis.comparison.tensors import MovedTensors, read_moved_tensors
from orchestrator.analysis.landscape import primary_rows
from orchestrator.analysis.recomputation import recompute
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.scoring.counts import ProbeVerdicts
from orchestrator.store.discovery import latest_sweep
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.utils.addresses import shown
from orchestrator.utils.errors import UserError


@dataclass(frozen=True)
class ComparedSweep:
    """A sweep to compare.

    Attributes:
        name: Name of the model and of the sweep, as shown to users.
        rows: The landscape rows of the primary result.
        verdicts: Verdicts of the primary result by point and probe. None if no verdicts are stored.
        note: A sentence on what an earlier version of the program measured differently. None if there is nothing.
        letter_scoring: `PromptSet.letter_scoring` of the primary result.
        moved: The tensors that its random directions move. None if it has no such directions, or no table of them.
        has_directions: Whether it has random directions.
        unsound: Sentences on stored results that the stored rows do not give. The numbers here are those of the rows.
    """

    name: str
    rows: pd.DataFrame
    summary: SweepSummary
    verdicts: ProbeVerdicts | None
    note: str | None = None
    letter_scoring: str | None = None
    moved: MovedTensors | None = None
    has_directions: bool = False
    unsound: tuple[str, ...] = ()

    def headline(self) -> SweepHeadline:
        """Return the numbers of this sweep that a comparison lists."""
        summary = self.summary
        return SweepHeadline(
            name=self.name,
            study_id=summary.study_id,
            sweep_id=summary.sweep_id,
            model=summary.model,
            primary=summary.primary,
            origin_asr=summary.origin_asr,
            visage=summary.visage,
            margin=summary.margin,
            basin=summary.basin,
            degenerate_share=summary.degenerate_share,
            degenerate_version=summary.degenerate_version,
            classes=summary.classes,
        )


def read_sweeps(paths: Sequence[Path]) -> list[ComparedSweep]:
    """Read the sweep in each of these folders. If a folder holds several, the one that was used last is read.

    Raises:
        UserError: If there are fewer than two folders, or one holds no reduced sweep.
    """
    if len(paths) < 2:
        raise UserError("compare", " ".join(map(str, paths)), "name two sweeps or more: compare FOLDER FOLDER")
    opened = [StoredSweep.open(latest_sweep(path)) for path in paths]
    results = [recompute(stored) for stored in opened]
    models = [each.summary.model or stored.study.id for each, stored in zip(results, opened, strict=True)]
    names = _distinct_names(models, [stored.folder for stored in opened])
    sweeps = []
    for name, stored, recomputed in zip(names, opened, results, strict=True):
        summary = recomputed.summary
        verdicts = recomputed.refusals.get(summary.primary.combination)
        note = older_version_note(stored.record)
        key = summary.primary
        scoring = {p.names: p.letter_scoring for p in stored.prompt_sets}
        letters = scoring.get((key.probe_set, key.group, key.system_prompt))
        moved, drawn = read_moved_tensors(stored), bool(stored.sweep.grid.directions_used)
        unsound = tuple(f"{file}: {why}" for file, why in recomputed.differences_by_file().items())
        rows = primary_rows(recomputed.landscape)
        sweeps.append(ComparedSweep(name, rows, summary, verdicts, note, letters, moved, drawn, unsound))
    return sweeps


def _distinct_names(models: Sequence[str], folders: Sequence[SweepFolder]) -> list[str]:
    """Return model and sweep of each; where these are equal, with the end of the study folder's path that differs."""
    names = [f"{model} / {folder.path.name}" for model, folder in zip(models, folders, strict=True)]
    roots = [shown(str(folder.study.root.resolve())).split("/") for folder in folders]
    for depth in range(1, max(map(len, roots)) + 1):
        ends = ["/".join(root[-depth:]) for root in roots]
        if len(set(zip(names, ends, strict=True))) == len(names):
            break
    return [f"{name} in {end}" if names.count(name) > 1 else name for name, end in zip(names, ends, strict=True)]
