"""TensorBoard: event files in the sweep's own folder, written without torch or TensorFlow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.tracking.base import TrackedRun, Tracker


class TensorBoard(Tracker):
    """Writes `tracking/tensorboard/` in the sweep's folder; TensorBoard shows all its files as one run."""

    name = "tensorboard"
    library = "tensorboard"

    def __init__(self) -> None:
        self._writer: Any = None

    def destination(self) -> str:
        """Return a constant: the files are in the sweep's folder."""
        return "folder"

    def check(self) -> None:
        """Do nothing: files need no credentials."""

    def open(self, run: TrackedRun) -> None:
        """Begin another event file."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(run.folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars."""
        self._write(step, [{"tag": tag, "simple_value": value} for tag, value in values.items()])

    def finish(self, step: int, results: Mapping[str, float], files: Mapping[str, Path]) -> None:
        """Write the results as scalars and the figure as an image. TensorBoard takes no other files."""
        self.log(step, results)
        if "figure" in files:
            from matplotlib.image import imread

            height, width = imread(files["figure"]).shape[:2]
            image = {"height": height, "width": width, "colorspace": 4}
            encoded = files["figure"].read_bytes()
            self._write(step, [{"tag": "landscape", "image": {**image, "encoded_image_string": encoded}}])

    def close(self) -> None:
        """Write what is buffered."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, step: int, values: list[dict[str, Any]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))


TRACKER = TensorBoard
