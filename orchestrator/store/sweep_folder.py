"""The folder of a sweep in its study: the request, the runs, and the results computed from the study."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from orchestrator.judges._described import JudgeDescription
from orchestrator.store.files import (
    DamagedFileError,
    MissingFileError,
    publish,
    publish_json,
    publish_table,
    read_json,
    read_table,
    translate_read_errors,
)
from orchestrator.store.parts import Part, TaskKey, TaskParts
from orchestrator.store.records import DAMAGED, RunRecord, SweepRecord
from orchestrator.store.study import Study
from orchestrator.store.tracking_log import TRACKING
from orchestrator.store.working_copy import pull
from orchestrator.sweep.blocks import PooledPrompts
from orchestrator.sweep.grid import Sweep
from orchestrator.sweep.tasks import PromptSet
from orchestrator.utils.errors import UserError
from orchestrator.utils.names import safe_name
from orchestrator.utils.parsing import FormatError
from orchestrator.utils.records import check_fields

if TYPE_CHECKING:
    import pandas as pd

JUDGE_TYPES: dict[str, type] = {
    **dict.fromkeys(("source", "revision", "fingerprint", "dtype", "answers"), str),
    "unparsed_examples": list,
    "annotators": list,
    "version": int,
}
"""The fields of the record of a judge, see `check_fields`."""


class SweepFolder:
    """The files of one sweep.

    Attributes:
        study: The study the sweep belongs to.
        path: The sweep's folder.
    """

    def __init__(self, study: Study, path: Path) -> None:
        self.study = study
        self.path = path

    @classmethod
    def of(cls, study: Study, sweep: Sweep) -> SweepFolder:
        """Return the folder where a sweep of this study is or would be."""
        return cls(study, study.path("sweeps", f"{safe_name(sweep.name)}-{sweep.id[:8]}"))

    @classmethod
    def all_of(cls, study: Study) -> list[SweepFolder]:
        """Return the folders of all sweeps of a study, ordered by their last use."""
        folders = [cls(study, path.parent) for path in (study.root / "sweeps").glob("*/sweep.json")]
        return sorted(folders, key=cls.last_used)

    def last_used(self) -> int:
        """Return the time at which the sweep was last requested or run, in nanoseconds since 1970."""
        paths = (self.path / "sweep.json", *self.path.glob("runs/*.json"))
        return max(path.stat().st_mtime_ns for path in paths)

    # The request and its runs.

    def write_record(self, record: SweepRecord) -> None:
        """Write sweep.json."""
        publish_json(self.study.out, self.path / "sweep.json", record.to_json())

    def read_record(self) -> SweepRecord:
        """Return the sweep's record with all runs in their order. Of one whose file is damaged, only the name is known.

        Raises:
            DamagedFileError: There is no sweep.json, or it does not verify.
        """
        record = SweepRecord.from_json(read_json(self.path / "sweep.json"))
        runs = list(record.runs)
        for path in sorted(self.path.glob("runs/*.json")):  # their names begin with the time: this is their order
            try:
                runs.append(RunRecord.from_json(read_json(path)))
            except MissingFileError:
                continue
            except DamagedFileError:
                runs.append(RunRecord(run=path.stem, outcome=DAMAGED))
        return dataclasses.replace(record, runs=tuple(runs))

    def write_run(self, run: RunRecord) -> None:
        """Write the record of a run to a file of its own, so that concurrent drivers do not overwrite each other's."""
        publish_json(self.study.out, self.run_path(run.run), run.to_json())

    def run_path(self, run: str) -> Path:
        """Return the path of the record of a run."""
        return self.path / "runs" / f"{run}.json"

    def lease_path(self, part: str | None = None) -> Path:
        """Return the path of the lease on the sweep, or on its part `i/n`."""
        return self.path / (f"lease-{part.replace('/', 'of')}.json" if part else "lease.json")

    def log_path(self, run: str) -> Path:
        """Return the path of the log that collects the terminal output of libraries in a run's driver."""
        return self.path / "logs" / f"{run}.log"

    def ray_logs_path(self, run: str) -> Path:
        """Return the folder of the logs of a run's local Ray session, which contain the output of its actors."""
        return self.path / "logs" / f"{run}-ray"

    def tracking_path(self, name: str) -> Path:
        """Return a path in the folder of experiment trackers."""
        return self.path / TRACKING / name

    # The weights of model judges, and descriptions of judges outside of this program.

    def write_judge(self, name: str, document: Mapping[str, Any]) -> None:
        """Record the weights with which a model judge has judged the sweep, or the `description` of a judge."""
        publish_json(self.study.out, self.path / "judges" / f"{name}.json", document)

    def read_judge(self, name: str) -> dict[str, Any]:
        """Return the record of the weights with which a model judge judged the sweep. Empty if it has not yet."""
        document = self.read_judge_record(name)
        return {} if document.get("fingerprint") is None or document.get("dtype") is None else document

    def write_description(self, description: JudgeDescription, record: Mapping[str, Any] | None = None) -> None:
        """Record the description of a judge that is no model judge, and what else is known about its verdicts."""
        document = {"judge_id": description.judge_id, "description": description.to_json(), **(record or {})}
        if self.read_judge_record(description.name) != document:
            self.write_judge(description.name, document)

    def read_judge_record(self, name: str) -> dict[str, Any]:
        """Return all that is recorded about a judge. Empty if nothing is, or if the record cannot be read."""
        try:
            document = read_json(self.path / "judges" / f"{name}.json")
            check_fields(document, JUDGE_TYPES)
        except (DamagedFileError, FormatError):
            return {}
        return document

    def read_description(self, name: str) -> JudgeDescription | None:
        """Return the description of a judge that has judged the sweep. None if none is stored."""
        try:
            document = self.read_judge_record(name).get("description")
            return None if document is None else JudgeDescription.from_json(document)
        except FormatError:
            return None

    # Results.

    def write_landscape(self, table: pa.Table) -> None:
        """Write landscape.parquet. The table's metadata names its schema."""
        meta = {"schema": table.schema.metadata[b"schema"].decode(), "study_id": self.study.id}
        publish_table(self.study.out, self.path / "landscape.parquet", table, meta)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        publish_json(self.study.out, self.path / "summary.json", summary)

    def read_landscape(self) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Return the stored landscape and summary. Raises UserError if they cannot be read."""
        with self.explained():
            return read_table(self.path / "landscape.parquet").to_pandas(), read_json(self.path / "summary.json")

    def read_summary(self) -> dict[str, Any]:
        """Return the stored summary. Raises UserError if it cannot be read."""
        with self.explained():
            return read_json(self.path / "summary.json")

    @property
    def has_results(self) -> bool:
        """True if the sweep was reduced: its first run has ended, complete or interrupted."""
        return (self.path / "summary.json").is_file()

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Raise UserError, with what to do, for results that cannot be read."""
        try:
            yield
        except (DamagedFileError, FormatError) as error:
            remedy = f"has no landscape that can be read ({error}): `reduce` makes it"
            raise UserError("sweep", self.path, remedy) from error

    def write_figure(self, name: str, draw: Callable[[Path], None]) -> Path:
        """Write a figure: call `draw` with a temporary path of the same suffix. Returns the figure's path."""
        target = self.path / "figures" / name
        publish(self.study.out, target, draw)
        return target

    def write_report(self, text: str) -> Path:
        """Write report.html. Returns its path."""
        target = self.path / "report.html"
        publish(self.study.out, target, lambda path: path.write_text(text, encoding="utf-8", newline=""))
        return target

    def result_paths(self) -> dict[str, Path]:
        """Return the paths of the results by name: folder, figure, landscape, summary and report."""
        return {
            "folder": self.path,
            "figure": self.path / "figures" / "landscape.png",
            "landscape": self.path / "landscape.parquet",
            "summary": self.path / "summary.json",
            "report": self.path / "report.html",
        }


class StoredSweep:
    """A sweep and its stored data in the study.

    Data is read from the disk on first use and cached. Call `refresh` after new parts were stored. If a file of the
    study turns out not to verify, the lists of parts are read again.

    Attributes:
        folder: The sweep's folder.
        sweep: The sweep.
    """

    def __init__(self, folder: SweepFolder, sweep: Sweep) -> None:
        self.folder = folder
        self.sweep = sweep
        self._prompt_sets: tuple[PromptSet, ...] | None = None
        self._pooled: PooledPrompts | None = None
        self._record: SweepRecord | None = None
        self._generations: dict[TaskKey, Part] | None = None
        self._judged: dict[str, dict[TaskKey, Part]] = {}
        self._rejected = folder.study.rejected

    @classmethod
    def open(cls, folder: SweepFolder, stored: TaskParts | None = None) -> StoredSweep:
        """Open the sweep stored in a folder.

        Args:
            folder: The sweep's folder.
            stored: The stored tasks of its study, if they are known: what `Generations.stored` has returned.

        Raises:
            UserError: Its sweep.json cannot be read.
        """
        try:
            with translate_read_errors(folder.path / "sweep.json"):
                record = folder.read_record()
                opened = cls(folder, Sweep.from_json(dict(record.request), record.name, dict(record.labels)))
        except DamagedFileError as error:
            remedy = f"its sweep.json cannot be read ({error}): run it again"
            raise UserError("sweep", folder.path, remedy) from error
        if stored is not None:
            opened._generations = folder.study.generations.stored_of(opened.sweep.tasks(), stored)
        return opened

    @property
    def study(self) -> Study:
        """The study the sweep belongs to."""
        return self.folder.study

    @property
    def record(self) -> SweepRecord:
        """The sweep's record with its runs. Raises DamagedFileError."""
        if self._record is None:
            self._record = self.folder.read_record()
        return self._record

    @property
    def prompt_sets(self) -> tuple[PromptSet, ...]:
        """The sweep's prompt sets, in its order. Raises DamagedFileError."""
        if self._prompt_sets is None:
            self._prompt_sets = tuple(self.study.prompt_sets.read(set_id) for set_id in self.sweep.prompt_set_ids)
        return self._prompt_sets

    @property
    def pooled(self) -> PooledPrompts:
        """The sweep's prompt sets with the blocks of each probe set joined. Raises DamagedFileError."""
        if self._pooled is None:
            self._pooled = PooledPrompts.of(self.prompt_sets)
        return self._pooled

    @property
    def generations(self) -> dict[TaskKey, Part]:
        """For each stored task of the sweep, in the sweep's order, the part that counts."""
        self._forget_if_damaged()
        if self._generations is None:
            self._generations = self.study.generations.stored_of(self.sweep.tasks())
            self._rejected = self.study.rejected  # the result excludes files that this scan rejected
        return self._generations

    def judged(self, judge_id: str) -> dict[TaskKey, Part]:
        """Return, for each stored task of the sweep that a judge has judged, the part with its verdicts."""
        self._forget_if_damaged()
        if judge_id not in self._judged:
            self._judged[judge_id] = self.study.judgements(judge_id).parts_for(self.generations)
            self._rejected = self.study.rejected
        return self._judged[judge_id]

    def refresh(self) -> None:
        """Clear the cached record and lists of parts: call this after new parts or runs were stored.

        In the working copy of a bucket, what other machines have stored is pulled first.
        """
        pull(self.study.root)
        self._record = None
        self._generations = None
        self._judged.clear()

    def refresh_judgements(self, judge_id: str) -> None:
        """Clear the cached list of a judge's parts: call this after new verdicts were stored."""
        self._judged.pop(judge_id, None)

    def _forget_if_damaged(self) -> None:
        if self._rejected != self.study.rejected:
            self._rejected = self.study.rejected
            self._generations = None
            self._judged.clear()
