"""The measured scalars of directions, stored once and named by content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.store.files import DamagedFileError, MissingFileError, publish_table, read_meta, read_table
from orchestrator.store.study_folder import StudyFolder


class Directions:
    """The directions stored in a study. Only the scalars that scale a direction are stored, never the direction."""

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder

    def read(self, direction_id: str) -> pa.Table | None:
        """Return the stored scalars of a direction, or None if there are none that verify for this model.

        Tables of the schema direction/1 lack the column `shape`.
        """
        path = self._path(direction_id)
        try:
            if read_meta(path).get("study_id") != self._folder.id:
                raise DamagedFileError(f"{path}: belongs to another study")
            return read_table(path)
        except MissingFileError:
            return None
        except DamagedFileError as error:
            self._folder.reject(path, error)
            return None

    def write(self, direction_id: str, description: Mapping[str, Any], scalars: pa.Table) -> None:
        """Store the scalars of a direction, with the direction's JSON description in the metadata."""
        meta = {"schema": "direction/2", "study_id": self._folder.id, "direction": dict(description)}
        publish_table(self._folder.out, self._path(direction_id), scalars, meta)

    def _path(self, direction_id: str) -> Path:
        return self._folder.path("directions", f"{direction_id}.parquet")
