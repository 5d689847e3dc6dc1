"""Stored studies as tables, for notebooks and scripts: `from orchestrator import load_study`.

Everything is read through the store: no row is doubled while parts are merged or after a task was answered twice, and
what does not verify is left out and named in `problems`.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from orchestrator.judges import Judge
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.scoring import panel as seats
from orchestrator.store import discovery
from orchestrator.store import status as standing
from orchestrator.store.parts import Part, TaskKey
from orchestrator.store.schemas import GENERATIONS, JUDGEMENTS
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.grid import Sweep
from orchestrator.sweep.points import Point, RandomDirection
from orchestrator.utils.errors import UserError

_ROW = ["point_id", "prompt_set_id", "prompt_id"]


def load_study(path: str | Path) -> StoredStudy:
    """What is stored in a study, or for one of its sweeps.

    `path`: a study's folder, a sweep's folder, or a root with one study in it. A study's `landscape` and `summary` are
    those of the sweep that was used last. Tables are read when they are first asked for, and kept: load again to see
    what has come since.

    Raises UserError where there is no study, or more than one.
    """
    folder = Path(path).expanduser()
    found = discovery.find_studies(folder)
    if len(found) > 1:
        raise UserError("path", folder, f"holds {len(found)} studies: name one, such as {found[0].root}")
    study = found[0]
    sweeps = [each.path for each in SweepFolder.all_of(study)]
    inside = [sweep for sweep in sweeps if sweep.absolute() in (folder.absolute(), *folder.absolute().parents)]
    return StoredStudy(study, inside[0] if inside else None, tuple(sweeps))


@dataclass(frozen=True)
class StoredStudy:
    """A study's tables: `points`, `generations`, `landscape`, and `summary`.

    Of a study loaded by its own folder `points` and `generations` hold all that was ever measured; of one loaded by a
    sweep's folder what belongs to that sweep. `sweeps`: the folders of all its sweeps, the one used last at the end.
    """

    _study: Study = field(repr=False)
    _chosen: Path | None = field(repr=False)
    sweeps: tuple[Path, ...] = field(repr=False)

    def __repr__(self) -> str:
        return f"<{'sweep' if self._chosen else 'study'} {self._chosen or self.root}>"

    @property
    def root(self) -> Path:
        """The study's folder."""
        return self._study.root

    @property
    def info(self) -> dict[str, Any]:
        """study.json: study_id, model, fingerprint, dtype, noise_version, source, revision."""
        return self._study.info.to_json()

    @property
    def sweep(self) -> Path:
        """The folder of the sweep that `landscape` and `summary` are of. Raises UserError where there is none."""
        if self._chosen is None and not self.sweeps:
            raise UserError("path", self.root, "has no sweep yet: `run` makes one")
        return self._chosen or self.sweeps[-1]

    @property
    def problems(self) -> dict[Path, str]:
        """The files that did not verify so far, and why; nothing of them is in any table."""
        return dict(self._study.problems)

    @functools.cached_property
    def landscape(self) -> pd.DataFrame:
        """landscape.parquet: a row for each node of the sweep's grid x probe set x group x system prompt x judge.

        Raises UserError where the sweep was not reduced yet.
        """
        return SweepFolder(self._study, self.sweep).read_landscape()[0]

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json: VISAGE, basin, ASR at the origin, each with its interval. Raises UserError likewise."""
        return SweepFolder(self._study, self.sweep).read_landscape()[1]

    @functools.cached_property
    def points(self) -> pd.DataFrame:
        """A row for each point at which anything is stored.

        point_id; is_origin; directions: labels of the directions it stands on (a list); coefficients: where on them (a
        list of as many); distance: their Euclidean norm; responses: how many are stored; point: the whole as JSON.
        """
        rows = self.generations.groupby("point_id", sort=False)["point"].agg(["first", "size"])
        labels = self._labels
        made = []
        for point_id, text, responses in rows.itertuples():
            terms = Point.from_json(json.loads(text)).coefficients
            named = [d.label if isinstance(d, RandomDirection) else labels.get(d.fingerprint, d.id) for d, _ in terms]
            there = [c for _, c in terms]
            made.append((point_id, not terms, named, there, float(np.hypot.reduce([*there, 0.0])), responses, text))
        columns = ["point_id", "is_origin", "directions", "coefficients", "distance", "responses", "point"]
        return pd.DataFrame(made, columns=columns)

    @functools.cached_property
    def generations(self) -> pd.DataFrame:
        """A row for each stored response: the columns of the generations files (docs/formats.md), then of its prompt
        `text`, `category`, `probe_set` and `system_prompt`, and for each judge of the sweeps a column of its name with
        its verdict, null where it has not judged.
        """
        winners = self._winners
        frame = _frame([table for _, table in self._study.generations.rows(winners)], GENERATIONS)
        frame = frame.merge(self._prompts(frame["prompt_set_id"].unique().tolist()), on=_ROW[1:], how="left")
        for judge in [*self._judges, DEGENERATE]:
            judgements = self._study.judgements(judge.id)
            tables = [table for _, table in judgements.rows(judgements.covering(winners))]
            found = _frame(tables, JUDGEMENTS)
            found = found[[*_ROW, "verdict"]].rename(columns={"verdict": judge.name})
            frame = frame.merge(found, on=_ROW, how="left", validate="one_to_one")
        return frame

    @functools.cached_property
    def _sweeps(self) -> list[tuple[Path, Sweep, dict[str, str]]]:
        folders = [self._chosen] if self._chosen else self.sweeps
        loaded = [(folder, *standing.load(self._study, folder)) for folder in folders]
        return [(folder, sweep, record.get("labels", {})) for folder, sweep, record in loaded]

    @property
    def _labels(self) -> dict[str, str]:
        return {fingerprint: name for *_, labels in self._sweeps for fingerprint, name in labels.items()}

    @property
    def _judges(self) -> list[Judge]:
        """Of a name that several sweeps had judge with different weights, the one used last."""
        found: dict[str, Judge] = {}
        for folder, sweep, _ in self._sweeps:
            for name in sweep.judges:
                with contextlib.suppress(UserError):  # a model that has not judged yet
                    found[name] = seats.seated(self._study, folder, name)
        return list(found.values())

    @property
    def _winners(self) -> dict[TaskKey, Part]:
        if self._chosen is None:
            return self._study.generations.stored()
        return self._study.generations.stored_of(self._sweeps[0][1].tasks())

    def _prompts(self, set_ids: Sequence[str]) -> pd.DataFrame:
        rows = [
            (prompts.id, p.id, p.text, p.category, prompts.probe_set, prompts.system_prompt)
            for prompts in map(self._study.prompt_sets.read, set_ids)
            for p in prompts.prompts
        ]
        columns = [*_ROW[1:], "text", "category", "probe_set", "system_prompt"]
        return pd.DataFrame(rows, columns=columns).astype("str").drop_duplicates(_ROW[1:])


def _frame(tables: Sequence[pa.Table], schema: pa.Schema) -> pd.DataFrame:
    return pa.concat_tables([schema.empty_table(), *tables]).to_pandas()
