"""Trackio: the local store of TRACKIO_DIR, or the server or Space of TRACKIO_SERVER_URL or TRACKIO_SPACE_ID."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.tracking.base import PROJECT, TrackedRun, Tracker


class Trackio(Tracker):
    """Writes one run for each sweep, which is found again by its name. The project is TRACKIO_PROJECT."""

    name = "trackio"
    library = "trackio"

    def __init__(self) -> None:
        self._run: Any = None

    def destination(self) -> str:
        """Return the server or folder, and the project."""
        from trackio.utils import TRACKIO_DIR

        place = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL") or TRACKIO_DIR
        return f"{place} {self._project}"

    def check(self) -> None:
        """Do nothing: Trackio keeps what it cannot send, and sends it later by itself."""

    def open(self, run: TrackedRun) -> None:
        """Continue the run with the sweep's name, or begin it."""
        import trackio

        with contextlib.redirect_stdout(sys.stderr):  # it prints, and stdout may be for JSON
            self._run = trackio.init(
                project=self._project,
                name=run.name,
                config=dict(run.settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values."""
        self._run.log(dict(values), step=step)

    def finish(self, step: int, results: Mapping[str, float], files: Mapping[str, Path]) -> None:
        """Send the results as the last step, with the figure as an image, and the files as artifacts."""
        import trackio

        figure = {"landscape": trackio.Image(str(files["figure"]))} if "figure" in files else {}
        self._run.log({**results, **figure}, step=step)
        for key, path in files.items():
            self._run.log_artifact(path, name=f"{self._run.name}-{key}", type="safety-landscape")

    def close(self) -> None:
        """Send what is buffered and end the run."""
        if self._run is not None:
            with contextlib.redirect_stdout(sys.stderr):
                self._run.finish()

    @property
    def _project(self) -> str:
        return os.environ.get("TRACKIO_PROJECT", PROJECT)


TRACKER = Trackio
