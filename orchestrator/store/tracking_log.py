"""Records of what experiment trackers have received of a sweep: one file of JSON lines for each tracker.

This cannot be derived from the rows, because it is about another program. If a line is lost, the values are sent again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.utils.hashing import text_id
from orchestrator.utils.json_lines import read_lines
from orchestrator.utils.private import open_to_append

TRACKING = "tracking"
"""The folder of experiment trackers in a sweep's folder."""

_TYPES: dict[str, type] = {"to": str, "point_id": str, "results": str, "values": list}


class TrackingLog:
    """The log of one tracker and one destination.

    Args:
        path: The file, `tracking/TRACKER.jsonl` in the sweep's folder. It need not exist.
        destination: Where the tracker sends to. Only its hash is stored, because it may contain a password.
    """

    def __init__(self, path: Path, destination: str) -> None:
        self._path, self._to = path, text_id(destination)
        self._points: dict[str, set[str]] = {}
        self._results: str | None = None
        for line in self._read():
            if "point_id" in line:
                self._points.setdefault(line["point_id"], set()).update(map(str, line.get("values", ())))
            self._results = line.get("results", self._results)

    def missing(self, point_id: str, names: Iterable[str]) -> list[str]:
        """Return those of the named values of a point that were not sent."""
        return [name for name in names if name not in self._points.get(point_id, ())]

    def step(self, point_id: str) -> int:
        """Return the number of a point in the order of sending, from 0. A new point gets the next one."""
        points = list(self._points)
        return points.index(point_id) if point_id in self._points else len(points)

    @property
    def points(self) -> int:
        """Number of points of which anything was sent."""
        return len(self._points)

    @property
    def results(self) -> str | None:
        """The hash of the results that were sent last. None if none were."""
        return self._results

    def add_point(self, point_id: str, names: Iterable[str]) -> None:
        """Record that values of a point were sent."""
        sent = list(names)
        self._points.setdefault(point_id, set()).update(sent)
        self._append({"point_id": point_id, "values": sent})

    def add_results(self, results: str) -> None:
        """Record that results with this hash were sent."""
        self._results = results
        self._append({"results": results})

    def _append(self, fields: dict[str, Any]) -> None:
        line = json.dumps({"to": self._to, **fields}) + "\n"
        with contextlib.suppress(OSError), open_to_append(self._path) as file:  # on a full disk it is sent again
            file.write(line.encode())

    def _read(self) -> Iterator[dict[str, Any]]:
        """Yield the lines about this destination, without those that a crash cut short."""
        with contextlib.suppress(OSError):
            yield from (fields for fields in read_lines(self._path, _TYPES) if fields.get("to") == self._to)
