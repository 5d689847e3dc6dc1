"""Stored studies as tables, for notebooks and scripts: `from orchestrator import load_study`.

Everything is read through the store: no row occurs twice, even while parts are merged or after a task was run twice,
and files that do not verify are left out and named in `problems`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from orchestrator.analysis.landscape import with_all_counts
from orchestrator.analysis.recomputation import checked_results
from orchestrator.analysis.reducer import read_results
from orchestrator.judges import Judge
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.scoring.panel import load_judge
from orchestrator.scoring.verdicts import degeneracy_id, read_verdicts
from orchestrator.store.discovery import find_studies, find_sweeps, last_with_results
from orchestrator.store.parts import TaskParts
from orchestrator.store.schemas import GENERATIONS, RESPONSE_KEY
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.store.working_copy import open_path
from orchestrator.sweep.points import Point
from orchestrator.utils.addresses import shown
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import text_id

logger = logging.getLogger(__name__)


def load_study(path: str | Path, check: bool = True) -> StoredStudy:
    """Return the stored data of a study, or of one of its sweeps.

    Tables are read on first use and cached: load again to see newer data.

    Args:
        path: A study's folder, a sweep's folder, or a root with one study in it; or its address, such as
            `s3://bucket/studies`. The `landscape` and `summary` of a study are those of the sweep that was used last,
            of those that have results.
        check: Whether `landscape` and `summary` are compared with the stored verdicts on first use. False returns them
            as they are stored: for a study whose rows are elsewhere, or so many that counting them takes too long.

    Raises:
        UserError: There is no study, or more than one.
    """
    folder = open_path(path)
    studies = find_studies(folder)
    if len(studies) > 1:
        raise UserError("path", folder, f"holds {len(studies)} studies: name one, such as {studies[0].root}")
    study = studies[0]
    sweeps = [sweep_folder.path for sweep_folder in SweepFolder.all_of(study)]
    inside = [sweep for sweep in sweeps if sweep.absolute() in (folder.absolute(), *folder.absolute().parents)]
    return StoredStudy(study, inside[0] if inside else None, tuple(sweeps), check)


def load_studies(root: str | Path, check: bool = False) -> pd.DataFrame:
    """Return one row for each sweep below a folder, the one that was used last at the end.

    Numbers are those of the sweep's first result: by its first judge, on its harmful prompts if it has such. A sweep
    without results yet has nulls. Studies that cannot be read are left out, with a warning.

    Args:
        root: The root of studies, or one study or sweep; or its address in a bucket.
        check: Whether the numbers are compared with the stored verdicts, which reads every verdict. If verdicts were
            stored since, the numbers include them. If a number does not follow from them, the row has nulls.

    Returns:
        The columns model, study_id, sweep (the folder's name), sweep_id, path (the folder or, in a bucket, its address;
        `load_study` takes both), grid, steps, directions, probe_set, system_prompt, judge, points_done, points_total,
        origin_asr, visage and margin (percent) and radius (in units of alpha), each with the ends of its interval
        (`visage_low`, `visage_high`, ...; null if it has none; those of visage and margin are over new directions, the
        others over new probes), censored_at (distance up to which the basin has no edge, if `radius` is null),
        tasks_failed, tokens, seconds and last_used (UTC).

    Raises:
        UserError: There is no sweep.
    """
    folders = sorted(find_sweeps(open_path(root), _log_skipped), key=SweepFolder.last_used)
    frame = pd.DataFrame([_sweep_row(folder, check) for folder in folders], columns=[*_ROW_COLUMNS])
    numbers = [*_NUMBER_COLUMNS, "censored_at", "seconds"]
    return frame.astype(dict.fromkeys(numbers, "float64") | dict.fromkeys(_COUNT_COLUMNS, "Int64"))


_COUNT_COLUMNS = ("points_done", "points_total", "tasks_failed", "tokens")
_NUMBER_COLUMNS = tuple(
    f"{name}{end}" for name in ("origin_asr", "visage", "margin", "radius") for end in ("", "_low", "_high")
)
_ROW_COLUMNS = (
    *("model", "study_id", "sweep", "sweep_id", "path", "grid", "steps", "directions", "probe_set", "system_prompt"),
    *("judge", "points_done", "points_total", *_NUMBER_COLUMNS),
    *("censored_at", "tasks_failed", "tokens", "seconds", "last_used"),
)


def _log_skipped(error: UserError) -> None:
    logger.warning("skipped: %s", error)


def _sweep_row(folder: SweepFolder, check: bool) -> dict[str, Any]:
    """Return the values of a row of `load_studies`; without results, those that the request alone gives."""
    stored = StoredSweep.open(folder)
    grid = stored.sweep.grid
    row = {
        "model": folder.study.info.model,
        "study_id": folder.study.id,
        "sweep": folder.path.name,
        "sweep_id": stored.sweep.id,
        "path": shown(str(folder.path)),
        "grid": str(grid.kind),
        "steps": grid.steps,
        "directions": grid.lines,
        "last_used": pd.Timestamp(folder.last_used(), unit="ns", tz="UTC"),
    }
    try:
        summary = checked_results(stored).parsed()[1] if check else read_results(folder)[1]
    except UserError:
        return row
    return row | {
        **summary.primary.to_json(),
        **summary.headline(),
        "points_done": summary.points_done,
        "points_total": summary.points_total,
        "censored_at": summary.basin.censored_at,
        "tasks_failed": summary.tasks_failed,
        "tokens": summary.tokens,
        "seconds": summary.seconds,
    }


@dataclass(frozen=True)
class StoredStudy:
    """A study's tables: `points`, `generations`, `landscape` and `summary`.

    If the study was loaded by its own folder, `points` and `generations` hold everything that was ever measured. If it
    was loaded by a sweep's folder, they hold what belongs to that sweep. The folders of a study in a bucket are those
    of its working copy on this machine: read files there, but write none.

    Attributes:
        sweeps: The folders of all its sweeps, the last used one last.
    """

    _study: Study = field(repr=False)
    _chosen: Path | None = field(repr=False)
    sweeps: tuple[Path, ...] = field(repr=False)
    _check: bool = field(default=True, repr=False)

    def __repr__(self) -> str:
        return f"<{'sweep' if self._chosen else 'study'} {shown(str(self._chosen or self.root))}>"

    @property
    def root(self) -> Path:
        """The study's folder."""
        return self._study.root

    @property
    def info(self) -> dict[str, Any]:
        """study.json: study_id, model, fingerprint, dtype, noise_version, source, revision."""
        return self._study.info.to_json()

    @functools.cached_property
    def sweep(self) -> Path:
        """The folder of the sweep that `landscape` and `summary` belong to. Raises UserError if there is none.

        If the study was loaded by its own folder, that is the sweep that was used last, of those that have results; a
        warning is logged if another one was used after it.
        """
        if self._chosen is not None:
            return self._chosen
        if not self.sweeps:
            raise UserError("path", self.root, "has no sweep yet: `run` makes one")
        return last_with_results([SweepFolder(self._study, path) for path in self.sweeps]).path

    @property
    def problems(self) -> dict[Path, str]:
        """The reason for each file that did not verify when it was read. No table contains any of its rows."""
        return dict(self._study.problems)

    @functools.cached_property
    def landscape(self) -> pd.DataFrame:
        """landscape.parquet: a row for each node of the sweep's grid x probe set x group x system prompt x judge.

        A landscape that an earlier version stored counts unclear responses as complied: its `n_unclear` is 0. If
        verdicts were stored since, the landscape includes them. Raises UserError if the sweep was not reduced yet, or
        if a number does not follow from the stored rows; DamagedFileError if a prompt set cannot be read.
        """
        return with_all_counts(self._results[0])

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json: VISAGE, basin and ASR at the origin, each with its interval.

        If verdicts were stored since, the summary includes them. Raises UserError if the sweep was not reduced yet, or
        if a number does not follow from the stored rows; DamagedFileError if a prompt set cannot be read.
        """
        return self._results[1]

    @functools.cached_property
    def _results(self) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The landscape and the summary, with the columns and keys of the version that computed them."""
        folder = SweepFolder(self._study, self.sweep)
        if not self._check:
            return folder.read_landscape()
        results = checked_results(StoredSweep.open(folder))
        return results.landscape, results.summary

    @functools.cached_property
    def points(self) -> pd.DataFrame:
        """A row for each point at which anything is stored.

        The columns are point_id; is_origin; directions (a list of the labels of its directions); coefficients (a list
        of its coefficients on them); distance (the Euclidean norm of the coefficients); responses (how many are
        stored); point (the point as JSON).
        """
        rows = self.generations.groupby("point_id", sort=False)["point"].agg(["first", "size"])
        labels = self._labels
        records = []
        for point_id, text, responses in rows.itertuples():
            terms = Point.from_json(json.loads(text)).coefficients
            named = [d.label if d.fingerprint is None else labels.get(d.fingerprint, d.id) for d, _ in terms]
            coefficients = [c for _, c in terms]
            distance = float(np.hypot.reduce([*coefficients, 0.0]))
            records.append((point_id, not terms, named, coefficients, distance, responses, text))
        columns = ["point_id", "is_origin", "directions", "coefficients", "distance", "responses", "point"]
        return pd.DataFrame(records, columns=columns)

    @functools.cached_property
    def generations(self) -> pd.DataFrame:
        """A row for each stored response.

        The columns are those of the generations files (docs/formats.md), then `response_id` (a hash of the response, by
        which `judge calibrate=FILE` takes labels), `text`, `category`, `probe_set` and
        `system_prompt` of its prompt, then for each judge of the sweeps, and for the judge of degeneracy, a column
        named after it with its verdict: null if it has not judged the response, or if the response
        is not finite. The verdicts in `degenerate` are of one
        version of that judge: of an earlier one if none of the sweeps was judged by the current one yet.
        """
        parts = self._parts
        frame = _frame([table for _, table in self._study.generations.rows(parts)], GENERATIONS)
        prompts = self._prompts(frame["prompt_set_id"].unique().tolist())
        frame["response_id"] = frame["response"].map(text_id)
        frame = frame.merge(prompts, on=RESPONSE_KEY[1:], how="left")
        versions = {degeneracy_id(stored) for stored in self._loaded} or {DEGENERATE.id}
        degenerate_id = DEGENERATE.id if len(versions) > 1 else versions.pop()
        for name, judge_id in [*((judge.name, judge.id) for judge in self._judges), (DEGENERATE.name, degenerate_id)]:
            judgements = self._study.judgements(judge_id)
            verdicts = read_verdicts(judgements, judgements.parts_for(parts), name)
            frame = frame.merge(verdicts, on=RESPONSE_KEY, how="left", validate="one_to_one")
        return frame

    @functools.cached_property
    def _loaded(self) -> list[StoredSweep]:
        """The sweeps that the tables cover."""
        folders = [self._chosen] if self._chosen else self.sweeps
        return [StoredSweep.open(SweepFolder(self._study, folder)) for folder in folders]

    @property
    def _labels(self) -> dict[str, str]:
        """The labels of checkpoints and adapters, by fingerprint."""
        return {fingerprint: label for stored in self._loaded for fingerprint, label in stored.record.labels.items()}

    @property
    def _judges(self) -> list[Judge]:
        """The judges of the sweeps.

        If sweeps used a model judge with different weights, those of the sweep that was used last. A model judge that
        has not judged any of the sweeps is left out.
        """
        panel: dict[str, Judge] = {}
        for stored in self._loaded:
            for name in stored.sweep.judges:
                with contextlib.suppress(UserError):  # a model that has not judged yet
                    panel[name] = load_judge(stored, name)
        return list(panel.values())

    @property
    def _parts(self) -> TaskParts:
        if self._chosen is None:
            return self._study.generations.stored()
        return self._loaded[0].generations

    def _prompts(self, set_ids: Sequence[str]) -> pd.DataFrame:
        rows = [
            (prompts.id, p.id, p.text, p.category, prompts.probe_set, prompts.system_prompt)
            for prompts in map(self._study.prompt_sets.read, set_ids)
            for p in prompts.prompts
        ]
        columns = [*RESPONSE_KEY[1:], "text", "category", "probe_set", "system_prompt"]
        return pd.DataFrame(rows, columns=columns).astype("str").drop_duplicates(RESPONSE_KEY[1:])


def _frame(tables: Sequence[pa.Table], schema: pa.Schema) -> pd.DataFrame:
    return pa.concat_tables([schema.empty_table(), *tables]).to_pandas()
