"""The metadata of generation and judgement files, held in little memory: a large study has a million tasks."""

from __future__ import annotations

import bisect
import sys
from collections.abc import ItemsView, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TaskKey = tuple[str, str]
"""(point id, prompt set id): the identity of a task."""


class TaskKeys:
    """The task keys of a study, one object per key for all parts: for a million tasks this saves a gigabyte."""

    def __init__(self) -> None:
        self._keys: dict[TaskKey, TaskKey] = {}

    def intern(self, point_id: str, prompt_set_id: str) -> TaskKey:
        """Return the shared key of a task, adding it if it is new."""
        key = (point_id, sys.intern(prompt_set_id))
        return self._keys.setdefault(key, key)

    def get(self, key: TaskKey) -> TaskKey | None:
        """Return the shared key equal to `key`, or None if no part has that task."""
        return self._keys.get(key)


class Hashes(Mapping[TaskKey, str]):
    """An immutable mapping from task keys to hashes.

    The keys are the caller's own objects, so that many of these mappings can share them. The hashes are kept as bytes
    in one array, which takes a third of the memory of a dictionary of strings.
    """

    __slots__ = ("_hashes", "_keys")

    def __init__(self, entries: Sequence[tuple[TaskKey, str]]) -> None:
        ordered = sorted(dict(entries).items())
        self._keys = [key for key, _ in ordered]
        self._hashes = np.array([value for _, value in ordered], dtype=np.bytes_)

    def __getitem__(self, key: TaskKey) -> str:
        index = bisect.bisect_left(self._keys, key)
        if index == len(self._keys) or self._keys[index] != key:
            raise KeyError(key)
        return str(self._hashes[index], "ascii")

    def __iter__(self) -> Iterator[TaskKey]:
        return iter(self._keys)

    def items(self) -> ItemsView[TaskKey, str]:
        """Return the items as a dictionary does: faster than the inherited method, which looks up each key."""
        return dict(zip(self._keys, self._hashes.astype(str).tolist(), strict=True)).items()

    def __len__(self) -> int:
        return len(self._keys)


@dataclass(frozen=True, slots=True)
class Part:
    """A file of generations or judgements, as described by its own metadata.

    Attributes:
        folder: The folder the file is in.
        name: The file's name.
        content: The hash of its rows.
        tasks: For each task in it, the hash of the observed columns.
        judged: For judgements, the hash of the responses that were judged, as in `tasks` of the generations. Empty for
            generations.
        meta: The rest of the metadata.
    """

    folder: Path
    name: str
    content: str
    tasks: Mapping[TaskKey, str]
    judged: Mapping[TaskKey, str]
    meta: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.folder / self.name


TaskParts = Mapping[TaskKey, Part]
"""Maps task keys to the part from which the rows of the task are read."""


def group_by_part(parts: TaskParts) -> list[tuple[Part, list[TaskKey]]]:
    """Group tasks by part: return each part once, with the keys of the tasks that are read from it."""
    gathered: dict[Path, tuple[Part, list[TaskKey]]] = {}
    for key, part in parts.items():
        gathered.setdefault(part.path, (part, []))[1].append(key)
    return list(gathered.values())
