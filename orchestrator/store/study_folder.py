"""The folder of a study: its identity, and what happens to files in it that do not verify."""

from __future__ import annotations

import uuid
from pathlib import Path

from orchestrator.store.files import DamagedFileError, move
from orchestrator.store.part_index import PartIndex
from orchestrator.store.parts import TaskKeys
from orchestrator.utils.names import is_safe_name


class StudyFolder:
    """A study's place on disk, shared by the objects that read and write below it.

    Attributes:
        root: The study's folder.
        id: The study's id.
        moves_damaged: If True, corrupt files are moved to `damaged/` so that they are regenerated. Readers leave them
            in place.
        problems: The reason for each file that did not verify when it was read, by path.
        rejected: The number of files rejected so far. Unlike `problems` it is never reset: a cached result is out of
            date if the number has changed.
        task_keys: The key objects of tasks, shared by all parts of the study to save memory.
        indexes: The parts that were read so far, by folder, for a process that reads the study again and again. None:
            each scan reads all parts.
    """

    def __init__(self, root: Path, study_id: str, moves_damaged: bool = False) -> None:
        self.root = root
        self.id = study_id
        self.moves_damaged = moves_damaged
        self.problems: dict[Path, str] = {}
        self.rejected = 0
        self.task_keys = TaskKeys()
        self.indexes: dict[Path, PartIndex] | None = None

    @property
    def out(self) -> Path:
        """The root of studies, in which this study lies."""
        return self.root.parent

    def path(self, *names: str) -> Path:
        """Return the path of a file or folder of the study. Raises DamagedFileError if a name would leave its folder.

        Args:
            names: The folders below the study, and the file in them. They may come from stored documents.
        """
        for name in names:
            if not is_safe_name(name):
                raise DamagedFileError(f"{self.root}: {name!r} cannot be the name of a file")
        return self.root.joinpath(*names)

    def part_index(self, folder: Path) -> PartIndex | None:
        """Return the index of a folder of parts. None if the study keeps none."""
        if self.indexes is None:
            return None
        return self.indexes.setdefault(folder, PartIndex(folder))

    def reject(self, path: Path, why: object) -> None:
        """Record in `problems` that a file does not verify. If `moves_damaged`, also move it to `damaged/`."""
        if path not in self.problems:
            self.rejected += 1
        self.problems[path] = str(why)
        if self.moves_damaged:
            self.move_to_damaged(path)

    def move_to_damaged(self, path: Path) -> Path | None:
        """Move a file to `damaged/`, overwriting nothing. Returns its new path, or None if it cannot be moved."""
        target = self.root / "damaged" / path.relative_to(self.root)
        if target.exists():
            target = target.with_name(f"{target.stem}-{uuid.uuid4().hex[:8]}{target.suffix}")
        try:
            return target if move(self.out, path, target) else None
        except OSError:
            return None  # the file is gone, or the disk is read-only: it is ignored either way

    def damaged(self) -> list[Path]:
        """Return the files in `damaged/`."""
        return sorted(path for path in (self.root / "damaged").rglob("*") if path.is_file())
