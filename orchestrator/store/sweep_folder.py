"""A sweep's folder in a study: its request and runs, and the results that are computed from the study."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from orchestrator.store.files import DamagedFile, publish, publish_json, publish_table, read_json, read_table
from orchestrator.store.study import Study
from orchestrator.sweep.grid import Sweep
from orchestrator.utils.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


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
        return cls(study, study.root / "sweeps" / f"{sweep.name}-{sweep.id[:8]}")

    @classmethod
    def all_of(cls, study: Study) -> list[SweepFolder]:
        """Return the folders of all sweeps of a study, the last used one last."""
        folders = [cls(study, path.parent) for path in (study.root / "sweeps").glob("*/sweep.json")]
        return sorted(folders, key=cls.last_used)

    def last_used(self) -> int:
        """Return when the sweep was last requested or run, in nanoseconds since 1970."""
        paths = (self.path / "sweep.json", *self.path.glob("runs/*.json"))
        return max(path.stat().st_mtime_ns for path in paths)

    # The request and its runs.

    def write_record(self, document: Mapping[str, Any]) -> None:
        """Write sweep.json."""
        publish_json(self.study.out, self.path / "sweep.json", document)

    def read_record(self) -> dict[str, Any]:
        """Return sweep.json with all runs in their order. Empty if there is none that can be read."""
        try:
            record = read_json(self.path / "sweep.json")
        except DamagedFile:
            return {}
        for path in sorted(self.path.glob("runs/*.json")):  # their names begin with the time
            with contextlib.suppress(DamagedFile):
                record.setdefault("runs", []).append(read_json(path))
        return record

    def write_run(self, run: Mapping[str, Any]) -> None:
        """Write the record of a run. Each run has its own file, so that drivers of several parts do not overwrite each
        other's."""
        publish_json(self.study.out, self.path / "runs" / f"{run['run']}.json", run)

    def lease_path(self, part: str | None = None) -> Path:
        """Return the path of the lease on the sweep, or on its part `i/n`."""
        return self.path / (f"lease-{part.replace('/', 'of')}.json" if part else "lease.json")

    def log_path(self, run: str) -> Path:
        """Return the path of the log of what libraries in a run's driver write to its terminal."""
        return self.path / "logs" / f"{run}.log"

    # The weights of model judges.

    def write_judge(self, name: str, document: Mapping[str, Any]) -> None:
        """Record which weights of a model judge have judged the sweep."""
        publish_json(self.study.out, self.path / "judges" / f"{name}.json", document)

    def read_judge(self, name: str) -> dict[str, Any]:
        """Return which weights of a model judge have judged the sweep. Empty if it has not judged the sweep."""
        try:
            return read_json(self.path / "judges" / f"{name}.json")
        except DamagedFile:
            return {}

    # Results.

    def write_landscape(self, table: pa.Table) -> None:
        """Write landscape.parquet."""
        meta = {"schema": "landscape/2", "study_id": self.study.id}
        publish_table(self.study.out, self.path / "landscape.parquet", table, meta)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        publish_json(self.study.out, self.path / "summary.json", summary)

    def read_landscape(self) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Return the stored landscape and summary. Raises UserError if they are not there or cannot be read."""
        try:
            return read_table(self.path / "landscape.parquet").to_pandas(), read_json(self.path / "summary.json")
        except DamagedFile as error:
            remedy = f"has no landscape that can be read ({error}): `reduce` makes it"
            raise UserError("sweep", self.path, remedy) from error

    def write_figure(self, name: str, draw: Callable[[Path], None]) -> Path:
        """Let `draw` write the file of a figure. Returns the figure's path."""
        target = self.path / "figures" / name
        publish(self.study.out, target, draw)
        return target

    def write_report(self, text: str) -> Path:
        """Write report.html. Returns its path."""
        target = self.path / "report.html"
        publish(self.study.out, target, lambda path: path.write_text(text, encoding="utf-8", newline=""))
        return target

    def result_paths(self) -> dict[str, Path]:
        """Return where the results are: folder, figure, landscape, summary and report."""
        return {
            "folder": self.path,
            "figure": self.path / "figures" / "landscape.png",
            "landscape": self.path / "landscape.parquet",
            "summary": self.path / "summary.json",
            "report": self.path / "report.html",
        }
